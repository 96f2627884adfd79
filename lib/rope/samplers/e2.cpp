// E2-LLM: the fields of its record, and the draw of a sample.
#include "rope/samplers/e2.h"

#include <algorithm>

namespace rw {

std::vector<Field> E2Positions::fields() {
  return {
      field("max_factor", &E2Positions::max_factor).at_least(1).at_most(65536).option().help("largest scale factor"),
      field("per_step", &E2Positions::per_step).option().help("one scale factor per step instead of one per sample"),
      field("sink_tokens", &E2Positions::sink_tokens)
          .at_least(0)
          .at_most(1 << 30)
          .option()
          .help("first tokens that are not moved"),
      field("fixed_g", &E2Positions::fixed_g).option().help("always the largest scale (the paper's ablation)"),
      field("fixed_t", &E2Positions::fixed_t).option().help("no offset (the paper's ablation)"),
  };
}

void E2Positions::check_spec(const SampleSpec& spec) const {
  const int64_t l = spec.original_window > 0 ? spec.original_window : spec.window;
  rw::check(max_factor * l >= spec.window, kName, "max_factor ", max_factor, " times the window ", l,
            " is shorter than the samples, ", spec.window, " tokens");
}

void E2Positions::draw(Draw& s) const {
  Random& random = per_step ? s.shared : s.random;
  const int64_t least = std::max<int64_t>(1, (s.window + s.original_window - 1) / s.original_window);
  const int64_t g = fixed_g ? max_factor : random.between(least, max_factor);
  const int64_t most = std::max<int64_t>(0, g * s.original_window - s.window);
  const int64_t offset = fixed_t ? 0 : random.between(0, most);
  for (int64_t m = 0; m < s.window; ++m) {
    const int64_t shifted = m < sink_tokens ? m : m + offset;
    s.positions[m] = static_cast<float>(static_cast<double>(shifted) / static_cast<double>(g));
  }
  s.take_contiguous_text();
  s.t = static_cast<double>(g);
}

}  // namespace rw
