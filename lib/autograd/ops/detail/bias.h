// Internal: a bias for the rows of a matrix and its gradient, for the ops that carry one.
#pragma once
#include "tensor/tensor.h"

namespace rw::detail {

/// y [..., C] = x [..., C] + bias [C], on either device. y may be x.
void add_bias_rows(const Tensor& x, const Tensor& bias, const Tensor& y);

/// out [C] = (add ? out : 0) + column sums of x [..., C], on either device, in a fixed order. On the CPU the sums are
/// kept in f64 and rounded once to the dtype of out. `slab_sums`: GradSlot's of x, if they are known (on a GPU), the same
/// sums without reading x again.
void sum_columns(const Tensor& x, const Tensor& out, bool add, const Tensor& slab_sums = {});

}  // namespace rw::detail
