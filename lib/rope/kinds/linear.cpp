// PI: the fields of its record, and its frequencies.
#include "rope/kinds/linear.h"

#include "rope/fixed_scaling.h"

namespace rw {

std::vector<Field> LinearRope::fields() {
  return {field("factor", &LinearRope::factor).at_least(1).required().help("window after extension / before")};
}

std::unique_ptr<RopeScaling> LinearRope::make(const RopeConfig& config) const {
  std::vector<double> theta = base_inv_freq(config);
  for (double& x : theta) x /= factor;
  return std::make_unique<FixedScaling>(config, theta);
}

}  // namespace rw
