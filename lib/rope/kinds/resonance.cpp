// Resonance RoPE: the fields of its record, and its frequencies.
#include "rope/kinds/resonance.h"

#include <cmath>

#include "rope/fixed_scaling.h"
#include "rope/kinds/default.h"
#include "rope/kinds/linear.h"
#include "rope/kinds/ntk.h"
#include "rope/kinds/yarn.h"

namespace rw {
namespace {

RopeKind kind_below(const ResonanceRope& record) {
  switch (record.of) {
    case ResonanceOf::linear:
      return LinearRope{.factor = record.factor};
    case ResonanceOf::ntk:
      return NtkRope{.factor = record.factor};
    case ResonanceOf::yarn:
      return YarnRope{.factor = record.factor};
    case ResonanceOf::plain:
      break;
  }
  return DefaultRope{};
}

}  // namespace

std::vector<Field> ResonanceRope::fields() {
  return {
      field("factor", &ResonanceRope::factor).at_least(1).help("window after extension / before"),
      field("resonance_of", &ResonanceRope::of, {"default", "linear", "ntk", "yarn"})
          .option()
          .help("the kind whose wavelengths are rounded"),
  };
}

void ResonanceRope::check(const RopeConfig& config) const {
  rw::check(of != ResonanceOf::plain || factor == 1, kName, "resonance_of default extends nothing: a factor of ",
            factor, " has no effect");
  kind_below(*this).check(config);
}

std::unique_ptr<RopeScaling> ResonanceRope::make(const RopeConfig& config) const {
  constexpr double kTurn = 6.283185307179586;
  const RopeTable below = kind_below(*this).make(config)->table({.length = config.extended_window()});
  std::vector<double> theta = below.inv_freq.value().to_vector();  // [D/2]
  for (double& x : theta) x = kTurn / std::nearbyint(kTurn / x);
  return std::make_unique<FixedScaling>(config, theta, below.attention_scale);
}

}  // namespace rw
