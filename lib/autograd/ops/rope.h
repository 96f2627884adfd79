// Rotary position embedding (Su et al. 2021) over any positions and any
// frequencies, differentiable in both x and inv_freq.
//
//   angle[b,t,i] = positions[b,t] * inv_freq[b,i]
//   y1 = A (x1 cos - x2 sin),  y2 = A (x2 cos + x1 sin)      for every pair (x1, x2) = pair i of a head
//
// A is YaRN's attention scale. Backward needs the output only (g = dL/dy):
//   dx = A R(-angle) g,   dL/dangle = g2 y1 - g1 y2,   dL/dinv_freq[i] = sum over t, heads of positions[t] dL/dangle
#pragma once
#include "autograd/var.h"

namespace rw {

/// Which two elements of a head form pair i.
enum class RopeLayout {
  half,         // (i, i + R/2): HF, NeoX
  interleaved,  // (2i, 2i + 1): Meta, llama2.c
};

/// cos and sin of a batch, made once and used by every layer.
struct RopeAngles {
  Tensor positions;  // f32 [B,T], or [1,T] for all samples
  Var inv_freq;      // f64 or f32 [R/2], or [B,R/2] for per-sample frequencies
  Tensor cos, sin;   // [B or 1, T, R/2], A not included; f32, or f64 for f64 work
  double scale = 1;  // A
};

/// Computes cos and sin in f64 and rounds once to `dtype` (bf16 work takes f32 tables: angles are never below f32).
/// Errors: positions not [B,T], inv_freq neither [R/2] nor [B,R/2], two batch sizes that differ.
RopeAngles rope_angles(const Tensor& positions, const Var& inv_freq, double scale, DType dtype, Device device);

struct RopeOptions {
  RopeLayout layout = RopeLayout::half;
  int64_t heads = -1;     // rotate only the first so many heads, copy the others (packed q, k, v); -1: all
  bool in_place = false;  // the result reuses x's bytes: x must not be used afterwards
  bool turned = false;    // in place, and the bytes have turned already (linear_rope): only the gradient is left to do
};

/// x [B,T,H,D] -> [B,T,H,D]; the first R elements of each head rotate (R = 2 * size of inv_freq, partial rotary if R <
/// D). Errors: angles made for another batch, length or dtype; R > D.
Var rope(const Var& x, const RopeAngles& angles, const RopeOptions& options = {});

}  // namespace rw
