// PI, Position Interpolation (arXiv 2306.15595 eq. 4): f'(x, m) = f(x, m L/L'), the same as theta_i / s. HF "linear".
#include "rope/kinds.h"

namespace rw {

std::unique_ptr<RopeScaling> make_linear_rope(const RopeConfig& config) {
  check(config.factor >= 1, "rope_scaling", "linear: factor must be at least 1, got ", config.factor);
  std::vector<double> theta = base_inv_freq(config);
  for (double& x : theta) x /= config.factor;
  return std::make_unique<FixedScaling>(config, theta);
}

}  // namespace rw
