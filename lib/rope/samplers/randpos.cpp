// RandPos: the draw of a sample.
#include "rope/samplers/randpos.h"

#include <algorithm>

namespace rw {

void RandPosPositions::check_spec(const SampleSpec& spec) const {
  rw::check(spec.target >= spec.window, kName, "target must be at least the window ", spec.window, ", got ",
            spec.target);
}

void RandPosPositions::draw(Draw& s) const {
  const std::vector<int64_t> chosen = sorted_subset(s.random, s.window, s.target);
  std::copy(chosen.begin(), chosen.end(), s.positions);
  s.take_contiguous_text();
  s.t = std::max(1.0, static_cast<double>(s.target) / static_cast<double>(s.original_window));
}

}  // namespace rw
