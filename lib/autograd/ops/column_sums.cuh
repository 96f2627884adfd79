// The second stage of every sum over rows: partial rows, made by blocks of a first kernel, added up in a fixed order.
#pragma once
#include "tensor/tensor.h"

namespace rw::cuda {

/// out [C] (f32 or bf16) = or += the sum over p of partial [P,C] (f32).
void add_partial_rows(const Tensor& partial, const Tensor& out, bool add);

}  // namespace rw::cuda
