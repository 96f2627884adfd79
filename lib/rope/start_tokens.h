// Internal: RoPE kinds whose first tokens keep the angles of plain RoPE (LongRoPE's start token threshold, Ding et al.
// 2024, section 3.3: the first n^ tokens are not interpolated).
//
//   angle of pair i at position p:   p theta_i  for p < n^,   p theta'_i  from there on
//
// At inference only.
#pragma once
#include "autograd/ops/rope.h"
#include "rope/scaling.h"

namespace rw {

/// Thread safety: as RopeScaling.
class StartTokens {
 public:
  virtual ~StartTokens() = default;
  /// n^ for a sequence of `length` tokens; 0: none.
  virtual int64_t start_tokens(int64_t length) const = 0;
  /// theta of those tokens: f64 [R/2].
  virtual const Tensor& start_inv_freq() const = 0;
};

/// Angles of `table` for positions f32 [B,T] on the host, but those of `start` below its threshold for `length` tokens.
/// Errors: as rope_angles; frequencies that differ by sample.
RopeAngles angles_after_start(const StartTokens& start, int64_t length, const Tensor& positions, const RopeTable& table,
                              DType dtype, Device device);

}  // namespace rw
