// DroPE's samples.
#include "rope/samplers/drope.h"

#include <algorithm>

namespace rw {

void DropePositions::draw(Draw& s) const {
  for (int64_t m = 0; m < s.window; ++m) s.positions[m] = static_cast<float>(m);
  s.take_contiguous_text();
  s.t = std::max(1.0, static_cast<double>(s.target) / static_cast<double>(s.original_window));
}

}  // namespace rw
