// p-RoPE (Barbero et al. 2024, "Round and Round We Go", arXiv 2410.06205, section 6): only the fastest share p of the
// pairs turns. The slowest pairs, which never come round within a window, carry no position. HF's "proportional".
//
//   theta'_i = theta_i / s for i < floor(p D / 2), otherwise 0
#pragma once
#include "rope/scaling.h"

namespace rw {

/// Unlike partial_rotary_factor beside other kinds, the exponents stay those of the whole head.
struct ProportionalRope {
  static constexpr const char* kName = "proportional";
  static constexpr const char* kSummary = "p-RoPE: only the fastest share of the pairs turns";
  static std::vector<Field> fields();

  double share = 0.75;  // p
  double factor = 1;    // s

  void check(const RopeConfig&) const {}
  std::unique_ptr<RopeScaling> make(const RopeConfig& config) const;
  double window_factor() const { return factor; }
  /// partial_rotary_factor inside of this recipe is p: the whole head is rotated, a part of it by 0.
  void complete(RopeConfig& config, const GivenKeys&, const std::string&) { config.partial_rotary_factor = 1; }
  bool operator==(const ProportionalRope&) const = default;
};

}  // namespace rw
