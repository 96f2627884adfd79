// The list of RoPE kinds that are known by name.
#include "rope/kinds.h"

namespace rw {

const std::vector<RopeKind>& rope_kinds() {
  static const std::vector<RopeKind> kinds = {
      DefaultRope{},      LinearRope{}, NtkRope{},        DynamicRope{}, DynamicLinearRope{}, YarnRope{},
      Llama3Rope{},       LongRope{},   ClexRope{},       E2Rope{},      AbfRope{},           ResonanceRope{},
      ProportionalRope{}, NopeRope{},   SelfExtendRope{}, DcaRope{},
  };
  return kinds;
}

RopeKind rope_kind(std::string_view name, std::span<const RopeKind> kinds) {
  if (kinds.empty()) kinds = rope_kinds();
  std::string known;
  for (const RopeKind& kind : kinds) {
    if (kind.name() == name) return kind;
    known += (known.empty() ? "" : ", ") + kind.name();
  }
  fail("rope_scaling", "unknown rope_type \"", name, "\"; known: ", known);
}

RopeKind::RopeKind() : RopeKind(DefaultRope{}) {}

}  // namespace rw
