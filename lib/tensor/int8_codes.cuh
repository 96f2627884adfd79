// Internal: int8 codes of blocks (tensor/block_quantize.h) as numbers, in registers.
#pragma once
#include "tensor/launch.cuh"

namespace rw::cuda {

inline constexpr int kInt8Block = 64;  // kBlockLength, codes that share a scale

/// Eight codes as they lie in memory.
struct EightCodes {
  uint32_t words[2];
  /// Code i as a number. A byte in the lowest place of 2^23's mantissa makes 2^23 + byte, so one permutation and one
  /// subtraction do what a conversion, of which a multiprocessor starts a quarter as many, would.
  __device__ __forceinline__ float operator[](int i) const {
    const uint32_t shifted = words[i / 4] ^ 0x80808080u;  // code + 128
    return __uint_as_float(__byte_perm(shifted, 0x4b000000u, 0x7440u | static_cast<unsigned>(i % 4))) - 8388736.f;
  }
};

}  // namespace rw::cuda
