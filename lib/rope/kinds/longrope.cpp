// LongRoPE: the fields of its record, and its two tables of frequencies.
#include "rope/kinds/longrope.h"

#include <algorithm>
#include <cmath>

namespace rw {
namespace {

class LongRopeScaling : public RopeScaling {
 public:
  LongRopeScaling(const RopeConfig& config, const LongRope& record)
      : RopeScaling(config),
        short_(divided(config, record.short_factor)),
        long_(divided(config, record.long_factor)),
        equal_(record.short_factor == record.long_factor) {
    const double window = static_cast<double>(config.original_window());
    scale_ = record.attention_factor ? *record.attention_factor
             : record.factor <= 1    ? 1.0
                                     : std::sqrt(1 + std::log(record.factor) / std::log(window));
  }
  using RopeScaling::table;
  bool depends_on_length() const override { return !equal_; }

  RopeTable table(const RopeContext& context) override {
    return {context.length > config().original_window() ? long_ : short_, scale_};
  }

 private:
  static Tensor divided(const RopeConfig& config, const std::vector<double>& ext) {
    std::vector<double> theta = base_inv_freq(config);
    for (size_t i = 0; i < theta.size(); ++i) theta[i] /= ext[i];
    return Tensor::from(theta);
  }
  Tensor short_, long_;  // [D/2]
  bool equal_;           // the two, as in a frozen recipe
  double scale_;
};

}  // namespace

std::vector<Field> LongRope::fields() {
  return {
      field("factor", &LongRope::factor).at_least(1).help("window after extension / before, for the attention scale"),
      field("short_factor", &LongRope::short_factor).above(0).required().help("divisors up to the original window"),
      field("long_factor", &LongRope::long_factor).above(0).required().help("divisors beyond it"),
      field("attention_factor", &LongRope::attention_factor).above(0).help("the attention scale itself"),
  };
}

void LongRope::check(const RopeConfig& config) const {
  const int64_t pairs = config.rotary_dim() / 2;
  const auto check_list = [&](const char* name, const std::vector<double>& list) {
    rw::check(static_cast<int64_t>(list.size()) == pairs, kName, name, " needs ", pairs, " values, got ", list.size());
  };
  check_list("short_factor", short_factor);
  check_list("long_factor", long_factor);
  rw::check(config.original_window() >= 2, kName, "needs a window of at least 2, got ", config.original_window());
}

void LongRope::complete(RopeConfig& config, const GivenKeys& given, const std::string& path) {
  if (std::find(given.begin(), given.end(), "factor") != given.end()) return;
  if (config.original_max_position_embeddings <= 0) fail("rope_config", path, "factor is missing");
  // A window below the original one is not stretched, as in transformers.
  factor = std::max(1.0, static_cast<double>(config.max_position_embeddings) /
                             static_cast<double>(config.original_max_position_embeddings));
}

std::unique_ptr<RopeScaling> LongRope::make(const RopeConfig& config) const {
  return std::make_unique<LongRopeScaling>(config, *this);
}

}  // namespace rw
