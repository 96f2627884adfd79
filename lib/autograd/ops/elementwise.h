// Elementwise ops. All tensors of one call share shape, dtype and device; nothing broadcasts except add_bias.
#pragma once
#include "autograd/var.h"

namespace rw {

/// a + b
Var add(const Var& a, const Var& b);
/// a - b
Var sub(const Var& a, const Var& b);
/// a * b
Var mul(const Var& a, const Var& b);
/// factor * x
Var scale(const Var& x, double factor);
/// x [..., C] + bias [C]
Var add_bias(const Var& x, const Var& bias);
/// x [B,T,...] with token t of every sample multiplied by factor[t]; factor f32 [T] is a constant (log-n attention).
Var scale_tokens(const Var& x, const Tensor& factor);
/// e^x
Var exp(const Var& x);
/// ln x
Var log(const Var& x);
/// tanh x
Var tanh(const Var& x);
/// x * sigmoid(x)
Var silu(const Var& x);
/// cap * tanh(x / cap): x while it is small, never beyond cap (Gemma 2's soft cap of logits). Errors: cap not positive.
Var soft_cap(const Var& x, double cap);
/// The same values under another shape (a view; nothing is copied).
Var reshape(const Var& x, const Shape& shape);

}  // namespace rw
