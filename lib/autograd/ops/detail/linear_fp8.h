// Internal: y = x W^T in 8-bit products, which is what linear() does with Matmul::fp8.
//
//   y  = e4m3(x) e4m3(W)^T        dx = e5m2(dy) e4m3(W)        dW = e5m2(dy)^T e4m3(x)
//
// Every factor is copied with a scale of its own, from its own largest value (tensor/quantize.h), each time anew: there
// is no state, so a run repeats and resumes bit for bit, and recomputed, accumulated and replayed steps need nothing
// else. Sums are kept in f32, results are bf16, the weight's gradient f32 or what its buffer is.
//
// Backward keeps the 8-bit transpose of x, a byte per element, where the bf16 product keeps x itself; or nothing, where
// x can be recomputed.
#pragma once
#include "autograd/var.h"

namespace rw {

/// Whether x [R,K] and W [N,K] can be multiplied in 8 bits: R, N and K are multiples of 16.
bool fp8_fits(int64_t rows, int64_t n, int64_t k);
/// Whether linear() multiplies x [R,K] by W [N,K] in 8 bits where it is asked to: they fit, and the product is large
/// enough to gain more than the copies cost. It depends on the sizes alone, never on a clock, so that a run repeats.
bool fp8_pays(int64_t rows, int64_t n, int64_t k);

/// x [...,K], weight [N,K] -> [...,N]; all bf16, or f32 on the CPU. `recompute_input` as in
/// LinearOptions. Arguments were checked by linear().
Var linear_fp8(const Var& x, const Var& weight, bool recompute_input = false, bool unread = false);

}  // namespace rw
