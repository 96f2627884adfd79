// Additions in no fixed order, for the kernels that Tape::set_fast_atomics allows them.
#pragma once
#include "tensor/launch.cuh"

namespace rw::cuda {

/// to[0 .. N) += x, each element on its own as far as other threads can tell. `to` lies in device memory, aligned to N
/// floats or to 16 bytes if those are fewer. Nothing is read back, so the L2 cache does the adding; from sm_90 on it
/// takes up to four floats at a time.
template <int N>
__device__ __forceinline__ void atomic_add(float* to, const Vec<float, N>& x) {
#if defined(__CUDA_ARCH__) && __CUDA_ARCH__ >= 900
  constexpr int kAtOnce = N % 4 == 0 ? 4 : N % 2 == 0 ? 2 : 1;
#else
  constexpr int kAtOnce = 1;
#endif
#pragma unroll
  for (int i = 0; i < N; i += kAtOnce) {
    if constexpr (kAtOnce == 4) {
      atomicAdd(reinterpret_cast<float4*>(to + i), make_float4(x.at[i], x.at[i + 1], x.at[i + 2], x.at[i + 3]));
    } else if constexpr (kAtOnce == 2) {
      atomicAdd(reinterpret_cast<float2*>(to + i), make_float2(x.at[i], x.at[i + 1]));
    } else {
      atomicAdd(to + i, x.at[i]);
    }
  }
}

}  // namespace rw::cuda
