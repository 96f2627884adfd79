// The attention module: the description's choices, and the KV cache.
#include "nn/attention.h"

#include <cmath>

#include "autograd/ops/concat.h"
#include "autograd/ops/elementwise.h"
#include "autograd/ops/linear_fused.h"
#include "autograd/ops/norm.h"
#include "autograd/tape.h"
#include "nn/families/family.h"

namespace rw {
namespace {

Linear make_qkv(const ModelConfig& c, const std::string& prefix, ParamArena& arena) {
  const ParameterNames& names = family_record(c.family).names;
  const int64_t q = c.num_attention_heads * c.head_dim, kv = c.num_key_value_heads * c.head_dim;
  std::vector<Linear::Part> parts;
  if (names.qkv.size() == 1) {
    parts = {{prefix + names.qkv[0], q + 2 * kv}};
  } else {
    parts = {{prefix + names.qkv[0], q}, {prefix + names.qkv[1], kv}, {prefix + names.qkv[2], kv}};
  }
  return Linear(std::move(parts), c.hidden_size, c.block.qkv_bias, normal_init(c.initializer_range), arena, c.adapter);
}

Linear make_output(const ModelConfig& c, const std::string& prefix, ParamArena& arena) {
  // The projection back into the residual stream starts smaller, by the number of such additions (GPT-2).
  const auto init = normal_init(c.initializer_range / std::sqrt(2.0 * static_cast<double>(c.num_hidden_layers)));
  return Linear({{prefix + family_record(c.family).names.o, c.hidden_size}}, c.num_attention_heads * c.head_dim,
                c.block.o_bias, init, arena, c.adapter);
}

}  // namespace

Attention::Attention(const ModelConfig& c, int64_t layer, const std::string& prefix, ParamArena& arena)
    : layer_(layer),
      n_heads_(c.num_attention_heads),
      n_kv_heads_(c.num_key_value_heads),
      head_dim_(c.head_dim),
      layout_(c.rope_layout),
      description_(c.layer(layer)),
      options_{.scale = c.block.attention_scale, .window = c.layer(layer).window, .soft_cap = c.block.soft_cap},
      qk_norm_(c.block.qk_norm),
      norm_eps_(c.norm_eps),
      norm_weight_offset_(c.block.norm_weight_offset),
      qkv_(make_qkv(c, prefix, arena)),
      o_(make_output(c, prefix, arena)) {
  if (qk_norm_ == QkNorm::none) return;
  const ParameterNames& names = family_record(c.family).names;
  const bool across = qk_norm_ == QkNorm::across;
  const auto declare = [&](const std::string& name, int64_t heads) {
    const Shape shape{across ? heads * head_dim_ : head_dim_};
    return arena.add({prefix + name + ".weight", shape, constant_init(1 - norm_weight_offset_), false});
  };
  q_norm_index_ = declare(names.q_norm, n_heads_);
  k_norm_index_ = declare(names.k_norm, n_kv_heads_);
}

void Attention::bind(const ParamArena& arena) {
  qkv_.bind(arena);
  o_.bind(arena);
  if (qk_norm_ == QkNorm::none) return;
  q_norm_ = arena[q_norm_index_];
  k_norm_ = arena[k_norm_index_];
}

void Attention::set_linear(const LinearOptions& options) {
  qkv_.set_linear(options);
  o_.set_linear(options);
}

Var Attention::normed(const Var& qkv) const {
  if (qk_norm_ == QkNorm::none) return qkv;
  return qk_norm(qkv, q_norm_, k_norm_,
                 {.n_heads = n_heads_,
                  .n_kv_heads = n_kv_heads_,
                  .eps = norm_eps_,
                  .weight_offset = norm_weight_offset_,
                  .across_heads = qk_norm_ == QkNorm::across,
                  .in_place = true});
}

/// x [B,T,C] -> queries, keys and values, without RoPE: [B,T,H+2K,D]
Var Attention::project(const Var& x) const {
  return normed(reshape(qkv_.forward(x), {x.size(0), x.size(1), n_heads_ + 2 * n_kv_heads_, head_dim_}));
}

/// The same with RoPE.
Var Attention::project_and_rotate(const Var& x, const ForwardContext& context) const {
  const bool announces = context.after_rope && grad_enabled();
  const RopeAngles& angles = description_.local_rope ? context.local_angles : context.angles;
  // Rotated where it lies: nothing else reads the unrotated product.
  const RopeOptions rotation{.layout = layout_, .heads = n_heads_ + n_kv_heads_, .in_place = true};
  if (description_.rope && qkv_.is_plain() && qk_norm_ == QkNorm::none && !announces)
    return linear_rope(x, qkv_.weight(), head_dim_, angles, rotation, qkv_.options());
  const Var qkv = project(x);
  if (announces) Tape::current().when_reached(context.after_rope);
  return description_.rope ? rope(qkv, angles, rotation) : qkv;
}

Var Attention::forward(const Var& x, const ForwardContext& context) const {
  const int64_t batch = x.size(0), length = x.size(1);
  Var o;  // [B,T,H,D]
  if (context.cache || !context.caches.empty()) {
    check(!grad_enabled(), "attention", "a KV cache is for generation: wrap the call in NoGrad");
    const Tensor qkv = project(x).value();
    o = context.cache ? over_cache(qkv, context) : over_caches(qkv, context);
  } else if (context.sets && description_.rope && !description_.local_rope) {
    const Var qkv = project(x);
    const Tensor k = narrow(qkv, 2, n_heads_, n_heads_ + n_kv_heads_).value(),
                 v = narrow(qkv, 2, n_heads_ + n_kv_heads_, n_heads_ + 2 * n_kv_heads_).value();
    o = over_sets(qkv.value(), k, v, context);
  } else {
    const Var rotated = project_and_rotate(x, context);
    if (context.query_scale.defined()) {
      const Var q = scale_tokens(narrow(rotated, 2, 0, n_heads_), context.query_scale);
      const Var k = narrow(rotated, 2, n_heads_, n_heads_ + n_kv_heads_);
      o = attention(q, k, narrow(rotated, 2, n_heads_ + n_kv_heads_, n_heads_ + 2 * n_kv_heads_), options_);
    } else {
      o = attention_packed(rotated, n_heads_, n_kv_heads_, options_);
    }
  }
  return o_.forward(reshape(o, {batch, length, n_heads_ * head_dim_}));
}

Tensor Attention::over_sets(const Tensor& qkv, const Tensor& keys, const Tensor& values,
                            const ForwardContext& context) const {
  check(!grad_enabled(), "attention",
        "Self-Extend and Dual Chunk Attention are for inference: wrap the call in NoGrad");
  Tensor q = narrow(qkv, 2, 0, n_heads_).value();  // [B,T,H,D], not rotated
  if (context.query_scale.defined()) q = scale_tokens(q, context.query_scale).value();
  std::vector<Tensor> queries, rotated;
  for (size_t s = 0; s < context.sets->queries.size(); ++s) {
    queries.push_back(rope(q, context.sets->queries[s], {.layout = layout_}).value());
    rotated.push_back(rope(keys, context.sets->keys[s], {.layout = layout_}).value());
  }
  return attention_sets(queries, rotated, values, context.sets->ranges, options_);
}

/// qkv [B,T,H+2K,D]: queries, and keys if wanted, turned where they lie; queries scaled.
void Attention::rotate_for_cache(const Tensor& qkv, const ForwardContext& context, bool keys) const {
  const RopeAngles& angles = description_.local_rope ? context.local_angles : context.angles;
  const RopeOptions rotation{.layout = layout_, .heads = n_heads_ + (keys ? n_kv_heads_ : 0), .in_place = true};
  if (description_.rope) rope(qkv, angles, rotation);
  if (!context.query_scale.defined()) return;
  const Tensor q = scale_tokens(narrow(qkv, 2, 0, n_heads_), context.query_scale).value();
  const Tensor rest = narrow(qkv, 2, n_heads_, n_heads_ + 2 * n_kv_heads_).value();
  qkv.copy_from(concat({q, rest}, 2).value());
}

/// qkv [1,n,H+2K,D], a token of each text -> [1,n,H,D]
Tensor Attention::over_caches(const Tensor& qkv, const ForwardContext& context) const {
  const auto n = static_cast<int64_t>(context.caches.size());
  check(qkv.size(0) == 1 && qkv.size(1) == n, "attention", "expected a token of each of ", n, " texts, got ",
        qkv.shape());
  rotate_for_cache(qkv, context, true);
  const Tensor texts = qkv.view({n, 1, n_heads_ + 2 * n_kv_heads_, head_dim_});
  const Tensor o = Tensor::empty({n, 1, n_heads_, head_dim_}, qkv.dtype(), qkv.device());
  for (int64_t i = 0; i < n; ++i) {
    const KvCache& cache = *context.caches[static_cast<size_t>(i)];
    const KvCache::Layer& kv = cache.layers[static_cast<size_t>(layer_)];
    const Tensor one = texts.slice(i, i + 1);
    store_heads(one, n_heads_, kv.k, cache.length);
    store_heads(one, n_heads_ + n_kv_heads_, kv.v, cache.length);
    o.slice(i, i + 1).copy_from(attention_cached(one, n_heads_, kv.k, kv.v, cache.length + 1, options_));
  }
  return o.view({1, n, n_heads_, head_dim_});
}

Tensor Attention::over_cache(const Tensor& qkv, const ForwardContext& context) const {
  KvCache& cache = *context.cache;
  const KvCache::Layer& kv = cache.layers[static_cast<size_t>(layer_)];
  const int64_t total = cache.length + qkv.size(1);
  // Only the table of `angles` can change with the length.
  const bool raw_keys = cache.raw_keys && description_.rope && !description_.local_rope;
  if (context.sets && raw_keys) {
    store_heads(qkv, n_heads_, kv.k, cache.length);
    store_heads(qkv, n_heads_ + n_kv_heads_, kv.v, cache.length);
    return over_sets(qkv, narrow(kv.k, 1, 0, total).value(), narrow(kv.v, 1, 0, total).value(), context);
  }
  rotate_for_cache(qkv, context, !raw_keys);
  store_heads(qkv, n_heads_, kv.k, cache.length);
  store_heads(qkv, n_heads_ + n_kv_heads_, kv.v, cache.length);
  if (!raw_keys) return attention_cached(qkv, n_heads_, kv.k, kv.v, total, options_);
  const Tensor keys =
      rope(narrow(kv.k, 1, 0, total), context.key_angles, {.layout = layout_, .in_place = true}).value();
  return attention_cached(qkv, n_heads_, keys, narrow(kv.v, 1, 0, total).value(), total, options_);
}

}  // namespace rw
