// ABF: the fields of its record, and its frequencies.
#include "rope/kinds/abf.h"

#include "rope/fixed_scaling.h"

namespace rw {

std::vector<Field> AbfRope::fields() {
  return {field("base", &AbfRope::base).above(1).required().help("the new base b")};
}

std::unique_ptr<RopeScaling> AbfRope::make(const RopeConfig& config) const {
  RopeConfig rebased = config;
  rebased.rope_theta = base;
  return std::make_unique<FixedScaling>(config, base_inv_freq(rebased));
}

}  // namespace rw
