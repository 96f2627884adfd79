// Internal: scalar functions that the compiler can vectorise inside loops.
#pragma once
#include <bit>
#include <cmath>
#include <cstdint>

namespace rw {

/// e^x for f32 within 2 ulp on [-87.3, 88.3]; 0 below, +inf above; NaN stays NaN.
/// Branch-free, so that loops over it vectorise.
[[gnu::always_inline]] inline float fast_exp(float x) {
  // x = n ln2 + r with |r| <= ln2/2; e^r by a degree-6 polynomial, 2^n by building the exponent bits.
  const float n = std::nearbyint(x * 1.44269504088896341f);
  float r = std::fma(n, -0.693359375f, x);
  r = std::fma(n, 2.12194440e-4f, r);
  float p = 1.9875691500e-4f;
  p = std::fma(p, r, 1.3981999507e-3f);
  p = std::fma(p, r, 8.3334519073e-3f);
  p = std::fma(p, r, 4.1665795894e-2f);
  p = std::fma(p, r, 1.6666665459e-1f);
  p = std::fma(p, r, 5.0000001201e-1f);
  p = std::fma(p, r * r, r) + 1.0f;
  const float clamped = n > -126.0f ? (n < 127.0f ? n : 127.0f) : -126.0f;  // NaN becomes -126 here
  const int32_t bits = (static_cast<int32_t>(clamped) + 127) << 23;
  float y = p * std::bit_cast<float>(bits);
  y = x < -87.3365f ? 0.0f : y;
  y = x > 88.37f ? INFINITY : y;
  return x != x ? x : y;
}
inline double fast_exp(double x) { return std::exp(x); }

/// tanh x for f32 within 3e-7 relative; NaN stays NaN. Without branches, so that loops over it vectorise.
[[gnu::always_inline]] inline float fast_tanh(float x) {
  const float s = x * x, a = std::fabs(x);
  float p = -5.70498872745e-3f;  // near 0, where 1 - 2 / (e^2x + 1) would cancel, an odd polynomial
  p = std::fma(p, s, 2.06390887954e-2f);
  p = std::fma(p, s, -5.37397155531e-2f);
  p = std::fma(p, s, 1.33314422036e-1f);
  p = std::fma(p, s, -3.33332819422e-1f);
  const float small = std::fma(p * s, x, x);
  const float large = std::copysign(1.0f - 2.0f / (fast_exp(2.0f * a) + 1.0f), x);
  return a < 0.625f ? small : large;
}
inline double fast_tanh(double x) { return std::tanh(x); }

template <class T>
[[gnu::always_inline]] inline T sigmoid(T x) {
  return T(1) / (T(1) + fast_exp(-x));
}

}  // namespace rw
