// The two 8-bit floats of the OCP 8-bit floating point specification (Micikevicius et al. 2022), as GPUs multiply them.
#pragma once
#include <algorithm>
#include <cmath>
#include <cstdint>
#include <cstring>

namespace rw {

/// A sign, EXPONENT bits and MANTISSA bits, of which the largest finite value has the bits LARGEST.
///
/// From f32: to nearest, ties to even, with subnormals; what lies beyond the largest value becomes it (saturation),
/// infinity too; NaN becomes 0x7f.
template <int EXPONENT, int MANTISSA, uint8_t LARGEST>
struct Float8 {
  uint8_t bits = 0;

  static constexpr int kBias = (1 << (EXPONENT - 1)) - 1;

  Float8() = default;
  Float8(float value) {  // NOLINT: an implicit conversion, as between float and double
    if (std::isnan(value)) {
      bits = 0x7f;
      return;
    }
    const int sign = std::signbit(value) ? 0x80 : 0;
    const float size = std::min(std::fabs(value), 1e6f);  // beyond the largest of either format
    const int exponent =
        std::max(size > 0 ? std::ilogb(size) : -kBias, 1 - kBias);  // of its binade; subnormals share one
    // In units of the last bit; rounded up to 2^(MANTISSA + 1), it carries into the exponent.
    const int units = static_cast<int>(std::nearbyint(std::ldexp(size, MANTISSA - exponent)));
    const int magnitude = units + ((exponent + kBias - 1) << MANTISSA);
    bits = static_cast<uint8_t>(sign | std::min<int>(magnitude, LARGEST));
  }
  operator float() const {
    const int exponent = bits >> MANTISSA & ((1 << EXPONENT) - 1), fraction = bits & ((1 << MANTISSA) - 1);
    const float sign = bits & 0x80 ? -1.f : 1.f;
    if ((bits & 0x7f) > LARGEST) {
      return MANTISSA == 2 && fraction == 0 ? sign * INFINITY : std::nanf("");  // e4m3 has no infinity
    }
    if (exponent == 0) return sign * std::ldexp(static_cast<float>(fraction), 1 - kBias - MANTISSA);
    return sign * std::ldexp(static_cast<float>(fraction + (1 << MANTISSA)), exponent - kBias - MANTISSA);
  }
};

/// Up to 448, for values.
struct e4m3 : Float8<4, 3, 0x7e> {
  using Float8::Float8;
  static constexpr float kLargest = 448;
};
/// Up to 57344, for gradients.
struct e5m2 : Float8<5, 2, 0x7b> {
  using Float8::Float8;
  static constexpr float kLargest = 57344;
};

}  // namespace rw
