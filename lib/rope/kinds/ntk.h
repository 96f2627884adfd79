// NTK-aware scaling with a fixed factor (METHODS 6.1): b' = b s^{D/(D-2)}, so theta'_i = theta_i s^{-2i/(D-2)}. The
// first pair stays; the last is divided by exactly s. HF has no kind of this name: there one sets rope_theta to b'.
#pragma once
#include "rope/scaling.h"

namespace rw {

struct NtkRope {
  static constexpr const char* kName = "ntk";
  static constexpr const char* kSummary = "NTK-aware: the base grows, slow pairs are stretched most";
  static std::vector<Field> fields();

  double factor = 1;  // s = L'/L

  /// Errors: a rotary dimension of 2.
  void check(const RopeConfig& config) const;
  std::unique_ptr<RopeScaling> make(const RopeConfig& config) const;
  double window_factor() const { return factor; }
  bool operator==(const NtkRope&) const = default;
};

}  // namespace rw
