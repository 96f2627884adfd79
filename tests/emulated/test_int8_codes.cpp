// lib/tensor/int8_codes.cuh on the CPU.
#include <cstring>

#include "support.h"
#include "tensor/block_quantize.h"
#include "tensor/int8_codes.cuh"

TEST_CASE("eight int8 codes become their numbers, every one in every place") {
  static_assert(rw::cuda::kInt8Block == rw::kBlockLength);
  for (int first = -128; first < 128; ++first) {
    int8_t bytes[8];
    for (int i = 0; i < 8; ++i) bytes[i] = static_cast<int8_t>(first + 31 * i);
    rw::cuda::EightCodes codes{};
    std::memcpy(codes.words, bytes, sizeof bytes);
    for (int i = 0; i < 8; ++i) CHECK(codes[i] == static_cast<float>(bytes[i]));
  }
}
