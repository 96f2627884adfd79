// LongRoPE: the fields of its record, and its two tables of frequencies.
#include "rope/kinds/longrope.h"

#include <algorithm>
#include <cmath>

#include "rope/start_tokens.h"

namespace rw {
namespace {

class LongRopeScaling : public RopeScaling, public StartTokens {
 public:
  LongRopeScaling(const RopeConfig& config, const LongRope& record)
      : RopeScaling(config),
        short_(divided(config, record.short_factor)),
        long_(divided(config, record.long_factor)),
        plain_(Tensor::from(base_inv_freq(config))),
        start_(static_cast<int64_t>(record.start_tokens.value_or(0))),
        equal_(record.short_factor == record.long_factor && start_ == 0) {
    const double window = static_cast<double>(config.original_window());
    scale_ = record.attention_factor ? *record.attention_factor
             : record.factor <= 1    ? 1.0
                                     : std::sqrt(1 + std::log(record.factor) / std::log(window));
  }
  using RopeScaling::table;
  bool depends_on_length() const override { return !equal_; }

  RopeTable table(const RopeContext& context) override {
    rw::check(!context.training || start_ == 0, LongRope::kName,
              "start_tokens, first tokens without interpolation, is for inference only: train without it");
    return {context.length > config().original_window() ? long_ : short_, scale_};
  }
  int64_t start_tokens(int64_t length) const override { return length > config().original_window() ? start_ : 0; }
  const Tensor& start_inv_freq() const override { return plain_; }

 private:
  static Tensor divided(const RopeConfig& config, const std::vector<double>& ext) {
    std::vector<double> theta = base_inv_freq(config);
    for (size_t i = 0; i < theta.size(); ++i) theta[i] /= ext[i];
    return Tensor::from(theta);
  }
  Tensor short_, long_, plain_;  // [D/2]
  int64_t start_;
  bool equal_;  // the two, as in a frozen recipe
  double scale_;
};

}  // namespace

std::vector<Field> LongRope::fields() {
  return {
      field("factor", &LongRope::factor).at_least(1).help("window after extension / before, for the attention scale"),
      field("short_factor", &LongRope::short_factor).above(0).required().help("divisors up to the original window"),
      field("long_factor", &LongRope::long_factor).above(0).required().help("divisors beyond it"),
      field("attention_factor", &LongRope::attention_factor).above(0).help("the attention scale itself"),
      field("start_tokens", &LongRope::start_tokens)
          .at_least(0)
          .help("first tokens without interpolation beyond the original window; other programs do not know it"),
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
  const double start = start_tokens.value_or(0);
  rw::check(start == std::floor(start) && start <= static_cast<double>(config.original_window()), kName,
            "start_tokens must be a whole number up to the original window of ", config.original_window(), ", got ",
            start);
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
