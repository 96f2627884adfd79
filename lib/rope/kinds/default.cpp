// Plain RoPE: the base's frequencies as they are.
#include "rope/kinds/default.h"

#include "rope/fixed_scaling.h"

namespace rw {

std::unique_ptr<RopeScaling> DefaultRope::make(const RopeConfig& config) const {
  return std::make_unique<FixedScaling>(config, base_inv_freq(config));
}

}  // namespace rw
