// YaRN (Peng et al. 2023; METHODS 6.3): fast pairs keep their frequency, slow pairs are interpolated, a ramp in
// between, and the logits are sharpened by A^2. HF "yarn".
//
//   c(r)   = D ln(L / (2 pi r)) / (2 ln b)             the pair that makes r rotations within L
//   ramp_i = clamp((i - low) / (high - low), 0, 1)     low = floor c(beta_fast), high = ceil c(beta_slow)
//   paper:    theta'_i = theta_i (1 - ramp_i) + (theta_i / s) ramp_i
//   revised:  theta'_i = theta_i / ((1 - ramp_i) + s ramp_i)   interpolates wavelengths (yarn issue 24; PoSE's code)
//   A = 0.1 ln s + 1
#include <algorithm>
#include <cmath>
#include <numbers>

#include "rope/kinds.h"

namespace rw {
namespace {

double sharpening(double s, double mscale) { return s <= 1 ? 1.0 : 0.1 * mscale * std::log(s) + 1.0; }

double attention_scale(const RopeConfig& c) {
  if (c.attention_factor) return *c.attention_factor;
  // DeepSeek's pair counts only if both are there and not 0
  if (c.mscale.value_or(0) != 0 && c.mscale_all_dim.value_or(0) != 0) {
    return sharpening(c.factor, *c.mscale) / sharpening(c.factor, *c.mscale_all_dim);
  }
  return sharpening(c.factor, 1);
}

}  // namespace

std::unique_ptr<RopeScaling> make_yarn_rope(const RopeConfig& config) {
  check(config.factor >= 1, "rope_scaling", "yarn: factor must be at least 1, got ", config.factor);
  check(config.beta_fast > config.beta_slow && config.beta_slow > 0, "rope_scaling",
        "yarn: needs beta_fast > beta_slow > 0, got ", config.beta_fast, " and ", config.beta_slow);
  const bool revised = config.yarn_variant == "revised";
  check(revised || config.yarn_variant == "paper", "rope_scaling",
        "yarn: yarn_variant must be paper or revised, got \"", config.yarn_variant, "\"");

  const double d = static_cast<double>(config.rotary_dim());
  const double window = static_cast<double>(config.original_window());
  const auto pair_of = [&](double rotations) {
    return d * std::log(window / (rotations * 2 * std::numbers::pi)) / (2 * std::log(config.rope_theta));
  };
  double low = pair_of(config.beta_fast), high = pair_of(config.beta_slow);
  if (config.truncate) {
    low = std::floor(low);
    high = std::ceil(high);
  }
  low = std::max(low, 0.0);
  high = std::min(high, d - 1);
  if (low == high) high += 0.001;  // as HF: no division by zero

  std::vector<double> theta = base_inv_freq(config);
  const double s = config.factor;
  for (size_t i = 0; i < theta.size(); ++i) {
    const double ramp = std::clamp((static_cast<double>(i) - low) / (high - low), 0.0, 1.0);
    theta[i] = revised ? theta[i] / ((1 - ramp) + s * ramp) : theta[i] * (1 - ramp) + theta[i] / s * ramp;
  }
  return std::make_unique<FixedScaling>(config, theta, attention_scale(config));
}

}  // namespace rw
