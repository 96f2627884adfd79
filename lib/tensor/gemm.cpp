// Matrix products of tensors, and on the CPU of a matrix with one row (gemm_packed.cpp has the others).
#include "tensor/gemm.h"

#include "tensor/cpu_levels.h"
#include "tensor/cuda.h"
#include "tensor/dot.h"
#include "tensor/parallel_for.h"
#include "tensor/row_dots.h"

namespace rw {
namespace {

/// f(begin, end) for parts of n rows of k numbers. Row after row: one linear stream, which the hardware prefetches.
template <class F>
void parallel_rows(int64_t n, int64_t k, const F& f) {
  const int64_t grain =
      std::max<int64_t>(8, (1 << 14) / std::max<int64_t>(k, 1));  // 64 KiB of f32 for each thread at least
  parallel_for(n, grain, f);
}

}  // namespace

namespace cpu {

void matvec(int64_t n, int64_t k, const float* w, const float* x, float* y) {
  parallel_rows(n, k, [&](int64_t begin, int64_t end) {
    row_dots().f32(w + begin * k, k, end - begin, {x, 0, 1}, y + begin);
  });
}
void matvec(int64_t n, int64_t k, const bf16* w, const float* x, float* y) {
  parallel_rows(n, k, [&](int64_t begin, int64_t end) {
    row_dots().bf16(&w[begin * k].bits, k, end - begin, {x, 0, 1}, y + begin);
  });
}
void matvec(int64_t n, int64_t k, const double* w, const double* x, double* y) {
  parallel_rows(n, k, [&](int64_t begin, int64_t end) RW_CPU_LEVELS {
    for (int64_t row = begin; row < end; ++row) y[row] = dot(w + row * k, x, k);
  });
}

}  // namespace cpu

namespace {

bool is_8_bit(DType t) { return t == DType::e4m3 || t == DType::e5m2; }

/// Errors: dtypes, scales or transpositions that do not go together.
void check_dtypes(const Operand& a, const Operand& b, const Tensor& c) {
  const DType dtype = a.tensor.dtype();
  if (is_8_bit(dtype) || is_8_bit(b.tensor.dtype())) {
    check(is_8_bit(dtype) && is_8_bit(b.tensor.dtype()), "gemm", "A has dtype ", dtype, ", B ", b.tensor.dtype());
    check(a.trans == Trans::no && b.trans == Trans::yes, "gemm", "8-bit factors are stored [M, K] and [N, K]");
    check(a.columns() % 16 == 0 && b.columns() % 16 == 0, "gemm", "8-bit factors need K and N in multiples of 16, got ",
          a.columns(), " and ", b.columns());
    check(a.scale.defined() && b.scale.defined(), "gemm", "8-bit factors need a scale each");
    check_shape("gemm", "A's scale", a.scale, {1});
    check_shape("gemm", "B's scale", b.scale, {1});
    check(c.dtype() == DType::bf16 || c.dtype() == DType::f32, "gemm", "C has dtype ", c.dtype(), ", A ", dtype);
    return;
  }
  check(!a.scale.defined() && !b.scale.defined(), "gemm", "only 8-bit factors have a scale, A is ", dtype);
  check_same("gemm", "A", a.tensor, "B", b.tensor);
  check(c.dtype() == dtype || (dtype == DType::bf16 && c.dtype() == DType::f32), "gemm", "C has dtype ", c.dtype(),
        ", A ", dtype);
}

/// c [M,N] += bias [N]
void add_bias(const Tensor& c, const Tensor& bias) {
  const int64_t m = c.size(0), n = c.size(1);
  dispatch_float(c.dtype(), "gemm", [&](auto zero) {
    using T = decltype(zero);
    T* const p = c.data<T>();
    const T* const b = bias.data<T>();
    parallel_for(m, std::max<int64_t>(1, (1 << 14) / n), [=](int64_t begin, int64_t end) {
      for (int64_t i = begin; i < end; ++i) {
        for (int64_t j = 0; j < n; ++j) {
          p[i * n + j] = static_cast<T>(static_cast<Acc<T>>(p[i * n + j]) + static_cast<Acc<T>>(b[j]));
        }
      }
    });
  });
}

/// What narrow factors stand for, in f32: the specification of the GPU's products.
Operand widened(const Operand& x) {
  Tensor wide = x.tensor.to(DType::f32);
  if (x.scale.defined()) {
    const float scale = x.scale.data<float>()[0];
    for (int64_t i = 0; i < wide.numel(); ++i) wide.data<float>()[i] *= scale;
  }
  return {wide, x.trans};
}

template <class T>
void gemm_on_cpu(const Operand& a, const Operand& b, const Tensor& c, const GemmOptions& o) {
  const int64_t m = a.rows(), n = b.columns(), k = a.columns();
  const bool one_row = m == 1 && a.trans == Trans::no && b.trans == Trans::yes && o.alpha == 1 && o.beta == 0;
  if (one_row) return cpu::matvec(n, k, b.tensor.data<T>(), a.tensor.data<T>(), c.data<T>());  // bound by reading B
  cpu::gemm(cpu::Product<T>{.m = m,
                            .n = n,
                            .k = k,
                            .a = {a.tensor.data<T>(), a.tensor.size(1), a.trans},
                            .b = {b.tensor.data<T>(), b.tensor.size(1), b.trans},
                            .c = c.data<T>(),
                            .c_stride = n,
                            .alpha = static_cast<T>(o.alpha),
                            .beta = static_cast<T>(o.beta)});
}

}  // namespace

void gemm(const Operand& a, const Operand& b, const Tensor& c, const GemmOptions& options) {
  check(a.tensor.rank() == 2 && b.tensor.rank() == 2 && c.rank() == 2, "gemm", "expected matrices, got ",
        a.tensor.shape(), ", ", b.tensor.shape(), ", ", c.shape());
  const int64_t m = a.rows(), n = b.columns();
  check(a.columns() == b.rows(), "gemm", "inner sizes differ: op(A) is [", m, ", ", a.columns(), "], op(B) is [",
        b.rows(), ", ", n, "]");
  check_shape("gemm", "C", c, {m, n});
  check(b.tensor.device() == a.tensor.device() && c.device() == a.tensor.device(), "gemm", "A is on ",
        a.tensor.device(), ", B on ", b.tensor.device(), ", C on ", c.device());
  check_dtypes(a, b, c);
  if (options.bias.defined()) {
    check_shape("gemm", "bias", options.bias, {n});
    check_same("gemm", "bias", options.bias, "C", c);
  }
  if (m == 0 || n == 0) return;
  if (c.is_cuda()) return cuda::gemm(a, b, c, options);
  const DType dtype = a.tensor.dtype();
  if (dtype == DType::f64) {
    gemm_on_cpu<double>(a, b, c, options);
  } else if (dtype == DType::f32) {
    gemm_on_cpu<float>(a, b, c, options);
  } else {  // narrower ones compute in f32
    const Tensor c32 = c.to(DType::f32);
    gemm_on_cpu<float>(widened(a), widened(b), c32, options);
    if (options.bias.defined()) add_bias(c32, options.bias.to(DType::f32));
    if (c.dtype() == DType::bf16) c.copy_from(c32);
    return;
  }
  if (options.bias.defined()) add_bias(c, options.bias);
}

}  // namespace rw
