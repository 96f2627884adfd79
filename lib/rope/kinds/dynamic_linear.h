// Dynamic linear scaling (METHODS 6.2): p = m L / n with n the length of the sequence, folded into theta_i L / n. Up to
// the window L, RoPE stays as it is.
#pragma once
#include "rope/scaling.h"

namespace rw {

struct DynamicLinearRope {
  static constexpr const char* kName = "dynamic_linear";
  static constexpr const char* kSummary = "PI by the length of the sequence";
  static constexpr bool kTrained = false;
  static std::vector<Field> fields() { return {}; }

  void check(const RopeConfig&) const {}
  std::unique_ptr<RopeScaling> make(const RopeConfig& config) const;
  double window_factor() const { return 1; }
  bool operator==(const DynamicLinearRope&) const = default;
};

}  // namespace rw
