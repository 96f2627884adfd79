// Dynamic NTK: the fields of its record, and its frequencies at a length.
#include "rope/kinds/dynamic.h"

#include <cmath>

#include "rope/fixed_scaling.h"

namespace rw {
namespace {

class DynamicNtk : public RopeScaling {
 public:
  DynamicNtk(const RopeConfig& config, double factor)
      : RopeScaling(config), theta_(base_inv_freq(config)), factor_(factor) {}
  using RopeScaling::table;
  bool depends_on_length() const override { return true; }

  RopeTable table(const RopeContext& context) override {
    const double growth = factor_ * windows_of(config(), context.length) - (factor_ - 1);
    const double d = static_cast<double>(config().rotary_dim());
    std::vector<double> theta = theta_;
    for (size_t i = 0; i < theta.size(); ++i) theta[i] *= std::pow(growth, -2.0 * static_cast<double>(i) / (d - 2));
    return {Tensor::from(theta), 1.0};
  }

 private:
  std::vector<double> theta_;
  double factor_;
};

}  // namespace

std::vector<Field> DynamicRope::fields() {
  return {field("factor", &DynamicRope::factor).at_least(1).required().help("how fast the base grows")};
}

void DynamicRope::check(const RopeConfig& config) const {
  rw::check(config.rotary_dim() > 2, kName, "needs more than one pair, the rotary dimension is ", config.rotary_dim());
}

std::unique_ptr<RopeScaling> DynamicRope::make(const RopeConfig& config) const {
  return std::make_unique<DynamicNtk>(config, factor);
}

}  // namespace rw
