// Internal: the activations and their slopes as scalar functions that loops vectorise over. NaN gives NaN. Large
// arguments give the limits of value and slope, without overflow on the way.
#pragma once
#include <cmath>

#include "tensor/math.h"

namespace rw::detail {

struct GeluMath {
  template <class A>
  static A value(A x) {
    return A(0.5) * x * std::erfc(x * A(-0.70710678118654752440));
  }
  /// Phi(x) + x phi(x)
  template <class A>
  static A slope(A x) {
    return A(0.5) * std::erfc(x * A(-0.70710678118654752440)) +
           x * A(0.39894228040143267794) * fast_exp(A(-0.5) * x * x);
  }
};

/// (1 + tanh(u)) / 2 = sigmoid(2u), and 2u = x (a + b x^2).
struct GeluTanhMath {
  static constexpr double kA = 1.5957691216057307118, kB = kA * 0.044715;
  /// Beyond |x| = 30 sigmoid(2u) is 0 or 1 in every dtype.
  template <class A>
  static A clamped(A x) {
    return x > A(30) ? A(30) : (x < A(-30) ? A(-30) : x);
  }
  template <class A>
  static A value(A x) {
    const A c = clamped(x);
    return x * sigmoid(c * (A(kA) + A(kB) * c * c));
  }
  template <class A>
  static A slope(A x) {
    const A c = clamped(x), s = sigmoid(c * (A(kA) + A(kB) * c * c));
    return s + c * s * (A(1) - s) * (A(kA) + A(3 * kB) * c * c);
  }
};

}  // namespace rw::detail
