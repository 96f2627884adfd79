// Ordinary positions.
#include "rope/samplers/contiguous.h"

namespace rw {

void ContiguousPositions::draw(Draw& s) const { s.take_ordinary(s.window); }

}  // namespace rw
