// Recompute regions (activation checkpointing, Chen et al. 2016): keep a region's
// inputs only and run it again in backward.
#pragma once
#include <functional>
#include <vector>

#include "autograd/tape.h"

namespace rw {

using RecomputedRegion = std::function<std::vector<Var>(const std::vector<Var>&)>;

/// Runs `region` without recording its inside; backward runs it once more, recorded, and differentiates
/// it. `region` must be a pure function of `inputs` and of leaves it captures (their gradients are
/// collected as usual), and give the same values both times. Peak memory falls from the region's
/// activations to its inputs, for one more forward of the region.
std::vector<Var> recompute(const RecomputedRegion& region, const std::vector<Var>& inputs);

/// y = region(x) for x [...,K] -> y [...,N], a function of each row alone, at most `rows` rows at a time. Of each part
/// backward makes the activations again, so that no more than one part's are alive; gradients of leaves that `region`
/// captures add up over the parts. `region`, which also gets the number of the first row, as in recompute(). Errors:
/// rows below 1.
Var by_tiles(const std::function<Var(const Var&, int64_t first)>& region, const Var& x, int64_t rows);

}  // namespace rw
