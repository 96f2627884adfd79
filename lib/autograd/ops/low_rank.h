// What low-rank adapters (LoRA, Hu et al. 2021, section 4.1) add to a product.
#pragma once
#include <vector>

#include "autograd/var.h"

namespace rw {

/// Columns [begin, begin + rows) of y: those of one adapter.
struct LowRankPart {
  int64_t begin = 0, rows = 0;
};

/// y [...,N] + scale * (x a_i^T) b_i^T in the columns of each part i; x [...,K].
///
/// a [P r, K] has the P parts' a_i one under the other, b [M, r] their b_i, M the rows of all parts. All share y's
/// dtype; a and b may have f32 gradients for bf16. y is changed where it lies, so nobody else may keep it. Two products
/// whatever P is: the b_i stand on the diagonal of one matrix [N, P r]. `unread`: as LinearOptions has it. Errors:
/// shapes that do not fit.
Var add_low_rank(const Var& y, const Var& x, const Var& a, const Var& b, const std::vector<LowRankPart>& parts,
                 double scale, bool unread = false);

}  // namespace rw
