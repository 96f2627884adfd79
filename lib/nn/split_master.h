// An f32 as a bf16 and 16 further bits: 4 bytes that hold both a master weight and
// the copy that the model computes with.
//
//   bits of the f32 = high * 2^16 + low,   high = the bits of the bf16 nearest to it,   -2^15 <= low < 2^15
//
// Nothing is lost: joining gives back the f32 bit for bit (of a NaN, only that it is one and its sign). Signed numbers
// need no care, since floats are ordered like their bits on either side of zero, and a carry out of the fraction gives
// the next power of two. Values from 2^128 - 2^119 on round to infinity in `high`, as they do in any bf16 copy.
//
// A value halfway between two bf16 goes to the one of larger magnitude. A conversion would choose the even one. Then a
// bf16 with an even last bit would stand for 65,537 values of f32, and 16 bits can tell only 65,536 apart. Among random
// values one in 131,072 gets another copy than by conversion.
#pragma once
#include <cstdint>

namespace rw {

struct SplitFloat {
  uint16_t high = 0;  // a bf16
  int16_t low = 0;
};

constexpr SplitFloat split_float(uint32_t f32_bits) {
  if ((f32_bits & 0x7fffffffu) > 0x7f800000u) f32_bits = (f32_bits & 0x80000000u) | 0x7fc00000u;  // stays a NaN
  return {static_cast<uint16_t>((f32_bits + 0x8000u) >> 16), static_cast<int16_t>(f32_bits & 0xffffu)};
}

constexpr uint32_t join_float(SplitFloat s) {
  return (static_cast<uint32_t>(s.high) << 16) + static_cast<uint32_t>(static_cast<int32_t>(s.low));
}

}  // namespace rw
