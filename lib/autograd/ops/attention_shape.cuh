// Which keys a query sees and which queries see a key, in the kernels' 32 bits. No sum here passes 2^31: there are
// fewer than 2^30 queries and keys, and a window is shorter than the keys. Products are left to those who make them.
#pragma once
#include "autograd/ops/cuda_ops.h"
#include "tensor/launch.cuh"

namespace rw::cuda::attn {

/// AttentionShape in the kernels' types.
struct Shape {
  int batch, n_heads, group, tq, tk, head_dim;  // group: q heads per kv head
  int offset;                                   // Tk - Tq: query i sees keys up to i + offset
  bool causal;
  float scale;
  int window;  // 0: none; else query i sees keys j > i + offset - window only
  float cap;   // 0: none; else scores become cap tanh(score / cap)

  explicit Shape(const AttentionShape& s)
      : batch(static_cast<int>(s.batch)),
        n_heads(static_cast<int>(s.n_heads)),
        group(static_cast<int>(s.n_heads / s.n_kv_heads)),
        tq(static_cast<int>(s.q_length)),
        tk(static_cast<int>(s.k_length)),
        head_dim(static_cast<int>(s.head_dim)),
        offset(static_cast<int>(s.k_length - s.q_length)),
        causal(s.causal),
        scale(static_cast<float>(s.scale)),
        window(static_cast<int>(s.window)),
        cap(static_cast<float>(s.soft_cap)) {}

  /// Keys seen by any of the queries before `query_end`.
  __host__ __device__ int keys_until(int query_end) const {
    const int seen = query_end + offset;
    return causal && seen < tk ? seen : tk;
  }
  /// The first query that sees key `key`.
  __host__ __device__ int first_query(int key) const {
    const int query = key - offset;
    return causal && query > 0 ? query : 0;
  }
  /// The first key seen by any of the queries from `query_begin` on.
  __host__ __device__ int first_key(int query_begin) const {
    const int key = query_begin + offset + 1 - window;
    return window > 0 && key > 0 ? key : 0;
  }
  /// The queries that see any of the keys before `key_end` end here.
  __host__ __device__ int queries_until(int key_end) const {
    const int end = key_end - 1 + window - offset;
    return window > 0 && end < tq ? end : tq;
  }
  /// By the causal mask; kernels without windows need no more.
  __host__ __device__ bool masked(int query, int key) const { return key >= tk || (causal && key > query + offset); }
  /// Whether a tile of queries [q0, ...) x keys [.., k_end) holds a masked element.
  __host__ __device__ bool needs_mask(int q0, int k_end) const {
    return k_end > tk || (causal && k_end - 1 > q0 + offset);
  }
  /// The same with the window.
  __host__ __device__ bool hidden(int query, int key) const {
    return masked(query, key) || (window > 0 && key <= query + offset - window);
  }
  __host__ __device__ bool needs_hiding(int q0, int q_end, int k0, int k_end) const {
    return needs_mask(q0, k_end) || (window > 0 && k0 <= q_end - 1 + offset - window);
  }
};

}  // namespace rw::cuda::attn
