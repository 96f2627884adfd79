// E2-LLM at inference (arXiv 2401.06951; METHODS 5): p(m) = m / g with g = ceil(n / L), folded into theta_i / g. One
// training serves every g. In training the sampler's positions are divided already, so the frequencies stay.
#pragma once
#include "rope/scaling.h"

namespace rw {

struct E2Rope {
  static constexpr const char* kName = "e2";
  static constexpr const char* kSummary = "E2-LLM: PI by as many windows as cover the sequence";
  static constexpr const char* kSampler = "e2";
  static std::vector<Field> fields();

  double factor = 0;  // g; 0: by the length of the sequence

  /// Errors: a factor between 0 and 1.
  void check(const RopeConfig& config) const;
  std::unique_ptr<RopeScaling> make(const RopeConfig& config) const;
  double window_factor() const { return factor > 0 ? factor : 1; }
  bool operator==(const E2Rope&) const = default;
};

}  // namespace rw
