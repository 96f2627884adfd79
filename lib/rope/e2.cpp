// E2-LLM at inference (arXiv 2401.06951; METHODS 5): p(m) = m / g with g = ceil(n / L), folded into theta_i / g. One
// training serves every g. In training the sampler's positions are divided already, so the frequencies stay.
#include <algorithm>

#include "rope/kinds.h"

namespace rw {
namespace {

class E2 : public RopeScaling {
 public:
  explicit E2(const RopeConfig& config) : RopeScaling(config), theta_(base_inv_freq(config)) {}
  using RopeScaling::table;
  /// A fixed factor makes a fixed table.
  bool depends_on_length() const override { return config().factor == 0; }

  RopeTable table(const RopeContext& context) override {
    std::vector<double> theta = theta_;
    if (!context.training) {
      const int64_t window = config().original_window();
      const int64_t covering = std::max<int64_t>(1, (context.length + window - 1) / window);
      const double g = config().factor > 0 ? config().factor : static_cast<double>(covering);
      for (double& x : theta) x /= g;
    }
    return {Tensor::from(theta), 1.0};
  }

 private:
  std::vector<double> theta_;
};

}  // namespace

std::unique_ptr<RopeScaling> make_e2_rope(const RopeConfig& config) {
  check(config.factor == 0 || config.factor >= 1, "rope_scaling",
        "e2: factor must be 0 (by length) or at least 1, got ", config.factor);
  return std::make_unique<E2>(config);
}

}  // namespace rw
