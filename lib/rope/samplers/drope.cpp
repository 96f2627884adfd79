// DroPE's samples.
#include "rope/samplers/drope.h"

namespace rw {

void DropePositions::draw(Draw& s) const { s.take_ordinary(s.target); }

}  // namespace rw
