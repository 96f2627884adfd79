// Internal: angles in f32, as transformers makes them.
#pragma once
#include "autograd/ops/rope.h"
#include "rope/scaling.h"

namespace rw {

/// cos and sin, f32 [1,T,R/2], for positions f32 [1,T] of a sequence of T tokens, with every step rounded to f32 as
/// transformers rounds it:
///   theta_i = 1 / base^(2i/R)     linear: theta_i / s     LongRoPE: 1 / (ext_i base^(2i/R))
///   angle = position theta_i
/// rope_angles() computes them in f64 and rounds once: at position 1500 the angles differ by up to 1e-4. For comparisons
/// with transformers. Errors: another kind of recipe.
RopeAngles f32_angles(const RopeConfig& config, const Tensor& positions, Device device);

}  // namespace rw
