// Llama 3.1's scaling (METHODS 6.5, HF "llama3"): by wavelength lambda = 2 pi / theta, with L the pre-training window,
//   lambda < L / high_freq_factor: theta        lambda > L / low_freq_factor: theta / s
//   between: (1 - u) theta / s + u theta,       u = (L / lambda - low) / (high - low)
#include <algorithm>
#include <numbers>

#include "rope/kinds.h"

namespace rw {

std::unique_ptr<RopeScaling> make_llama3_rope(const RopeConfig& config) {
  check(config.factor >= 1, "rope_scaling", "llama3: factor must be at least 1, got ", config.factor);
  const double low = config.low_freq_factor, high = config.high_freq_factor;
  check(high > low && low > 0, "rope_scaling", "llama3: needs high_freq_factor > low_freq_factor > 0, got ", high,
        " and ", low);
  const double window = static_cast<double>(config.original_window());
  std::vector<double> theta = base_inv_freq(config);
  for (double& x : theta) {
    const double rotations = window * x / (2 * std::numbers::pi);  // L / lambda
    const double u = std::clamp((rotations - low) / (high - low), 0.0, 1.0);
    x = (1 - u) * x / config.factor + u * x;
  }
  return std::make_unique<FixedScaling>(config, theta);
}

}  // namespace rw
