// A linear layer whose frozen weight is kept in blocks of few bits (QLoRA, Dettmers et al. 2023).
#pragma once
#include "autograd/var.h"
#include "tensor/block_quantize.h"

namespace rw {

/// y [...,N] = x [...,K] W^T + bias, W the values of `weight` [N,K] in x's dtype; bias [N] or undefined.
///
/// Forward and backward each make W in memory of its own for the time of one product: N K values in x's dtype. W has no
/// gradient, and x is not kept. `unread`: as LinearOptions has it. Errors: shapes or devices that do not fit.
Var linear_blocks(const Var& x, const BlockMatrix& weight, const Var& bias = {}, bool unread = false);

}  // namespace rw
