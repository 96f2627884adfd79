// CPU matrix products: C is cut into one block per thread (gemm_block.cpp multiplies a block).
#include "tensor/gemm.h"

#include "tensor/cpu_levels.h"
#include "tensor/cuda.h"
#include "tensor/dot.h"
#include "tensor/gemm_block.h"
#include "tensor/parallel_for.h"

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

template <class T>
void parallel_gemm(Trans ta, Trans tb, int64_t m, int64_t n, int64_t k, T alpha, const T* a, int64_t lda, const T* b,
                   int64_t ldb, T beta, T* c, int64_t ldc) {
  if (m == 0 || n == 0) return;
  const double work = static_cast<double>(m) * static_cast<double>(n) * static_cast<double>(k);
  const int threads = detail::in_parallel() || work < 64e3 ? 1 : thread_count();
  int64_t rows = 1, columns = 1;
  const cpu::GemmKernel<T>& kernel = gemm_kernel(T());
  split(kernel, m, n, threads, rows, columns);
  parallel_items(rows * columns, [&](int64_t part) {
    const int64_t r = part / columns, q = part % columns;
    const int64_t i = cut(m, kernel.height, r, rows), i_end = cut(m, kernel.height, r + 1, rows);
    const int64_t j = cut(n, kernel.width, q, columns), j_end = cut(n, kernel.width, q + 1, columns);
    if (i == i_end || j == j_end) return;
    kernel.multiply(ta == Trans::yes, tb == Trans::yes, i_end - i, j_end - j, k, alpha,
                    a + (ta == Trans::no ? i * lda : i), lda, b + (tb == Trans::no ? j : j * ldb), ldb, beta,
                    c + i * ldc + j, ldc);
  });
}

template <class W, class T>
void parallel_matvec(int64_t n, int64_t k, const W* w, const T* x, T* y) {
  const int64_t grain =
      std::max<int64_t>(8, (1 << 14) / std::max<int64_t>(k, 1));  // 64 KiB of f32 for each thread at least
  parallel_for(n, grain, [&](int64_t begin, int64_t end) RW_CPU_LEVELS {
    // Row after row: one linear stream, which the hardware prefetches.
    for (int64_t row = begin; row < end; ++row) y[row] = dot(w + row * k, x, k);
  });
}

}  // namespace

namespace cpu {

void gemm(Trans ta, Trans tb, int64_t m, int64_t n, int64_t k, float alpha, const float* a, int64_t lda, const float* b,
          int64_t ldb, float beta, float* c, int64_t ldc) {
  parallel_gemm(ta, tb, m, n, k, alpha, a, lda, b, ldb, beta, c, ldc);
}
void gemm(Trans ta, Trans tb, int64_t m, int64_t n, int64_t k, double alpha, const double* a, int64_t lda,
          const double* b, int64_t ldb, double beta, double* c, int64_t ldc) {
  parallel_gemm(ta, tb, m, n, k, alpha, a, lda, b, ldb, beta, c, ldc);
}
void matvec(int64_t n, int64_t k, const float* w, const float* x, float* y) { parallel_matvec(n, k, w, x, y); }
void matvec(int64_t n, int64_t k, const bf16* w, const float* x, float* y) { parallel_matvec(n, k, w, x, y); }
void matvec(int64_t n, int64_t k, const double* w, const double* x, double* y) { parallel_matvec(n, k, w, x, y); }

}  // namespace cpu

void gemm(const Tensor& a, Trans ta, const Tensor& b, Trans tb, const Tensor& c, double alpha, double beta) {
  check(a.rank() == 2 && b.rank() == 2 && c.rank() == 2, "gemm", "expected matrices, got ", a.shape(), ", ", b.shape(),
        ", ", c.shape());
  const int64_t m = a.size(ta == Trans::no ? 0 : 1), k = a.size(ta == Trans::no ? 1 : 0);
  const int64_t n = b.size(tb == Trans::no ? 1 : 0), kb = b.size(tb == Trans::no ? 0 : 1);
  check(k == kb, "gemm", "inner sizes differ: op(A) is [", m, ", ", k, "], op(B) is [", kb, ", ", n, "]");
  check_shape("gemm", "C", c, {m, n});
  check_same("gemm", "A", a, "B", b);
  check(c.device() == a.device(), "gemm", "C is on ", c.device(), ", A on ", a.device());
  check(c.dtype() == a.dtype() || (a.dtype() == DType::bf16 && c.dtype() == DType::f32), "gemm", "C has dtype ",
        c.dtype(), ", A ", a.dtype());
  if (m == 0 || n == 0) return;
  if (a.is_cuda()) {
    return cuda::gemm(ta == Trans::yes, tb == Trans::yes, m, n, k, alpha, a.raw(), b.raw(), a.dtype(), beta, c.raw(),
                      c.dtype());
  }
  if (a.dtype() == DType::bf16) {  // bf16 on the CPU computes in f32
    const Tensor a32 = a.to(DType::f32), b32 = b.to(DType::f32), c32 = c.to(DType::f32);
    gemm(a32, ta, b32, tb, c32, alpha, beta);
    if (c.dtype() == DType::bf16) c.copy_from(c32);
    return;
  }
  dispatch_float(a.dtype(), "gemm", [&](auto zero) {
    using T = decltype(zero);
    if constexpr (!std::is_same_v<T, bf16>) {
      if (m == 1 && ta == Trans::no && tb == Trans::yes && alpha == 1 && beta == 0) {  // decoding: bound by reading B
        return cpu::matvec(n, k, b.data<T>(), a.data<T>(), c.data<T>());
      }
      cpu::gemm(ta, tb, m, n, k, static_cast<T>(alpha), a.data<T>(), a.size(1), b.data<T>(), b.size(1),
                static_cast<T>(beta), c.data<T>(), n);
    }
  });
}

}  // namespace rw
