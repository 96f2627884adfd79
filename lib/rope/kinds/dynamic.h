// Dynamic NTK (METHODS 6.2, HF "dynamic"): the base grows with the sequence. n is its length, L the window; up to L,
// RoPE stays as it is.
//
//   b' = b (s n / L - (s - 1))^{D/(D-2)}
#pragma once
#include "rope/scaling.h"

namespace rw {

struct DynamicRope {
  static constexpr const char* kName = "dynamic";
  static constexpr const char* kSummary = "dynamic NTK: the base grows with the sequence";
  static constexpr bool kTrained = false;
  static std::vector<Field> fields();

  double factor = 1;  // s: how fast the base grows

  /// Errors: a rotary dimension of 2.
  void check(const RopeConfig& config) const;
  std::unique_ptr<RopeScaling> make(const RopeConfig& config) const;
  double window_factor() const { return 1; }
  bool operator==(const DynamicRope&) const = default;
};

}  // namespace rw
