// What all RoPE kinds share: the base's frequencies, log-n attention, the checks before a kind is made.
#include "rope/scaling.h"

#include <algorithm>
#include <cmath>

#include "rope/fixed_scaling.h"

namespace rw {

int64_t RopeConfig::extended_window() const {
  const int64_t window = original_window();
  if (max_position_embeddings > window) return max_position_embeddings;
  return std::llround(std::min(kind.window_factor() * static_cast<double>(window), 4e18));
}

std::vector<double> base_inv_freq(const RopeConfig& config) {
  const int64_t d = config.rotary_dim();
  check(d >= 2 && d % 2 == 0, "rope_scaling", "head_dim * partial_rotary_factor must be even and at least 2, got ", d);
  check(config.rope_theta > 1 && std::isfinite(config.rope_theta), "rope_scaling", "rope_theta must be above 1, got ",
        config.rope_theta);
  std::vector<double> theta(static_cast<size_t>(d / 2));
  for (int64_t i = 0; i < d / 2; ++i) {
    theta[static_cast<size_t>(i)] = std::pow(config.rope_theta, -2.0 * static_cast<double>(i) / static_cast<double>(d));
  }
  return theta;
}

void RopeKind::check(const RopeConfig& config) const {
  check_fields();
  held().check(config);
}

RopeScaling::RopeScaling(RopeConfig config) : config_(std::move(config)) {}
RopeScaling::~RopeScaling() = default;

RopeTable RopeScaling::table(std::span<const double>, const RopeContext& context) { return table(context); }

RopeTable RopeScaling::table(std::span<const double> t, const RopeContext& context,
                             const std::vector<Var>& parameters) {
  check(parameters.empty(), "rope_scaling", config_.rope_type(), " has no parameters, got ", parameters.size());
  return table(t, context);
}

void RopeScaling::set_parameters(std::vector<Var> parameters) {
  check(parameters.empty(), "rope_scaling", config_.rope_type(), " has no parameters, got ", parameters.size());
}

std::vector<float> RopeScaling::query_scale(int64_t first, int64_t count) const {
  if (config_.logn == LogN::none) return {};
  const double log_window = std::log(static_cast<double>(config_.original_window()));
  std::vector<float> scale(static_cast<size_t>(count));
  for (int64_t i = 0; i < count; ++i) {
    const bool constant = config_.logn == LogN::constant;
    const double keys = static_cast<double>(constant ? first + count : first + i + 1);
    const double ratio = std::log(keys) / log_window;
    scale[static_cast<size_t>(i)] = static_cast<float>(config_.logn == LogN::position ? std::max(1.0, ratio) : ratio);
  }
  return scale;
}

FixedScaling::FixedScaling(const RopeConfig& config, const std::vector<double>& inv_freq, double attention_scale)
    : RopeScaling(config), table_{Tensor::from(inv_freq), attention_scale} {}

double windows_of(const RopeConfig& config, int64_t length) {
  return std::max(1.0, static_cast<double>(length) / static_cast<double>(config.original_window()));
}

std::unique_ptr<RopeScaling> make_rope_scaling(const RopeConfig& config) {
  check(config.head_dim <= kMostHeadDim && config.partial_rotary_factor > 0 && config.partial_rotary_factor <= 1,
        "rope_scaling", "head_dim must be at most ", kMostHeadDim, " and partial_rotary_factor in (0, 1], got ",
        config.head_dim, " and ", config.partial_rotary_factor);
  check(config.original_window() >= 1, "rope_scaling", "the window must be at least 1, got ", config.original_window());
  check(config.logn == LogN::none || config.original_window() >= 2, "rope_scaling",
        "log-n scaling needs a window of at least 2, got ", config.original_window());
  config.kind.check(config);
  return config.kind.make(config);
}

}  // namespace rw
