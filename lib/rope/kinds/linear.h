// PI, Position Interpolation (arXiv 2306.15595 eq. 4): f'(x, m) = f(x, m L/L'), the same as theta_i / s. HF "linear".
#pragma once
#include "rope/scaling.h"

namespace rw {

struct LinearRope {
  static constexpr const char* kName = "linear";
  static constexpr const char* kSummary = "PI: every frequency is divided by the factor";
  static std::vector<Field> fields();

  double factor = 1;  // s = L'/L

  void check(const RopeConfig&) const {}
  std::unique_ptr<RopeScaling> make(const RopeConfig& config) const;
  double window_factor() const { return factor; }
  /// Published recipes state no original window: max_position_embeddings is the
  /// extended one. L is then a factor-th of it.
  void complete(RopeConfig& config, const GivenKeys& given, const std::string& path) const;
  bool operator==(const LinearRope&) const = default;
};

}  // namespace rw
