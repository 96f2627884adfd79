// Plain RoPE: theta_i = b^(-2i/D). The kind of a model that was not extended, or that was trained at full length.
#pragma once
#include "rope/scaling.h"

namespace rw {

struct DefaultRope {
  static constexpr const char* kName = "default";
  static constexpr const char* kSummary = "plain RoPE";
  static std::vector<Field> fields() { return {}; }

  void check(const RopeConfig&) const {}
  std::unique_ptr<RopeScaling> make(const RopeConfig& config) const;
  double window_factor() const { return 1; }
  bool operator==(const DefaultRope&) const = default;
};

}  // namespace rw
