// p-RoPE: the fields of its record, and its frequencies.
#include "rope/kinds/proportional.h"

#include "rope/fixed_scaling.h"

namespace rw {

std::vector<Field> ProportionalRope::fields() {
  return {
      field("partial_rotary_factor", &ProportionalRope::share)
          .above(0)
          .at_most(1)
          .required()
          .option()
          .help("share of the pairs that turn, the fastest ones"),
      field("factor", &ProportionalRope::factor).at_least(1).help("what their frequencies are divided by"),
  };
}

std::unique_ptr<RopeScaling> ProportionalRope::make(const RopeConfig& config) const {
  std::vector<double> theta = base_inv_freq(config);
  const auto turning = static_cast<size_t>(share * static_cast<double>(config.rotary_dim()) / 2);
  for (size_t i = 0; i < theta.size(); ++i) theta[i] = i < turning ? theta[i] / factor : 0;
  return std::make_unique<FixedScaling>(config, theta);
}

}  // namespace rw
