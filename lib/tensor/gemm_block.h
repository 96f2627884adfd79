// Internal: matrix products on one thread, by Eigen.
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

struct GemmKernels {
  GemmKernel<float> f32;
  GemmKernel<double> f64;
};

// As compiled with the build's flags, and with ROPEWALK_CPU_LEVELS for x86-64-v3 and v4.
namespace build {
extern const GemmKernels gemm_kernels;
}
namespace v3 {
extern const GemmKernels gemm_kernels;
}
namespace v4 {
extern const GemmKernels gemm_kernels;
}

}  // namespace rw::cpu
