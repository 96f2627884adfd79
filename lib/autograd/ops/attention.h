// Causal grouped-query attention that never stores the T x T matrix (FlashAttention, Dao et al. 2022).
//
//   S = scale Q K^T, P = softmax(S) over keys j <= i + (Tk - Tq), O = P V
//
// The mask goes by token index, never by position. Saved for backward: q, k, v, o and the logsumexp of each row.
#pragma once
#include "autograd/var.h"

namespace rw {

struct AttentionOptions {
  bool causal = true;
  double scale = 0;  // 0: 1/sqrt(head_dim)
};

/// q [B,Tq,H,D], k and v [B,Tk,K,D] -> [B,Tq,H,D]. Head h reads kv head h / (H/K). The last query sees all keys.
/// Errors: H not a multiple of K, shapes that do not fit, Tq > Tk when causal.
Var attention(const Var& q, const Var& k, const Var& v, const AttentionOptions& options = {});

/// The same on one tensor: qkv [B,T,H+2K,D] holds the q heads, then the k heads, then the v heads.
Var attention_packed(const Var& qkv, int64_t n_heads, int64_t n_kv_heads, const AttentionOptions& options = {});

/// For generation, without gradients: the queries of qkv [B,T,H+2K,D] over the first `length` tokens of k_cache and
/// v_cache [B,capacity,K,D], which already hold the new tokens -> [B,T,H,D].
Tensor attention_cached(const Tensor& qkv, int64_t n_heads, const Tensor& k_cache, const Tensor& v_cache,
                        int64_t length, const AttentionOptions& options = {});

}  // namespace rw
