// A matrix product on pointers: what cpu::gemm computes.
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

/// C [m,n] = alpha op(A) op(B) + beta C, row-major; op(A) is [m,k], op(B) is [k,n]. With beta = 0, C is not read.
template <class T>
struct Product {
  int64_t m, n, k;
  Factor<T> a, b;
  T* c;
  int64_t c_stride;
  T alpha = T(1), beta = T(0);
};

}  // namespace cpu
}  // namespace rw
