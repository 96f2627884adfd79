// Dynamic linear scaling: its frequencies at a length.
#include "rope/kinds/dynamic_linear.h"

#include "rope/fixed_scaling.h"

namespace rw {
namespace {

class DynamicLinear : public RopeScaling {
 public:
  explicit DynamicLinear(const RopeConfig& config) : RopeScaling(config), theta_(base_inv_freq(config)) {}
  using RopeScaling::table;
  bool depends_on_length() const override { return true; }

  RopeTable table(const RopeContext& context) override {
    std::vector<double> theta = theta_;
    for (double& x : theta) x /= windows_of(config(), context.length);
    return {Tensor::from(theta), 1.0};
  }

 private:
  std::vector<double> theta_;
};

}  // namespace

std::unique_ptr<RopeScaling> DynamicLinearRope::make(const RopeConfig& config) const {
  return std::make_unique<DynamicLinear>(config);
}

}  // namespace rw
