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

}  // namespace rw
