// Token embedding: rows of a table.
#pragma once
#include "autograd/var.h"

namespace rw {

/// out [...ids, C] = weight[ids]; weight [V,C], ids i32. The gradient adds up repeated ids in a fixed order.
/// Errors: an id outside [0, V) (checked on the CPU; on a GPU such a row gives zeros).
Var embedding(const Tensor& ids, const Var& weight);

}  // namespace rw
