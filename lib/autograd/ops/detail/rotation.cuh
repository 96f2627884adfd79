// RoPE's rotation of one pair on the device (the formulas are in rope.h). Internal: only .cu files include it.
//
// cos and sin hold the scale A already; for a gradient, sin has the opposite sign. All kernels that turn, on their own
// or within another op, take these two, so that their bits are the same.
#pragma once
#include "tensor/launch.cuh"

namespace rw::cuda {

__device__ __forceinline__ float turned_first(float a, float b, float cos, float sin) { return a * cos - b * sin; }
__device__ __forceinline__ float turned_second(float a, float b, float cos, float sin) { return b * cos + a * sin; }

}  // namespace rw::cuda
