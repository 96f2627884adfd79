// RMSNorm (Zhang and Sennrich 2019), alone and fused with the residual add before it.
#pragma once
#include <utility>

#include "autograd/var.h"

namespace rw {

/// y = x / sqrt(mean(x^2) + eps) * weight over the last dimension; x [...,C], weight [C].
Var rms_norm(const Var& x, const Var& weight, double eps);

/// h = x + residual; y = rms_norm(h). Returns {h, y}: h is the next residual stream.
std::pair<Var, Var> residual_rms_norm(const Var& x, const Var& residual, const Var& weight, double eps);

}  // namespace rw
