// Self-attention of one block: q, k, v in one product, their norms, RoPE, causal attention, output projection. Which of
// these, and how, the description in nn/config.h says.
#pragma once
#include <functional>
#include <memory>
#include <span>
#include <vector>

#include "autograd/ops/attention.h"
#include "autograd/ops/attention_sets.h"
#include "autograd/ops/rope.h"
#include "nn/config.h"
#include "nn/kv_cache.h"
#include "nn/linear.h"

namespace rw {

/// Queries and keys that meet at positions of several sets (rope/position_sets.h).
struct PositionSetAngles {
  std::vector<RopeAngles> queries, keys;  // of the new tokens, and of all tokens; one for each set
  KeyRanges ranges;
};

/// What all blocks of one forward share.
struct ForwardContext {
  RopeAngles angles;                              // of the new tokens
  RopeAngles local_angles;                        // the same by ModelConfig::local_rope, if there is one
  Tensor query_scale;                             // f32 [T] log-n attention, or undefined
  KvCache* cache = nullptr;                       // generation: keys and values of earlier tokens; no gradients then
  RopeAngles key_angles;                          // of all tokens, when the cache holds raw keys
  std::span<KvCache* const> caches;               // instead of cache: token t is the next one of text t
  std::shared_ptr<const PositionSetAngles> sets;  // takes the place of angles and key_angles; inference only
  std::function<void()> after_rope;               // called in backward, once it has been through RoPE; or empty
  bool unread = false;                            // nobody reads what the block gives (autograd/recompute.h)
};

/// Causal self-attention of one layer. Thread safety: as the model that it is a part of.
class Attention {
 public:
  /// Declares q_proj, k_proj, v_proj (joined) and o_proj, or what the family calls them, under `prefix`, e.g.
  /// "model.layers.0."; and the norms of q and k, if there are.
  Attention(const ModelConfig& config, int64_t layer, const std::string& prefix, ParamArena& arena);
  /// x [B,T,C] -> [B,T,C]
  Var forward(const Var& x, const ForwardContext& context) const;
  /// Fetches the weights; after the arena has been allocated, and again after enable_grad().
  void bind(const ParamArena& arena);
  void set_linear(const LinearOptions& options);

  Linear& qkv() { return qkv_; }  // [(H+2K)D, C]
  const Linear& qkv() const { return qkv_; }
  Linear& output() { return o_; }  // [C, HD]
  const Linear& output() const { return o_; }
  const Var& q_norm() const { return q_norm_; }  // [D] or [HD]; undefined without norms of q and k
  const Var& k_norm() const { return k_norm_; }

 private:
  Var project(const Var& x) const;
  Var project_and_rotate(const Var& x, const ForwardContext& context) const;
  Var normed(const Var& qkv) const;
  Tensor over_sets(const Tensor& qkv, const Tensor& keys, const Tensor& values, const ForwardContext& context) const;
  Tensor over_cache(const Tensor& qkv, const ForwardContext& context) const;
  Tensor over_caches(const Tensor& qkv, const ForwardContext& context) const;
  void rotate_for_cache(const Tensor& qkv, const ForwardContext& context, bool keys) const;

  int64_t layer_, n_heads_, n_kv_heads_, head_dim_;
  RopeLayout layout_;
  LayerDescription description_;
  AttentionOptions options_;
  QkNorm qk_norm_;
  double norm_eps_, norm_weight_offset_;
  Linear qkv_, o_;
  size_t q_norm_index_ = 0, k_norm_index_ = 0;
  Var q_norm_, k_norm_;
};

}  // namespace rw
