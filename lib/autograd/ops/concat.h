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

/// Without gradients: heads [first, first + K) of packed [B,T,*,D] go to tokens [at, at + T) of cache [B,capacity,K,D].
void store_heads(const Tensor& packed, int64_t first, const Tensor& cache, int64_t at);

}  // namespace rw
