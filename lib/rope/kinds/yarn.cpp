// YaRN: the fields of its record, its frequencies and its attention scale.
#include "rope/kinds/yarn.h"

#include <algorithm>
#include <cmath>
#include <numbers>

#include "rope/fixed_scaling.h"

namespace rw {
namespace {

double sharpening(double s, double mscale) { return s <= 1 ? 1.0 : 0.1 * mscale * std::log(s) + 1.0; }

double attention_scale(const YarnRope& y) {
  if (y.attention_factor) return *y.attention_factor;
  // As HF: DeepSeek's pair counts only if both are there and not 0.
  if (y.mscale.value_or(0) != 0 && y.mscale_all_dim.value_or(0) != 0) {
    return sharpening(y.factor, *y.mscale) / sharpening(y.factor, *y.mscale_all_dim);
  }
  return sharpening(y.factor, 1);
}

}  // namespace

std::vector<Field> YarnRope::fields() {
  return {
      field("factor", &YarnRope::factor).at_least(1).help("window after extension / before"),
      field("beta_fast", &YarnRope::beta_fast).above(0).help("pairs with more rotations in the window stay"),
      field("beta_slow", &YarnRope::beta_slow).above(0).help("pairs with fewer rotations are divided by the factor"),
      field("truncate", &YarnRope::truncate).help("round the two ends of the ramp outwards"),
      field("yarn_variant", &YarnRope::variant, {"paper", "revised"})
          .first_choice_unwritten()
          .help("mix frequencies or wavelengths"),
      field("mscale", &YarnRope::mscale).help("DeepSeek: sharpening of the scores"),
      field("mscale_all_dim", &YarnRope::mscale_all_dim).help("DeepSeek: sharpening that is divided by"),
      field("attention_factor", &YarnRope::attention_factor).above(0).help("the attention scale itself"),
  };
}

void YarnRope::check(const RopeConfig&) const {
  rw::check(beta_fast > beta_slow, kName, "needs beta_fast > beta_slow > 0, got ", beta_fast, " and ", beta_slow);
}

void YarnRope::complete(RopeConfig& config, const GivenKeys& given, const std::string& path) {
  if (std::find(given.begin(), given.end(), "factor") != given.end()) return;
  if (config.max_position_embeddings <= config.original_window()) fail("rope_config", path, "factor is missing");
  factor = static_cast<double>(config.max_position_embeddings) /
           static_cast<double>(config.original_max_position_embeddings);
}

std::unique_ptr<RopeScaling> YarnRope::make(const RopeConfig& config) const {
  const double d = static_cast<double>(config.rotary_dim());
  const double window = static_cast<double>(config.original_window());
  const auto pair_of = [&](double rotations) {
    return d * std::log(window / (rotations * 2 * std::numbers::pi)) / (2 * std::log(config.rope_theta));
  };
  double low = pair_of(beta_fast), high = pair_of(beta_slow);
  if (truncate) {
    low = std::floor(low);
    high = std::ceil(high);
  }
  low = std::max(low, 0.0);
  high = std::min(high, d - 1);
  if (low == high) high += 0.001;  // as HF: no division by zero

  std::vector<double> theta = base_inv_freq(config);
  const double s = factor;
  for (size_t i = 0; i < theta.size(); ++i) {
    const double ramp = std::clamp((static_cast<double>(i) - low) / (high - low), 0.0, 1.0);
    theta[i] = variant == YarnVariant::revised ? theta[i] / ((1 - ramp) + s * ramp)
                                               : theta[i] * (1 - ramp) + theta[i] / s * ramp;
  }
  return std::make_unique<FixedScaling>(config, theta, attention_scale(*this));
}

}  // namespace rw
