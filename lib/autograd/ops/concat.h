// Putting tensors together and taking parts out.
#pragma once
#include <vector>

#include "autograd/var.h"

namespace rw {

/// Joins along dimension `dim`; all other sizes agree.
Var concat(const std::vector<Var>& parts, int dim);

/// Indices [begin, end) of dimension `dim`.
Var narrow(const Var& x, int dim, int64_t begin, int64_t end);

/// Rows of the first dimension by index (may repeat): x [N,...], index i32 [M] -> [M,...].
Var index_rows(const Var& x, const Tensor& index);

}  // namespace rw
