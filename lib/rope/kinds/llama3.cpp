// Llama 3.1's scaling: the fields of its record, and its frequencies.
#include "rope/kinds/llama3.h"

#include <algorithm>
#include <numbers>

#include "rope/fixed_scaling.h"

namespace rw {

std::vector<Field> Llama3Rope::fields() {
  return {
      field("factor", &Llama3Rope::factor).at_least(1).required().help("window after extension / before"),
      field("low_freq_factor", &Llama3Rope::low_freq_factor)
          .above(0)
          .required()
          .help("waves longer than the window / this are divided by the factor"),
      field("high_freq_factor", &Llama3Rope::high_freq_factor)
          .above(0)
          .required()
          .help("waves shorter than the window / this stay"),
  };
}

void Llama3Rope::check(const RopeConfig&) const {
  rw::check(high_freq_factor > low_freq_factor, kName, "needs high_freq_factor > low_freq_factor > 0, got ",
            high_freq_factor, " and ", low_freq_factor);
}

void Llama3Rope::complete(RopeConfig& config, const GivenKeys&, const std::string& path) {
  if (config.original_max_position_embeddings <= 0) {
    fail("rope_config", path, "original_max_position_embeddings is missing");
  }
}

std::unique_ptr<RopeScaling> Llama3Rope::make(const RopeConfig& config) const {
  const double low = low_freq_factor, high = high_freq_factor;
  const double window = static_cast<double>(config.original_window());
  std::vector<double> theta = base_inv_freq(config);
  for (double& x : theta) {
    const double rotations = window * x / (2 * std::numbers::pi);  // L / lambda
    const double u = std::clamp((rotations - low) / (high - low), 0.0, 1.0);
    x = (1 - u) * x / factor + u * x;
  }
  return std::make_unique<FixedScaling>(config, theta);
}

}  // namespace rw
