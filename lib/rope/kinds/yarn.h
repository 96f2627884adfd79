// YaRN (Peng et al. 2023, arXiv 2309.00071; METHODS 6.3, HF "yarn"): fast pairs keep their frequency, slow pairs are
// interpolated, with a ramp in between. The logits are sharpened by A^2.
//
//   c(r)   = D ln(L / (2 pi r)) / (2 ln b)             the pair that makes r rotations within L
//   ramp_i = clamp((i - low) / (high - low), 0, 1)     low = floor c(beta_fast), high = ceil c(beta_slow)
//   paper:    theta'_i = theta_i (1 - ramp_i) + (theta_i / s) ramp_i
//   revised:  theta'_i = theta_i / ((1 - ramp_i) + s ramp_i)
//   A = 0.1 ln s + 1
#pragma once
#include "rope/scaling.h"

namespace rw {

enum class YarnVariant {
  paper,    // mixes frequencies
  revised,  // mixes wavelengths (yarn issue 24; PoSE's code)
};

struct YarnRope {
  static constexpr const char* kName = "yarn";
  static constexpr const char* kSummary = "YaRN: fast pairs stay, slow ones are interpolated, attention is sharpened";
  static std::vector<Field> fields();

  double factor = 1;  // s = L'/L
  double beta_fast = 32;
  double beta_slow = 1;
  bool truncate = true;  // round the two ends of the ramp outwards
  YarnVariant variant = YarnVariant::paper;
  std::optional<double> mscale, mscale_all_dim;  // DeepSeek's pair: A is the ratio of the two sharpenings
  std::optional<double> attention_factor;        // A itself

  /// Errors: unless beta_fast > beta_slow.
  void check(const RopeConfig& config) const;
  std::unique_ptr<RopeScaling> make(const RopeConfig& config) const;
  double window_factor() const { return factor; }
  /// As HF: a recipe without a factor means the ratio of the two windows.
  void complete(RopeConfig& config, const GivenKeys& given, const std::string& path);
  bool operator==(const YarnRope&) const = default;
};

}  // namespace rw
