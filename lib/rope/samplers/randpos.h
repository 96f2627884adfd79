// RandPos (Ruoss et al. 2023, arXiv 2305.16843): a sorted subset of {0 .. L'-1}
// without replacement, over contiguous text.
#pragma once
#include "rope/positions.h"

namespace rw {

struct RandPosPositions {
  static constexpr const char* kName = "randpos";
  static constexpr const char* kSummary = "a random sorted subset of the target's positions";
  static constexpr const char* kScaling = "linear";
  static constexpr bool kShort = true;
  static std::vector<Field> fields() { return {}; }

  void check() const {}
  /// Errors: a target shorter than the window.
  void check_spec(const SampleSpec& spec) const;
  void draw(Draw& sample) const;
  bool operator==(const RandPosPositions&) const = default;
};

}  // namespace rw
