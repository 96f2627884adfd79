// SiLU's gate on the device: silu(gate) * up, and its gradient. Internal: only .cu files include it.
#pragma once
#include "tensor/launch.cuh"

namespace rw::cuda {

template <class T>
struct Silu {
  /// e^-x overflows to infinity for very negative x, and then s = 0, as it should be. bf16 results need no more than
  /// the fast exponential and reciprocal (2 ulp of f32); f32 results get the exact ones.
  __device__ __forceinline__ static float sigmoid(float x) {
    if constexpr (std::is_same_v<T, b16>) {
      // Flushing to zero changes no sigmoid of a bf16 number, and takes half the instructions of __expf and __fdividef.
      float s;
      asm("rcp.approx.ftz.f32 %0, %1;" : "=f"(s) : "f"(1.f + exp2_fast(x * -1.4426950408889634f)));
      return s;
    } else {
      return 1.f / (1.f + expf(-x));
    }
  }
  __device__ __forceinline__ static float value(float gate, float up) { return gate * sigmoid(gate) * up; }
  __device__ __forceinline__ static void gradient(float gate, float up, float dy, float& dgate, float& dup) {
    const float s = sigmoid(gate);
    dgate = dy * up * s * (1.f + gate * (1.f - s));
    dup = dy * gate * s;
  }
};

}  // namespace rw::cuda
