// p(m) = m: ordinary training. For PI and direct fine-tuning the window is the target itself.
#pragma once
#include "rope/positions.h"

namespace rw {

struct ContiguousPositions {
  static constexpr const char* kName = "contiguous";
  static constexpr const char* kSummary = "ordinary positions 0 .. T-1";
  static std::vector<Field> fields() { return {}; }

  void check() const {}
  void check_spec(const SampleSpec&) const {}
  void draw(Draw& sample) const;
  bool operator==(const ContiguousPositions&) const = default;
};

}  // namespace rw
