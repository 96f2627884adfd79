// Freezing a recipe: the table that any RoPE kind has at one length, as constant divisors that other programs read.
#pragma once
#include "rope/scaling.h"

namespace rw {

/// The recipe that has, at every length, the table which `scaling` has at `length` tokens: theta'_i = theta_i / ext_i
/// with an attention scale A. It is written as `longrope` with equal short and long lists (transformers, vLLM) and as
/// `rope_freqs` (llama.cpp). Within `length` tokens a frozen model gives the logits of the original at exactly `length`
/// tokens. Learned frequencies (CLEX) are solved with the parameters that `scaling` holds.
/// Errors: log-n attention, whose queries depend on the length; a length below 2; a table with a frequency of 0.
RopeConfig freeze_rope(RopeScaling& scaling, int64_t length);

}  // namespace rw
