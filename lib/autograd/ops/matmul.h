// Matrix products with gradients, on the one gemm of tensor/gemm.h.
#pragma once
#include "autograd/var.h"

namespace rw {

/// a [M,K] x b [K,N] -> [M,N]
Var matmul(const Var& a, const Var& b);

/// How a layer multiplies (detail/linear_fp8.h).
enum class Matmul {
  native,        // in the dtype of its operands
  fp8,           // in 8-bit floats where the product is large enough to gain by it
  fp8_wherever,  // in 8-bit floats wherever sizes are multiples of 16: for tests
};

struct LinearOptions {
  Matmul matmul = Matmul::native;
  /// Backward recomputes x from tensors that other ops keep (Var::recomputation), where it can, instead of keeping x,
  /// or an 8-bit copy of it for 8-bit products. The bits are the same. It takes less memory and more time.
  bool recompute_input = false;
  /// Nobody reads the values of y (autograd/recompute.h), which may be left out; gradients are as ever.
  bool unread = false;
};

/// y [...,N] = x [...,K] W^T + bias, W [N,K] as HF stores it, bias [N] or undefined. The gradient buffer of a bf16
/// weight or bias may be f32 or bf16. Errors: shapes, dtypes or devices that do not fit.
Var linear(const Var& x, const Var& weight, const Var& bias = {}, const LinearOptions& options = {});

}  // namespace rw
