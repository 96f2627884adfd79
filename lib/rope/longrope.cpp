// LongRoPE (arXiv 2402.13753; METHODS 6.4, HF "longrope", Phi-3's "su"): every pair has its own divisor, found by
// search; one set for sequences within the pre-training window and one for longer ones.
//   theta'_i = theta_i / ext_i,   ext = long_factor if n > L else short_factor,   A = sqrt(1 + ln s / ln L)
#include <cmath>

#include "rope/kinds.h"

namespace rw {
namespace {

class LongRope : public RopeScaling {
 public:
  explicit LongRope(const RopeConfig& c)
      : RopeScaling(c), short_(divided(c, c.short_factor)), long_(divided(c, c.long_factor)) {
    const double window = static_cast<double>(c.original_window());
    scale_ = c.attention_factor ? *c.attention_factor
             : c.factor <= 1    ? 1.0
                                : std::sqrt(1 + std::log(c.factor) / std::log(window));
  }
  using RopeScaling::table;
  bool depends_on_length() const override { return true; }

  RopeTable table(const RopeContext& context) override {
    return {context.length > config().original_window() ? long_ : short_, scale_};
  }

 private:
  static Tensor divided(const RopeConfig& c, const std::vector<double>& ext) {
    std::vector<double> theta = base_inv_freq(c);
    for (size_t i = 0; i < theta.size(); ++i) theta[i] /= ext[i];
    return Tensor::from(theta);
  }
  Tensor short_, long_;  // [D/2]
  double scale_;
};

}  // namespace

std::unique_ptr<RopeScaling> make_longrope(const RopeConfig& config) {
  const auto check_list = [&](const char* name, const std::vector<double>& list) {
    check(static_cast<int64_t>(list.size()) == config.rotary_dim() / 2, "rope_scaling", "longrope: ", name, " needs ",
          config.rotary_dim() / 2, " values, got ", list.size());
    for (const double x : list) check(x > 0, "rope_scaling", "longrope: ", name, " must be positive, got ", x);
  };
  check_list("short_factor", config.short_factor);
  check_list("long_factor", config.long_factor);
  check(config.original_window() >= 2, "rope_scaling", "longrope: needs a window of at least 2, got ",
        config.original_window());
  return std::make_unique<LongRope>(config);
}

}  // namespace rw
