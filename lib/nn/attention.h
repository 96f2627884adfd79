// Self-attention of one block: q, k, v in one product, RoPE, causal attention, output projection.
#pragma once
#include <functional>

#include "autograd/ops/matmul.h"
#include "autograd/ops/rope.h"
#include "nn/config.h"
#include "nn/kv_cache.h"
#include "nn/param_arena.h"

namespace rw {

/// What all blocks of one forward share.
struct ForwardContext {
  RopeAngles angles;                 // of the new tokens
  Tensor query_scale;                // f32 [T] log-n attention, or undefined
  KvCache* cache = nullptr;          // generation: keys and values of earlier tokens; no gradients then
  RopeAngles key_angles;             // of all tokens, when the cache holds raw keys
  std::function<void()> after_rope;  // called in backward, once it has been through RoPE; or empty
};

/// Causal self-attention of one layer. Thread safety: as the model that it is a part of.
class Attention {
 public:
  /// Declares q_proj, k_proj, v_proj (joined) and o_proj under `prefix`, e.g. "model.layers.0.self_attn.".
  Attention(const ModelConfig& config, const std::string& prefix, ParamArena& arena);
  /// x [B,T,C] -> [B,T,C]
  Var forward(const Var& x, const ForwardContext& context, int64_t layer) const;
  /// Fetches the weights; after the arena has been allocated, and again after enable_grad().
  void bind(const ParamArena& arena);
  void set_linear(const LinearOptions& options) { linear_ = options; }

 private:
  Tensor over_cache(const Tensor& qkv, const ForwardContext& context, int64_t layer) const;

  int64_t n_heads_, n_kv_heads_, head_dim_;
  RopeLayout layout_;
  size_t q_index_, o_index_;
  LinearOptions linear_;
  Var qkv_weight_;  // [(H+2K)D, C]
  Var o_weight_;    // [C, HD]
};

}  // namespace rw
