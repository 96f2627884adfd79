// NTK-aware scaling with a fixed factor (METHODS 6.1): b' = b s^{D/(D-2)}, so theta'_i = theta_i s^{-2i/(D-2)}: the
// first pair stays, the last is divided by exactly s. HF has no type of this name: there one sets rope_theta to b'.
#include <cmath>

#include "rope/kinds.h"

namespace rw {

std::unique_ptr<RopeScaling> make_ntk_rope(const RopeConfig& config) {
  check(config.factor >= 1, "rope_scaling", "ntk: factor must be at least 1, got ", config.factor);
  const double d = static_cast<double>(config.rotary_dim());
  check(d > 2, "rope_scaling", "ntk: needs more than one pair, rotary dimension is ", d);
  std::vector<double> theta = base_inv_freq(config);
  for (size_t i = 0; i < theta.size(); ++i)
    theta[i] *= std::pow(config.factor, -2.0 * static_cast<double>(i) / (d - 2));
  return std::make_unique<FixedScaling>(config, theta);
}

}  // namespace rw
