// Linear layers that do the op after them in the product's epilogue, where the GPU has kernels for that: bf16 on
// Hopper, from some millions of results on. Elsewhere they are linear() and the op, one after the other, with the same
// bits.
#pragma once
#include "autograd/ops/matmul.h"
#include "autograd/ops/rope.h"

namespace rw {

/// swiglu_packed(x up^T) down^T: x [...,K], up [2F,K] (gate first), down [C,F] -> [...,C]. `options` are those of both
/// layers, `unread` of the second alone; 8-bit products go the plain way. Errors: shapes, dtypes or devices that do not
/// fit.
Var swiglu_mlp(const Var& x, const Var& up, const Var& down, const LinearOptions& options = {});

/// rope(x weight^T): x [B,T,K], weight [H D,K] -> [B,T,H,D]. `rope` as in rope(), which works in place here. Errors:
/// those of linear() and rope().
Var linear_rope(const Var& x, const Var& weight, int64_t head_dim, const RopeAngles& angles, RopeOptions rope,
                const LinearOptions& options = {});

}  // namespace rw
