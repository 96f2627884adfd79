// The real beginning of a model, and the recipe of its next extension.
#include "rope/extend.h"

#include <algorithm>

#include "rope/kinds.h"

namespace rw {
namespace {

constexpr const char* kOp = "extend";

/// A default record of the base's kind means: go on with the base's settings.
RopeKind chosen(const RopeConfig& base, const RopeKind& kind) {
  const bool goes_on = kind.name() == base.kind.name();
  const bool at_defaults = kind.texts() == kind.defaults().texts();
  return goes_on && at_defaults ? base.kind : kind;
}

void check_replacement(const RopeConfig& base, const RopeKind& kind) {
  if (base.kind.name() == kind.name()) return;
  check(!base.kind.is<ClexRope>(), kOp, "the model's frequencies are learned by clex, and scaling ", kind.name(),
        " would drop them; expected scaling clex");
  const bool plain_model = base.kind.is<DefaultRope>() || base.kind.is<AbfRope>() || !base.kind.trained();
  check(!kind.is<DefaultRope>() || plain_model, kOp, "the model was trained with scaling ", base.kind.name(),
        ", which plain RoPE would drop; name a scaling: ", base.kind.name(), " goes on with it");
}

}  // namespace

RopeOrigin rope_origin(const RopeConfig& base) {
  if (const auto* abf = base.kind.get<AbfRope>()) return {base.max_position_embeddings, abf->base};
  return {base.original_window(), base.rope_theta};
}

RopeConfig extend_rope(const RopeConfig& base, const RopeKind& kind, int64_t target, double factor) {
  const RopeOrigin origin = rope_origin(base);
  check(target >= origin.window, kOp, "the target must be at least the model's original window ", origin.window,
        ", got ", target);
  check_replacement(base, kind);
  RopeConfig out = base;
  out.rope_theta = origin.rope_theta;
  out.max_position_embeddings = target;
  out.original_max_position_embeddings = kind.is<DefaultRope>() ? 0 : origin.window;
  out.kind = chosen(base, kind);
  if (!out.kind.find("factor")) {
    check(factor == 0, kOp, "a factor has no effect on scaling ", kind.name());
    return out;
  }
  const bool goes_on = kind.name() == base.kind.name() && kind.trained();
  const bool stated = kind.text("factor") != kind.defaults().text("factor");
  const double grown =
      goes_on ? base.kind.window_factor() * static_cast<double>(target) / static_cast<double>(base.extended_window())
              : static_cast<double>(target) / static_cast<double>(origin.window);
  if (factor > 0) out.kind.set("factor", number_text(factor));
  else if (!stated && !out.kind.is<E2Rope>()) out.kind.set("factor", number_text(grown));
  return out;
}

RopeConfig extend_rope(const RopeConfig& base, const std::string& recipe_json, int64_t target) {
  const RopeOrigin origin = rope_origin(base);
  RopeConfig from = base;
  from.rope_theta = origin.rope_theta;
  from.original_max_position_embeddings = origin.window;
  if (target > 0) from.max_position_embeddings = target;
  RopeConfig out = rope_recipe_from_json(from, recipe_json);
  if (target == 0) return out;
  check_replacement(base, out.kind);
  out.max_position_embeddings = target;
  if (out.kind.is<DefaultRope>()) out.original_max_position_embeddings = 0;
  return out;
}

}  // namespace rw
