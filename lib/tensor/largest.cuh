// The largest |x| of what a kernel writes, found on the way (tensor/quantize.h): it spares an 8-bit product the read of
// absolute_max(). Only .cu files include it.
#pragma once
#include "tensor/launch.cuh"
#include "tensor/quantize.h"

namespace rw::cuda {

/// What a thread has seen so far.
struct Largest {
  float value = 0;

  template <class T, int N>
  __device__ __forceinline__ void see(const Vec<T, N>& x) {
#pragma unroll
    for (int i = 0; i < N; ++i) value = fmaxf(value, fabsf(to_float(x.at[i])));  // fmaxf leaves NaN out
  }
  template <class T>
  __device__ __forceinline__ void see(const Eight<T>& x) {
#pragma unroll
    for (int i = 0; i < 8; ++i) value = fmaxf(value, fabsf(x[i]));
  }
  /// Joins it to one of the kMaximumParts parts, which were zero before the kernel. A maximum does not depend on the
  /// order, so it repeats bit for bit. To be called by all threads of a warp that are still at work.
  __device__ __forceinline__ void join(float* parts) const {
    const unsigned lanes = __activemask();
    const unsigned bits = __reduce_max_sync(lanes, __float_as_uint(value));  // of numbers >= 0: the same order
    if (threadIdx.x % kWarp == __ffs(static_cast<int>(lanes)) - 1) {
      atomicMax(reinterpret_cast<unsigned*>(parts) + blockIdx.x % kMaximumParts, bits);
    }
  }
};

/// absolute_max(x) for kernels that could not find it.
inline void find_largest(const Tensor& x, const Tensor& largest) {
  if (largest.defined()) absolute_max(x, largest);
}

}  // namespace rw::cuda
