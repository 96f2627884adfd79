// CPU matrix products: C is cut into one block per thread (gemm_block.cpp multiplies a block).
#include "tensor/gemm.h"

#include "tensor/cpu_levels.h"
#include "tensor/cuda.h"
#include "tensor/dot.h"
#include "tensor/gemm_block.h"
#include "tensor/parallel_for.h"
#include "tensor/row_dots.h"

namespace rw {
namespace {

/// The fastest products that this CPU can run.
const cpu::GemmKernels& gemm_kernels() {
#ifdef ROPEWALK_CPU_LEVELS
  if (__builtin_cpu_supports("x86-64-v4")) return cpu::v4::gemm_kernels;
  if (__builtin_cpu_supports("x86-64-v3")) return cpu::v3::gemm_kernels;
#endif
  return cpu::build::gemm_kernels;
}

const cpu::GemmKernel<float>& gemm_kernel(float) { return gemm_kernels().f32; }
const cpu::GemmKernel<double>& gemm_kernel(double) { return gemm_kernels().f64; }

// C is cut at multiples of the kernel's tiles, and the last block has the remainder that all of C has: so the bits do
// not depend on the number of blocks.
int64_t whole_tiles(int64_t size, int64_t tile) { return std::max<int64_t>(size / tile, 1); }

/// Where part `part` of `parts` begins in [0, size). The last has a whole tile at least, and the fewest besides.
int64_t cut(int64_t size, int64_t tile, int64_t part, int64_t parts) {
  const int64_t tiles = whole_tiles(size, tile);
  return part == parts ? size : std::min((tiles * part + parts - 1) / parts, tiles - 1) * tile;
}

/// Splits threads into rows x columns so that the largest block costs least.
template <class T>
void split(const cpu::GemmKernel<T>& kernel, int64_t m, int64_t n, int threads, int64_t& rows, int64_t& columns) {
  const auto largest = [](int64_t size, int64_t tile, int64_t parts) {
    return static_cast<double>((whole_tiles(size, tile) + parts - 1) / parts * tile);
  };
  double best = 1e300;
  for (int r = 1; r <= threads; ++r) {
    if (threads % r) continue;
    const double height = largest(m, kernel.height, r), width = largest(n, kernel.width, threads / r);
    const double cost = height * width + 8 * (height + width);  // products, and what a thread packs and reads
    if (cost < best) {
      best = cost;
      rows = r;
      columns = threads / r;
    }
  }
}

/// Part [i, i_end) x [j, j_end) of C.
template <class T>
cpu::Product<T> part_of(const cpu::Product<T>& p, int64_t i, int64_t i_end, int64_t j, int64_t j_end) {
  cpu::Product<T> part = p;
  part.m = i_end - i;
  part.n = j_end - j;
  part.a.data += p.a.trans == Trans::no ? i * p.a.stride : i;
  part.b.data += p.b.trans == Trans::no ? j : j * p.b.stride;
  part.c += i * p.c_stride + j;
  return part;
}

template <class T>
void parallel_gemm(const cpu::Product<T>& p) {
  if (p.m == 0 || p.n == 0) return;
  const double work = static_cast<double>(p.m) * static_cast<double>(p.n) * static_cast<double>(p.k);
  const int threads = detail::in_parallel() || work < 64e3 ? 1 : thread_count();
  int64_t rows = 1, columns = 1;
  const cpu::GemmKernel<T>& kernel = gemm_kernel(T());
  split(kernel, p.m, p.n, threads, rows, columns);
  parallel_items(rows * columns, [&](int64_t part) {
    const int64_t r = part / columns, q = part % columns;
    const int64_t i = cut(p.m, kernel.height, r, rows), i_end = cut(p.m, kernel.height, r + 1, rows);
    const int64_t j = cut(p.n, kernel.width, q, columns), j_end = cut(p.n, kernel.width, q + 1, columns);
    if (i == i_end || j == j_end) return;
    kernel.multiply(part_of(p, i, i_end, j, j_end));
  });
}

/// f(begin, end) for parts of n rows of k numbers. Row after row: one linear stream, which the hardware prefetches.
template <class F>
void parallel_rows(int64_t n, int64_t k, const F& f) {
  const int64_t grain =
      std::max<int64_t>(8, (1 << 14) / std::max<int64_t>(k, 1));  // 64 KiB of f32 for each thread at least
  parallel_for(n, grain, f);
}

}  // namespace

namespace cpu {

void gemm(const Product<float>& product) { parallel_gemm(product); }
void gemm(const Product<double>& product) { parallel_gemm(product); }
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
