// Matrix products on one thread, by Eigen, for the level of x86-64 that this CPU has.
#pragma once
#include <cstdint>

namespace rw::cpu {

/// C [m,n] = alpha op(A) op(B) + beta C, row-major, with leading dimensions; ta, tb: A or B is stored transposed.
template <class T>
using GemmBlock = void (*)(bool ta, bool tb, int64_t m, int64_t n, int64_t k, T alpha, const T* a, int64_t lda,
                           const T* b, int64_t ldb, T beta, T* c, int64_t ldc);

/// A product and the tiles of C, in rows and columns, that it works in: how an element is added up depends on whether
/// it lies in a whole tile or in the remainder.
template <class T>
struct GemmKernel {
  GemmBlock<T> multiply;
  int64_t height, width;
};

/// The fastest one that this CPU can run. T: float or double.
template <class T>
const GemmKernel<T>& gemm_kernel();

}  // namespace rw::cpu
