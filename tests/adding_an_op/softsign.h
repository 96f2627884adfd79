// The worked example of docs/adding-an-op.md: an op of a program that uses the library.
#pragma once
#include "autograd/var.h"

namespace example {

/// y = x / (1 + |x|), elementwise. Errors: x on a GPU.
rw::Var softsign(const rw::Var& x);

}  // namespace example
