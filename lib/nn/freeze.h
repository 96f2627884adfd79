// A model whose RoPE recipe is frozen at one length, for programs that know constant factors only.
#pragma once
#include <memory>

#include "nn/causal_lm.h"

namespace rw {

/// A copy of `model` under freeze_rope() (rope/freeze.h) of its recipe at `length` tokens. What the recipe had learned
/// (CLEX) is in the factors, and the copy has no such parameters. Errors: as freeze_rope.
std::unique_ptr<CausalLm> freeze_model(const CausalLm& model, int64_t length);

}  // namespace rw
