// Internal: RoPE kinds under which a query and a key meet at positions that depend on both: Self-Extend and Dual Chunk Attention.
// Frequencies are those of plain RoPE; what changes is which position each token has in which set, and in which set a
// pair of tokens meets. Both methods work on a trained model as it is, at inference only.
#pragma once
#include "autograd/ops/attention_sets.h"
#include "rope/fixed_scaling.h"

namespace rw {

/// Thread safety: as RopeScaling; the functions below are const and depend on nothing else.
class PositionSetScaling : public FixedScaling {
 public:
  using FixedScaling::FixedScaling;

  virtual size_t sets() const = 0;
  /// The position of token m as a query, and of token n as a key, in a set.
  virtual int64_t query_position(size_t set, int64_t m) const = 0;
  virtual int64_t key_position(size_t set, int64_t n) const = 0;
  /// Which keys the query at token m meets in which set (attention_sets.h).
  virtual void key_ranges(int64_t m, std::vector<KeyRange>& out) const = 0;
  /// True if up to `length` tokens all pairs meet at m - n: plain attention then.
  virtual bool plain_up_to(int64_t length) const = 0;
};

}  // namespace rw
