// Two kinds that stretch only as far as the sequence has grown. n is the current length; n <= L leaves RoPE as it is.
//
// dynamic NTK (METHODS 6.2, HF "dynamic"): b' = b (s n / L - (s - 1))^{D/(D-2)}
// dynamic linear (METHODS 6.2):           p = m L / n, folded into theta_i L / n
#include <algorithm>
#include <cmath>

#include "rope/kinds.h"

namespace rw {
namespace {

/// How many windows long the sequence is, at least 1.
double windows(const RopeConfig& config, const RopeContext& context) {
  return std::max(1.0, static_cast<double>(context.length) / static_cast<double>(config.original_window()));
}

class DynamicNtk : public RopeScaling {
 public:
  explicit DynamicNtk(const RopeConfig& config) : RopeScaling(config), theta_(base_inv_freq(config)) {}
  using RopeScaling::table;
  bool depends_on_length() const override { return true; }

  RopeTable table(const RopeContext& context) override {
    const double s = config().factor;
    const double stretch = s * windows(config(), context) - (s - 1);
    const double d = static_cast<double>(config().rotary_dim());
    std::vector<double> theta = theta_;
    for (size_t i = 0; i < theta.size(); ++i) theta[i] *= std::pow(stretch, -2.0 * static_cast<double>(i) / (d - 2));
    return {Tensor::from(theta), 1.0};
  }

 private:
  std::vector<double> theta_;
};

class DynamicLinear : public RopeScaling {
 public:
  explicit DynamicLinear(const RopeConfig& config) : RopeScaling(config), theta_(base_inv_freq(config)) {}
  using RopeScaling::table;
  bool depends_on_length() const override { return true; }

  RopeTable table(const RopeContext& context) override {
    std::vector<double> theta = theta_;
    for (double& x : theta) x /= windows(config(), context);
    return {Tensor::from(theta), 1.0};
  }

 private:
  std::vector<double> theta_;
};

}  // namespace

std::unique_ptr<RopeScaling> make_dynamic_rope(const RopeConfig& config) {
  check(config.factor >= 1, "rope_scaling", "dynamic: factor must be at least 1, got ", config.factor);
  check(config.rotary_dim() > 2, "rope_scaling", "dynamic: needs more than one pair, rotary dimension is ",
        config.rotary_dim());
  return std::make_unique<DynamicNtk>(config);
}

std::unique_ptr<RopeScaling> make_dynamic_linear_rope(const RopeConfig& config) {
  return std::make_unique<DynamicLinear>(config);
}

}  // namespace rw
