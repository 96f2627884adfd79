// Sums. Results keep the input's dtype; partial sums are kept in f64 for f64 and in pairs of f32 blocks otherwise.
#pragma once
#include "autograd/var.h"

namespace rw {

/// Sum of all elements: shape [1].
Var sum(const Var& x);
/// Mean of all elements: shape [1].
Var mean(const Var& x);
/// Sum over the last dimension: [..., C] -> [...] (a vector gives [1]).
Var sum_last(const Var& x);

}  // namespace rw
