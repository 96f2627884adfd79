// Self-Extend (Jin et al. 2024, arXiv 2401.01325, eqs. 2 to 4; METHODS 6.6): near keys at their own distance, far keys
// by group. No training.
//
//   m - n < w:  distance m - n
//   otherwise:  distance floor(m / G) - floor(n / G) + w - floor(w / G)
#pragma once
#include "rope/scaling.h"

namespace rw {

struct SelfExtendRope {
  static constexpr const char* kName = "self_extend";
  static constexpr const char* kSummary = "Self-Extend: near keys by distance, far keys by group; inference only";
  static constexpr bool kTrained = false;
  static std::vector<Field> fields();

  int64_t group = 8;       // G
  int64_t neighbours = 0;  // w, tokens; 0: half the window of pre-training

  /// Errors: a neighbour window beyond the window of pre-training.
  void check(const RopeConfig& config) const;
  std::unique_ptr<RopeScaling> make(const RopeConfig& config) const;
  double window_factor() const { return 1; }
  bool operator==(const SelfExtendRope&) const = default;
};

}  // namespace rw
