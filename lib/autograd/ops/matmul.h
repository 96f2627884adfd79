// Matrix products with gradients, on the one gemm of tensor/gemm.h.
#pragma once
#include "autograd/var.h"

namespace rw {

/// a [M,K] x b [K,N] -> [M,N]
Var matmul(const Var& a, const Var& b);

/// y [...,N] = x [...,K] W^T + bias, W [N,K] as HF stores it, bias [N] or undefined. The gradient buffer of a bf16
/// weight or bias may be f32 or bf16. Errors: shapes, dtypes or devices that do not fit.
Var linear(const Var& x, const Var& weight, const Var& bias = {});

}  // namespace rw
