// DroPE's recalibration (Gelberg et al. 2025, arXiv 2512.12167): ordinary samples of the window of pre-training, for a
// model whose positions have been dropped. No position of the target is needed: there are none.
#pragma once
#include "rope/positions.h"

namespace rw {

struct DropePositions {
  static constexpr const char* kName = "drope";
  static constexpr const char* kSummary = "samples of the original window, for models without positions";
  static constexpr const char* kScaling = "nope";
  static constexpr bool kShort = true;
  static std::vector<Field> fields() { return {}; }

  void check() const {}
  void check_spec(const SampleSpec&) const {}
  void draw(Draw& sample) const;
  bool operator==(const DropePositions&) const = default;
};

}  // namespace rw
