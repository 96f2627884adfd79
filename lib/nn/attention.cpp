#include "nn/attention.h"

#include <cmath>

#include "autograd/ops/attention.h"
#include "autograd/ops/concat.h"
#include "autograd/ops/elementwise.h"
#include "autograd/tape.h"

namespace rw {

Attention::Attention(const ModelConfig& c, const std::string& prefix, ParamArena& arena)
    : n_heads_(c.num_attention_heads),
      n_kv_heads_(c.num_key_value_heads),
      head_dim_(c.head_dim),
      layout_(c.rope_layout) {
  const auto init = normal_init(c.initializer_range);
  // The projection back into the residual stream starts smaller, by the number of such additions (GPT-2).
  const auto out_init = normal_init(c.initializer_range / std::sqrt(2.0 * static_cast<double>(c.num_hidden_layers)));
  q_index_ = arena.add({prefix + "q_proj.weight", {n_heads_ * head_dim_, c.hidden_size}, init});
  arena.add({prefix + "k_proj.weight", {n_kv_heads_ * head_dim_, c.hidden_size}, init}, true);
  arena.add({prefix + "v_proj.weight", {n_kv_heads_ * head_dim_, c.hidden_size}, init}, true);
  o_index_ = arena.add({prefix + "o_proj.weight", {c.hidden_size, n_heads_ * head_dim_}, out_init});
}

void Attention::bind(const ParamArena& arena) {
  qkv_weight_ = arena.stacked(q_index_, 3);
  o_weight_ = arena[o_index_];
}

Var Attention::forward(const Var& x, const ForwardContext& context, int64_t layer) const {
  const int64_t batch = x.size(0), length = x.size(1);
  const Var qkv = reshape(linear(x, qkv_weight_, {}, linear_),
                          {batch, length, n_heads_ + 2 * n_kv_heads_, head_dim_});  // [B,T,H+2K,D]
  Var o;                                                                            // [B,T,H,D]
  if (context.cache) {
    check(!grad_enabled(), "attention", "a KV cache is for generation: wrap the call in NoGrad");
    o = over_cache(qkv.value(), context, layer);
  } else {
    if (context.after_rope && grad_enabled()) Tape::current().when_reached(context.after_rope);
    // Rotated where it lies: nothing else reads the unrotated product.
    const Var rotated =
        rope(qkv, context.angles, {.layout = layout_, .heads = n_heads_ + n_kv_heads_, .in_place = true});
    if (context.query_scale.defined()) {
      const Var q = scale_tokens(narrow(rotated, 2, 0, n_heads_), context.query_scale);
      const Var k = narrow(rotated, 2, n_heads_, n_heads_ + n_kv_heads_);
      o = attention(q, k, narrow(rotated, 2, n_heads_ + n_kv_heads_, n_heads_ + 2 * n_kv_heads_));
    } else {
      o = attention_packed(rotated, n_heads_, n_kv_heads_);
    }
  }
  return linear(reshape(o, {batch, length, n_heads_ * head_dim_}), o_weight_, {}, linear_);
}

Tensor Attention::over_cache(const Tensor& qkv, const ForwardContext& context, int64_t layer) const {
  KvCache& cache = *context.cache;
  const KvCache::Layer& kv = cache.layers[static_cast<size_t>(layer)];
  const int64_t total = cache.length + qkv.size(1);
  const int64_t rotated_heads = n_heads_ + (cache.raw_keys ? 0 : n_kv_heads_);
  rope(qkv, context.angles, {.layout = layout_, .heads = rotated_heads, .in_place = true});
  if (context.query_scale.defined()) {
    const Tensor q = scale_tokens(narrow(qkv, 2, 0, n_heads_), context.query_scale).value();
    const Tensor rest = narrow(qkv, 2, n_heads_, n_heads_ + 2 * n_kv_heads_).value();
    qkv.copy_from(concat({q, rest}, 2).value());
  }
  store_heads(qkv, n_heads_, kv.k, cache.length);
  store_heads(qkv, n_heads_ + n_kv_heads_, kv.v, cache.length);
  if (!cache.raw_keys) return attention_cached(qkv, n_heads_, kv.k, kv.v, total);
  const Tensor keys =
      rope(narrow(kv.k, 1, 0, total), context.key_angles, {.layout = layout_, .in_place = true}).value();
  return attention_cached(qkv, n_heads_, keys, narrow(kv.v, 1, 0, total).value(), total);
}

}  // namespace rw
