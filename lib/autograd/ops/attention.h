// Causal grouped-query attention that never stores the T x T matrix (FlashAttention, Dao et al. 2022).
//
//   S = scale Q K^T,  S = cap tanh(S / cap) with a soft cap,  P = softmax(S) over the visible keys,  O = P V
//
// Query i has token index i + (Tk - Tq): the last query is at the last key. A causal query at index n sees the keys
// j <= n, with a window only those of n - window < j <= n (Mistral). The mask goes by token index, never by position.
// Saved for backward: q, k, v, o and the logsumexp of each row.
#pragma once
#include "autograd/var.h"

namespace rw {

struct AttentionOptions {
  bool causal = true;
  double scale = 0;     // 0: 1/sqrt(head_dim)
  int64_t window = 0;   // 0: none; else a query sees so many tokens, itself included (causal attention only)
  double soft_cap = 0;  // 0: none; else scores become soft_cap * tanh(score / soft_cap) before the mask (Gemma 2)
};

/// q [B,Tq,H,D], k and v [B,Tk,K,D] -> [B,Tq,H,D]. Head h reads kv head h / (H/K). The last query sees all keys.
/// Errors: H not a multiple of K, shapes that do not fit, Tq > Tk when causal, a window that is negative or without
/// causal, a negative soft cap.
Var attention(const Var& q, const Var& k, const Var& v, const AttentionOptions& options = {});

/// The same on one tensor: qkv [B,T,H+2K,D] holds the q heads, then the k heads, then the v heads.
Var attention_packed(const Var& qkv, int64_t n_heads, int64_t n_kv_heads, const AttentionOptions& options = {});

/// For generation, without gradients: the queries of qkv [B,T,H+2K,D] over the first `length` tokens of k_cache and
/// v_cache [B,capacity,K,D], which already hold the new tokens -> [B,T,H,D].
Tensor attention_cached(const Tensor& qkv, int64_t n_heads, const Tensor& k_cache, const Tensor& v_cache,
                        int64_t length, const AttentionOptions& options = {});

}  // namespace rw
