// PI: the fields of its record, and its frequencies.
#include "rope/kinds/linear.h"

#include <cmath>

#include "rope/fixed_scaling.h"

namespace rw {

std::vector<Field> LinearRope::fields() {
  return {field("factor", &LinearRope::factor).at_least(1).required().help("window after extension / before")};
}

void LinearRope::complete(RopeConfig& config, const GivenKeys&, const std::string&) const {
  if (config.original_max_position_embeddings > 0) return;
  const double window = static_cast<double>(config.max_position_embeddings) / factor;
  if (window >= 1 && window == std::floor(window)) config.original_max_position_embeddings = std::llround(window);
}

std::unique_ptr<RopeScaling> LinearRope::make(const RopeConfig& config) const {
  std::vector<double> theta = base_inv_freq(config);
  for (double& x : theta) x /= factor;
  return std::make_unique<FixedScaling>(config, theta);
}

}  // namespace rw
