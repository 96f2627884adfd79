// ABF, adjusted base frequency (Llama 2 Long, arXiv 2309.16039; CodeLlama): another base, then long training. The
// recipe keeps the old rope_theta beside the new base; elsewhere the same model is plain RoPE with rope_theta = base.
#include "rope/kinds.h"

namespace rw {

std::unique_ptr<RopeScaling> make_abf_rope(const RopeConfig& config) {
  check(config.base > 1, "rope_scaling", "abf: base must be above 1, got ", config.base);
  RopeConfig rebased = config;
  rebased.rope_theta = config.base;
  return std::make_unique<FixedScaling>(config, base_inv_freq(rebased));
}

}  // namespace rw
