// ABF, adjusted base frequency (Llama 2 Long, arXiv 2309.16039; CodeLlama): another base, then long training. The
// recipe keeps the old rope_theta beside the new base; elsewhere the same model is plain RoPE with rope_theta = base.
#pragma once
#include "rope/scaling.h"

namespace rw {

struct AbfRope {
  static constexpr const char* kName = "abf";
  static constexpr const char* kSummary = "ABF: another base";
  static std::vector<Field> fields();

  double base = 0;  // the new base; must be given

  void check(const RopeConfig&) const {}
  std::unique_ptr<RopeScaling> make(const RopeConfig& config) const;
  double window_factor() const { return 1; }
  bool operator==(const AbfRope&) const = default;
};

}  // namespace rw
