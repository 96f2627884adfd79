// Internal: the random words of a dropout mask, for the CPU and for GPUs.
#pragma once
#include <cstdint>

#include "tensor/random.h"

namespace rw::detail {

/// Dropout's number beside those of Purpose: streams of one seed share no numbers.
inline constexpr uint32_t kDropoutPurpose = 10;
static_assert(static_cast<uint32_t>(Purpose::retrieval) < kDropoutPurpose);

/// The Philox counter of four elements, `group` being the index of the first over 4.
struct DropoutCounter {
  uint32_t word[4];
};

#ifdef __CUDACC__
__host__ __device__
#endif
    inline DropoutCounter
    dropout_counter(uint64_t group, uint64_t draw, uint32_t site) {
  return {{static_cast<uint32_t>(group), static_cast<uint32_t>(group >> 32) ^ static_cast<uint32_t>(draw >> 32) << 16,
           static_cast<uint32_t>(draw), kDropoutPurpose << 24 ^ site}};
}

/// A word below it drops its element.
inline uint32_t dropout_limit(double p) { return static_cast<uint32_t>(p * 4294967296.0); }

}  // namespace rw::detail
