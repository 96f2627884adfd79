// Extending a model once more: which RoPE recipe a model gets that may have been extended before.
//
// What an extension goes on from is the model's real beginning, not what the last extension made of it. The table in
// docs/methods.md, "What each kind does on top of each", says it for every pair of kinds.
#pragma once
#include "rope/scaling.h"

namespace rw {

/// What a model's frequencies were pre-trained as.
struct RopeOrigin {
  int64_t window = 0;     // L, tokens
  double rope_theta = 0;  // b
  bool operator==(const RopeOrigin&) const = default;
};

/// The real original window and base of a model.
///   - A kind that interpolates (linear, ntk, yarn, llama3, longrope, clex, e2) leaves both as they were.
///   - ABF is another base, trained at full length: its base and the window it was trained at are the new beginning.
///   - Plain RoPE begins with its own window, however it came to it.
RopeOrigin rope_origin(const RopeConfig& base);

/// The recipe of `base` extended to `target` tokens by `kind`.
///   - max_position_embeddings becomes `target`; original window and base are rope_origin()'s; log-n scaling, head_dim
///     and partial_rotary_factor stay.
///   - The same kind again goes on: with `kind` at its defaults, the fields of the base's record are kept.
///   - Another kind takes the old one's place. It begins at the original window and base.
///   - The factor, of a kind that has one: `factor` if it is above 0; else the record's, if it is not the default; else
///     the same kind's factor times target / extended window, and target / L for another kind. E2-LLM's goes by length.
/// Errors: a target below the original window; plain RoPE in place of trained interpolation; another kind in place of
/// CLEX, whose learned frequencies it would drop.
RopeConfig extend_rope(const RopeConfig& base, const RopeKind& kind, int64_t target, double factor = 0);

/// The same by a recipe in JSON, as config.json's "rope_scaling". What it states is taken as it is,
/// also "original_max_position_embeddings" and "rope_theta". With `target` 0 the model is not trained:
/// the recipe takes the place of any other, and its window is the one it states, or the model's own.
/// Errors: as extend_rope and rope_recipe_from_json.
RopeConfig extend_rope(const RopeConfig& base, const std::string& recipe_json, int64_t target);

}  // namespace rw
