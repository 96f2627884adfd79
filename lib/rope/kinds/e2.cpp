// E2-LLM at inference: the fields of its record, and its frequencies at a length.
#include "rope/kinds/e2.h"

#include <algorithm>

namespace rw {
namespace {

class E2 : public RopeScaling {
 public:
  E2(const RopeConfig& config, double factor) : RopeScaling(config), theta_(base_inv_freq(config)), factor_(factor) {}
  using RopeScaling::table;
  /// A fixed factor makes a fixed table.
  bool depends_on_length() const override { return factor_ == 0; }

  RopeTable table(const RopeContext& context) override {
    std::vector<double> theta = theta_;
    if (!context.training) {
      const int64_t window = config().original_window();
      const int64_t covering = std::max<int64_t>(1, (context.length + window - 1) / window);
      const double g = factor_ > 0 ? factor_ : static_cast<double>(covering);
      for (double& x : theta) x /= g;
    }
    return {Tensor::from(theta), 1.0};
  }

 private:
  std::vector<double> theta_;
  double factor_;
};

}  // namespace

std::vector<Field> E2Rope::fields() {
  return {field("factor", &E2Rope::factor).at_least(0).help("fixed scale g; 0: by the length of the sequence")};
}

void E2Rope::check(const RopeConfig&) const {
  rw::check(factor == 0 || factor >= 1, kName, "factor must be 0 (by length) or at least 1, got ", factor);
}

std::unique_ptr<RopeScaling> E2Rope::make(const RopeConfig& config) const {
  return std::make_unique<E2>(config, factor);
}

}  // namespace rw
