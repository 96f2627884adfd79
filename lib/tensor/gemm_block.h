// Matrix products on one thread, by Eigen.
#pragma once
#include <cstdint>

namespace rw {

enum class Trans : bool { no, yes };

namespace cpu {

/// A factor in memory, row-major: a row of the stored matrix begins `stride` elements behind the one before.
template <class T>
struct Factor {
  const T* data;
  int64_t stride;
  Trans trans = Trans::no;
};

/// C [m,n] = alpha op(A) op(B) + beta C, row-major; op(A) is [m,k], op(B) is [k,n].
template <class T>
struct Product {
  int64_t m, n, k;
  Factor<T> a, b;
  T* c;
  int64_t c_stride;
  T alpha = T(1), beta = T(0);
};

/// A product, and the rows and columns of the tiles of C that it works in. How an element is added up depends on
/// whether it lies in a whole tile or in the remainder.
template <class T>
struct GemmKernel {
  void (*multiply)(const Product<T>& product);
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

}  // namespace cpu
}  // namespace rw
