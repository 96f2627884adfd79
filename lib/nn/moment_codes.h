// AdamW's two moments in 16 or 8 bits, for the CPU and for GPUs.
//
//   bf16   m and v as bf16
//   int8   64 elements of the flat arena share a scale for m and one for v, s = the largest absolute value:
//            m   code = m 127 / s, from -127 to 127
//            v   8 bits of a float without a sign: 4 of the exponent, 4 of the fraction, the largest code at the power
//                of two above s. A v below 1.125 2^-16 of that is kept as that; 0 is 0. Equal steps, as for m, would
//                make zeros of small v, and their updates as large as 1 / eps.
//
// All are rounded up or down at random, with the mean of what is rounded: with a decay near 1 a moment changes by less
// than half a step and, rounded to the nearest, would never move. The draw is a hash of (step, element): a resumed run
// repeats it.
#pragma once
#include <cstdint>

#ifdef __CUDACC__
#define RW_BOTH __host__ __device__
#else
#define RW_BOTH
#endif

namespace rw {

enum class MomentFormat { f32, bf16, int8 };

inline constexpr int64_t kMomentBlock = 64;  // elements that share scales

/// 32 random bits (the hash "lowbias32" of C. Wellons). `draw`: moment_draw() of the step.
RW_BOTH constexpr uint32_t moment_hash(uint32_t x) {
  x = (x ^ (x >> 16)) * 0x7feb352du;
  x = (x ^ (x >> 15)) * 0x846ca68bu;
  return x ^ (x >> 16);
}
RW_BOTH constexpr uint32_t moment_draw(int64_t step) {
  return moment_hash(static_cast<uint32_t>(step) * 0x9e3779b9u + 1);
}
RW_BOTH constexpr uint32_t moment_bits(uint32_t draw, int64_t element) {
  const uint64_t e = static_cast<uint64_t>(element);
  return moment_hash(static_cast<uint32_t>(e) ^ draw ^ (static_cast<uint32_t>(e >> 32) * 0x85ebca6bu));
}

/// The bits of an f32, and 16 random bits -> those of a bf16.
RW_BOTH constexpr uint16_t moment_bf16(uint32_t bits, uint32_t random) {
  return static_cast<uint16_t>((bits + (random & 0xffffu)) >> 16);
}

/// m times 127 / s -> its code.
RW_BOTH constexpr int32_t moment_code(float steps, uint32_t random) {
  const float x = steps + 128.f + static_cast<float>(random & 0xffffu) * (1.f / 65536.f);  // positive: rounds down
  const int32_t code = static_cast<int32_t>(x) - 128;
  return code > 127 ? 127 : code < -127 ? -127 : code;
}

/// The code at which the largest of a block has its exponent: of the bits of s.
RW_BOTH constexpr int32_t square_base(uint32_t scale_bits) {
  return (static_cast<int32_t>(scale_bits >> 23) + 1) * 16 - 255;
}
/// The bits of v >= 0 -> its code.
RW_BOTH constexpr int32_t square_code(uint32_t bits, int32_t base, uint32_t random) {
  if (bits == 0) return 0;
  const int32_t code = static_cast<int32_t>((bits + (random & 0x7ffffu)) >> 19) - base;
  return code < 1 ? 1 : code > 255 ? 255 : code;
}
/// ... and back to the bits of v.
RW_BOTH constexpr uint32_t square_bits(int32_t code, int32_t base) {
  const int32_t at = code + base;
  return code == 0 || at < 0 ? 0 : static_cast<uint32_t>(at) << 19;
}

}  // namespace rw
#undef RW_BOTH
