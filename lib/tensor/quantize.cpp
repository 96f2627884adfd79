// 8-bit copies on the CPU, which are the specification of the GPU's, and the choice between the two.
#include "tensor/quantize.h"

#include <cmath>

#include "tensor/parallel_for.h"

namespace rw {
namespace {

constexpr int64_t kPart = 1 << 16;  // elements whose maximum is one part

template <class T>
void maxima(const T* x, int64_t n, float* largest) {
  parallel_items((n + kPart - 1) / kPart, [=](int64_t part) {
    float most = 0;
    for (int64_t i = part * kPart; i < std::min(n, (part + 1) * kPart); ++i) {
      most = std::fmax(most, std::fabs(static_cast<float>(x[i])));  // fmax leaves NaN out
    }
    largest[part] = most;
  });
}

template <class F8, class T>
void copy_rows(const T* x, int64_t n, float factor, F8* to) {
  parallel_for(n, kPart, [=](int64_t begin, int64_t end) {
    for (int64_t i = begin; i < end; ++i) to[i] = F8(static_cast<float>(x[i]) * factor);
  });
}

template <class F8>
void transpose(const F8* from, int64_t rows, int64_t columns, F8* to) {
  parallel_for(columns, 16, [=](int64_t begin, int64_t end) {
    for (int64_t c = begin; c < end; ++c) {
      for (int64_t r = 0; r < rows; ++r) to[c * rows + r] = from[r * columns + c];
    }
  });
}

template <class F8>
void quantize_cpu(const Tensor& x, const Tensor& largest, Quantized& out) {
  float most = 0;
  for (int64_t i = 0; i < largest.numel(); ++i) most = std::max(most, largest.data<float>()[i]);
  const float factor = F8::kLargest / std::max(most, 1e-12f);
  out.scale.data<float>()[0] = 1.f / factor;
  const Tensor rows = out.rows.defined() ? out.rows : Tensor::empty(x.shape(), DTypeOf<F8>::value);
  if (x.dtype() == DType::bf16) {
    copy_rows(x.data<bf16>(), x.numel(), factor, rows.data<F8>());
  } else {
    copy_rows(x.data<float>(), x.numel(), factor, rows.data<F8>());
  }
  if (out.columns.defined()) transpose(rows.data<F8>(), x.size(0), x.size(1), out.columns.data<F8>());
}

void check_source(const char* op, const Tensor& x) {
  check(x.defined() && (x.dtype() == DType::bf16 || (x.dtype() == DType::f32 && !x.is_cuda())), op,
        "x must be f32 or bf16, on a GPU bf16, got ", x.dtype());
}

}  // namespace

Tensor absolute_max(const Tensor& x) {
  check_source("absolute_max", x);
  const int64_t parts = std::max<int64_t>(1, (x.numel() + kPart - 1) / kPart);
  const Tensor largest = Tensor::empty({x.is_cuda() ? cuda::kMaximumParts : parts}, DType::f32, x.device());
  if (x.is_cuda()) {
    cuda::absolute_max(x, largest);
  } else if (x.numel() == 0) {
    largest.zero();
  } else if (x.dtype() == DType::bf16) {
    maxima(x.data<bf16>(), x.numel(), largest.data<float>());
  } else {
    maxima(x.data<float>(), x.numel(), largest.data<float>());
  }
  return largest;
}

Quantized quantize(const Tensor& x, const Tensor& largest, DType dtype, Copies copies) {
  check_source("quantize", x);
  check(x.rank() == 2, "quantize", "x must be a matrix, got ", x.shape());
  check(dtype == DType::e4m3 || dtype == DType::e5m2, "quantize", "expected e4m3 or e5m2, got ", dtype);
  check(largest.defined() && largest.dtype() == DType::f32 && largest.device() == x.device() && largest.numel() > 0,
        "quantize", "largest must be f32 [P] on ", x.device());
  const int64_t rows = x.size(0), columns = x.size(1);
  Quantized out;
  if (copies != Copies::columns) out.rows = Tensor::empty({rows, columns}, dtype, x.device());
  if (copies != Copies::rows) out.columns = Tensor::empty({columns, rows}, dtype, x.device());
  out.scale = Tensor::empty({1}, DType::f32, x.device());
  if (x.is_cuda()) {
    check(rows % 16 == 0 && columns % 16 == 0, "quantize", "sizes must be multiples of 16, got ", x.shape());
    cuda::quantize(x, largest, dtype, out);
  } else if (dtype == DType::e4m3) {
    quantize_cpu<e4m3>(x, largest, out);
  } else {
    quantize_cpu<e5m2>(x, largest, out);
  }
  return out;
}

}  // namespace rw
