// Freezing a recipe at one length.
#include "rope/freeze.h"

#include <algorithm>
#include <cmath>

#include "rope/kinds/longrope.h"
#include "rope/position_sets.h"
#include "rope/start_tokens.h"
#include "tensor/printable.h"

namespace rw {

RopeConfig freeze_rope(RopeScaling& scaling, int64_t length) {
  const RopeConfig& config = scaling.config();
  check(
      config.logn == LogN::none, "freeze",
      "the recipe has log-n attention (logn_scaling): its queries are scaled by the number of keys, which no constant "
      "factor can state");
  check(dynamic_cast<PositionSetScaling*>(&scaling) == nullptr, "freeze", "the RoPE type ", config.rope_type(),
        " rotates every token by several positions, which no list of factors can state");
  const auto* start = dynamic_cast<StartTokens*>(&scaling);
  check(start == nullptr || start->start_tokens(length) == 0, "freeze", "the RoPE type ", config.rope_type(),
        " has start_tokens, first tokens without interpolation, which no list of factors can state");
  check(length >= 2, "freeze", "the length must be at least 2, got ", length);
  const RopeTable table = scaling.table({.length = length});
  const std::vector<double> base = base_inv_freq(config), own = table.inv_freq.value().to_vector();  // [D/2]
  check(own.size() == base.size(), "freeze", "expected a table of ", base.size(), " frequencies, got ", own.size());
  LongRope frozen;
  for (size_t i = 0; i < base.size(); ++i) {
    const double divisor = base[i] / own[i];
    check(own[i] > 0 && std::isfinite(divisor), "freeze", "frequency ", i, " is ", printable(own[i]),
          ": a divisor cannot express it");
    frozen.long_factor.push_back(divisor);
  }
  frozen.short_factor = frozen.long_factor;
  frozen.factor = std::max(1.0, static_cast<double>(length) / static_cast<double>(config.original_window()));
  frozen.attention_factor = table.attention_scale;
  RopeConfig out = config;
  out.original_max_position_embeddings = config.original_window();
  out.max_position_embeddings = std::max(length, config.original_window());
  out.kind = frozen;
  return out;
}

}  // namespace rw
