// Changing dtype.
#pragma once
#include "autograd/var.h"

namespace rw {

/// x in another floating dtype; the gradient comes back in x's.
Var cast(const Var& x, DType dtype);

}  // namespace rw
