// Causal attention with several sets of positions (Self-Extend, Dual Chunk Attention). Queries and keys are rotated
// once for each set. Every key of a query belongs to one set, and the two meet under the positions of that set.
//
//   S[m,n] = scale <q_s[m], k_s[n]>,  s = the set whose range of m holds n;   P = softmax over all n <= m,   O = P V
//
// For inference, on the CPU.
#pragma once
#include <functional>
#include <span>
#include <vector>

#include "autograd/ops/attention.h"

namespace rw {

/// Keys [begin, end) of one query meet it in set `set`.
struct KeyRange {
  size_t set;
  int64_t begin, end;
};
/// The ranges of the query at token m: together [0, m], without gaps or overlaps.
using KeyRanges = std::function<void(int64_t m, std::vector<KeyRange>& out)>;

/// q: one [B,Tq,H,D] for each set, k: one [B,Tk,K,D] for each set, v [B,Tk,K,D] -> [B,Tq,H,D]. The last query is at the
/// last key. Errors: tensors on a GPU, shapes that do not fit, a window in the options, ranges that do not cover
/// [0, m].
Tensor attention_sets(std::span<const Tensor> q, std::span<const Tensor> k, const Tensor& v, const KeyRanges& ranges,
                      const AttentionOptions& options = {});

}  // namespace rw
