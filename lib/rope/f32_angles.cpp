// Angles in f32, as transformers makes them.
#include "rope/f32_angles.h"

#include <cmath>

#include "rope/kinds.h"
#include "tensor/error.h"

namespace rw {
namespace {

/// theta [R/2].
std::vector<float> frequencies(const RopeConfig& config, int64_t length) {
  const int64_t dim = config.rotary_dim();
  const auto* const longrope = config.kind.get<LongRope>();
  const auto* const linear = config.kind.get<LinearRope>();
  check(longrope || linear || config.kind.is<DefaultRope>(), "rope",
        "angles in f32 are for default, linear and longrope, got ", config.rope_type(),
        ": freeze the model first (ropewalk convert freeze)");
  std::vector<float> theta;
  for (int64_t i = 0; i < dim / 2; ++i) {
    float divisor =
        std::pow(static_cast<float>(config.rope_theta), static_cast<float>(2 * i) / static_cast<float>(dim));
    if (longrope) {
      const auto& factors = length > config.original_window() ? longrope->long_factor : longrope->short_factor;
      divisor *= static_cast<float>(factors.at(static_cast<size_t>(i)));
    }
    theta.push_back(1.0f / divisor);
    if (linear) theta.back() /= static_cast<float>(linear->factor);
  }
  return theta;
}

}  // namespace

RopeAngles f32_angles(const RopeConfig& config, const Tensor& positions, Device device) {
  check(positions.rank() == 2 && positions.size(0) == 1, "rope", "positions must have shape [1, T], got ",
        positions.shape());
  const int64_t length = positions.size(1);
  const std::vector<float> theta = frequencies(config, length);
  const int64_t pairs = static_cast<int64_t>(theta.size());
  const Tensor cos = Tensor::empty({1, length, pairs}), sin = Tensor::empty({1, length, pairs});
  for (int64_t t = 0; t < length; ++t) {
    for (int64_t i = 0; i < pairs; ++i) {
      const float angle = positions.data<float>()[t] * theta[static_cast<size_t>(i)];
      cos.data<float>()[t * pairs + i] = std::cos(angle);
      sin.data<float>()[t * pairs + i] = std::sin(angle);
    }
  }
  const RopeTable table = make_rope_scaling(config)->table({.length = length});
  return {device.is_cuda() ? positions.to(device) : positions, table.inv_freq, cos.to(device), sin.to(device),
          table.attention_scale};
}

}  // namespace rw
