// NTK-aware scaling: the fields of its record, and its frequencies.
#include "rope/kinds/ntk.h"

#include <cmath>

#include "rope/fixed_scaling.h"

namespace rw {

std::vector<Field> NtkRope::fields() {
  return {field("factor", &NtkRope::factor).at_least(1).required().help("window after extension / before")};
}

void NtkRope::check(const RopeConfig& config) const {
  rw::check(config.rotary_dim() > 2, kName, "needs more than one pair, the rotary dimension is ", config.rotary_dim());
}

std::unique_ptr<RopeScaling> NtkRope::make(const RopeConfig& config) const {
  const double d = static_cast<double>(config.rotary_dim());
  std::vector<double> theta = base_inv_freq(config);
  for (size_t i = 0; i < theta.size(); ++i) theta[i] *= std::pow(factor, -2.0 * static_cast<double>(i) / (d - 2));
  return std::make_unique<FixedScaling>(config, theta);
}

}  // namespace rw
