// Decoding on the CPU: all threads walk through the passes of nn/decoder.h together, with a barrier after each. What a
// block does in them is read from the same modules as in CausalLm::forward.
#include "nn/cpu_decoder.h"

#include <algorithm>
#include <atomic>
#include <cmath>
#include <thread>

#include "nn/sampling.h"
#include "tensor/cpu_levels.h"
#include "tensor/dot.h"
#include "tensor/math.h"
#include "tensor/thread_team.h"
#include "tensor/threads.h"

namespace rw {
namespace {

/// A barrier for the threads of a team. They reach it within microseconds of each
/// other, so waiting is spinning at first.
class SpinBarrier {
 public:
  void wait(int team) {
    const int phase = phase_.load(std::memory_order_acquire);
    if (arrived_.fetch_add(1, std::memory_order_acq_rel) + 1 == team) {
      arrived_.store(0, std::memory_order_relaxed);
      phase_.store(phase + 1, std::memory_order_release);
      return;
    }
    for (int spins = 0; phase_.load(std::memory_order_acquire) == phase; ++spins) {
      if (spins > 4000) std::this_thread::yield();  // more threads than cores
    }
  }

 private:
  std::atomic<int> arrived_{0}, phase_{0};
};

const float* floats(const Var& v) { return v.defined() ? v.value().data<float>() : nullptr; }

template <class W>
const W* weights_of(const Var& v) {
  if constexpr (std::is_same_v<W, bf16>) {
    return v.bf16_copy().data<bf16>();
  } else {
    return v.value().data<float>();
  }
}

/// One product; W is float or bf16.
template <class W>
struct Product {
  const W* weight = nullptr;    // [N,K]
  const float* bias = nullptr;  // [N], or none
  int64_t inputs = 0;

  Product() = default;
  explicit Product(const Linear& linear)
      : weight(weights_of<W>(linear.weight())), bias(floats(linear.bias())), inputs(linear.weight().size(1)) {}
  float row(int64_t i, const float* x) const {
    const float y = dot(weight + i * inputs, x, inputs);
    return bias ? y + bias[i] : y;
  }
};

/// One norm, or none.
struct NormWeights {
  const float *weight = nullptr, *bias = nullptr;  // [C]
  float offset = 0, eps = 0;
  bool layer = false;

  NormWeights() = default;
  explicit NormWeights(const Norm* norm) {
    if (!norm) return;
    weight = floats(norm->weight());
    bias = floats(norm->bias());
    offset = static_cast<float>(norm->weight_offset());
    eps = static_cast<float>(norm->eps());
    layer = norm->kind() == NormKind::layer;
  }
  explicit operator bool() const { return weight != nullptr; }
};

/// What a norm subtracts from a row, and what it multiplies it by.
struct Moments {
  float mean = 0, scale = 1;
};

RW_CPU_LEVELS Moments moments(const NormWeights& norm, const float* x, int64_t n) {
  const float count = static_cast<float>(n);
  if (!norm.layer) return {0, 1 / std::sqrt(dot(x, x, n) / count + norm.eps)};
  float sum = 0, square = 0;
#pragma omp simd reduction(+ : sum)
  for (int64_t i = 0; i < n; ++i) sum += x[i];
  const float mean = sum / count;
#pragma omp simd reduction(+ : square)
  for (int64_t i = 0; i < n; ++i) square += (x[i] - mean) * (x[i] - mean);
  return {mean, 1 / std::sqrt(square / count + norm.eps)};
}

/// Elements [begin, end) of the norm of x [n]; without a norm, those of x.
RW_CPU_LEVELS void normalise(const NormWeights& norm, const float* x, int64_t n, float* y) {
  if (!norm) {
    std::copy_n(x, n, y);
    return;
  }
  const Moments m = moments(norm, x, n);
  if (norm.bias) {
#pragma omp simd
    for (int64_t i = 0; i < n; ++i) y[i] = (x[i] - m.mean) * m.scale * (norm.weight[i] + norm.offset) + norm.bias[i];
  } else {
#pragma omp simd
    for (int64_t i = 0; i < n; ++i) y[i] = (x[i] - m.mean) * m.scale * (norm.weight[i] + norm.offset);
  }
}

float activated(Activation activation, float x) {
  switch (activation) {
    case Activation::silu:
      return x * sigmoid(x);
    case Activation::gelu:
      return 0.5f * x * (1 + std::erf(x * 0.70710678f));
    case Activation::gelu_tanh:
      break;
  }
  return 0.5f * x * (1 + std::tanh(0.79788456f * (x + 0.044715f * x * x * x)));
}

float capped(float x, float cap) { return cap > 0 ? cap * std::tanh(x / cap) : x; }

/// cos and sin of one token, times A.
struct Rotation {
  std::vector<double> inv_freq;  // [R/2]
  double scale = 1;
  std::vector<float> cos, sin;  // [R/2]

  void set(const RopeTable& table) {
    inv_freq = table.inv_freq.value().to_vector();
    scale = table.attention_scale;
    cos.resize(inv_freq.size());
    sin.resize(inv_freq.size());
  }
  void turn(int64_t position) {
    for (size_t i = 0; i < inv_freq.size(); ++i) {
      const double angle = static_cast<double>(position) * inv_freq[i];
      cos[i] = static_cast<float>(scale * std::cos(angle));
      sin[i] = static_cast<float>(scale * std::sin(angle));
    }
  }
};

/// What the passes read of one block.
template <class W>
struct Layer {
  NormWeights attention_norm, attention_out_norm, mlp_norm, mlp_out_norm;
  Product<W> qkv, o, up, down;
  const float *q_norm, *k_norm;  // [D] or all heads', or none
  const Rotation* rotation;      // none: queries and keys are not rotated
  int64_t window;                // 0: none
  float *k, *v;                  // [capacity, K, D]
};

template <class W>
class CpuDecoder final : public Decoder {
 public:
  CpuDecoder(const CausalLm& model, KvCache& cache) : Decoder(model, cache), c_(model.config()) {
    rotation_.set(model.scaling().table({.length = cache.capacity}));
    if (c_.local_rope) local_rotation_.set(model.local_table());
    for (int64_t i = 0; i < c_.num_hidden_layers; ++i) add_layer(model.blocks()[static_cast<size_t>(i)], i);
    embedding_ = floats(model.embedding());
    final_norm_ = NormWeights(&model.final_norm());
    head_.weight = weights_of<W>(model.head());
    head_.bias = floats(model.head_bias());
    head_.inputs = c_.hidden_size;
    const size_t wide = static_cast<size_t>(std::max(c_.hidden_size, c_.num_attention_heads * c_.head_dim));
    x_.resize(wide);
    y_.resize(wide);
    o_.resize(wide);
    qkv_.resize(static_cast<size_t>((c_.num_attention_heads + 2 * c_.num_key_value_heads) * c_.head_dim));
    h_.resize(static_cast<size_t>(c_.intermediate_size));
    // A thread should read some 256 Ki weights per token, or the barrier costs more than the thread brings.
    team_ = static_cast<int>(std::clamp<int64_t>(model.arena().parameter_count() >> 18, 1, thread_count()));
    own_.resize(static_cast<size_t>(team_));
    for (std::vector<float>& mine : own_) mine.resize(wide + static_cast<size_t>(cache.capacity + c_.head_dim));
  }

 private:
  void add_layer(const Block& block, int64_t i) {
    const LayerDescription& description = c_.layer(i);
    const KvCache::Layer& kv = cache_.layers[static_cast<size_t>(i)];
    Layer<W> l;
    l.attention_norm = NormWeights(block.attention_norm());
    l.attention_out_norm = NormWeights(block.attention_out_norm());
    l.mlp_norm = NormWeights(c_.block.shared_norm ? block.attention_norm() : block.mlp_norm());
    l.mlp_out_norm = NormWeights(block.mlp_out_norm());
    l.qkv = Product<W>(block.attention().qkv());
    l.o = Product<W>(block.attention().output());
    l.up = Product<W>(block.mlp().up());
    l.down = Product<W>(block.mlp().down());
    l.q_norm = floats(block.attention().q_norm());
    l.k_norm = floats(block.attention().k_norm());
    l.rotation = !description.rope ? nullptr : description.local_rope ? &local_rotation_ : &rotation_;
    l.window = description.window;
    l.k = kv.k.data<float>();
    l.v = kv.v.data<float>();
    layers_.push_back(l);
  }

  void run(int32_t id, std::vector<float>& logits) override {
    logits.resize(static_cast<size_t>(c_.vocab_size));
    const float scale = static_cast<float>(c_.embedding_scale);
    for (int64_t i = 0; i < c_.hidden_size; ++i)
      x_[static_cast<size_t>(i)] = embedding_[id * c_.hidden_size + i] * scale;
    const int64_t position = cache_.length;
    rotation_.turn(position);
    local_rotation_.turn(position);
    const std::vector<float> factor = model_.scaling().query_scale(position, 1);
    const float plain = c_.block.attention_scale > 0 ? static_cast<float>(c_.block.attention_scale)
                                                     : 1 / std::sqrt(static_cast<float>(c_.head_dim));
    query_factor_ = (factor.empty() ? 1.0f : factor[0]) * plain;
    const int team = detail::grow_team(team_);
    if (team == 1) return walk(0, 1, position, logits.data());
    detail::run_team(team, [&](int me) { walk(me, team, position, logits.data()); });
  }

  int32_t run_greedy(int32_t id) override {
    run(id, logits_);
    return sample_token(logits_, {.temperature = 0}, 0);
  }

  /// One thread of a team.
  struct Walker {
    int me, team;
    float* mine;  // scratch
    SpinBarrier& barrier;

    template <class F>
    void rows(int64_t n, const F& f) const {
      for (int64_t i = n * me / team, end = n * (me + 1) / team; i < end; ++i) f(i);
    }
    void wait() const {
      if (team > 1) barrier.wait(team);
    }
  };

  /// What thread `me` of `team` does for one token.
  RW_CPU_LEVELS void walk(int me, int team, int64_t position, float* logits) {
    const Walker w{.me = me, .team = team, .mine = own_[static_cast<size_t>(me)].data(), .barrier = barrier_};
    for (const Layer<W>& l : layers_) {
      // Every thread norms for itself: the row is short, and a barrier costs more.
      normalise(l.attention_norm, x_.data(), c_.hidden_size, w.mine);
      w.rows(static_cast<int64_t>(qkv_.size()), [&](int64_t i) { qkv_[i] = l.qkv.row(i, w.mine); });
      if (c_.block.parallel) widen(l, w);
      w.wait();
      w.rows(c_.num_attention_heads, [&](int64_t h) { attend(l, h, position, w.mine); });
      w.wait();
      if (c_.block.parallel) {
        w.rows(c_.hidden_size, [&](int64_t i) { x_[i] += l.o.row(i, o_.data()) + l.down.row(i, h_.data()); });
        w.wait();
        continue;
      }
      add_to_stream(l.o, o_.data(), l.attention_out_norm, w);
      widen(l, w);
      w.wait();
      add_to_stream(l.down, h_.data(), l.mlp_out_norm, w);
    }
    normalise(final_norm_, x_.data(), c_.hidden_size, w.mine);
    const float cap = static_cast<float>(c_.logit_soft_cap);
    w.rows(c_.vocab_size, [&](int64_t i) { logits[i] = capped(head_.row(i, w.mine), cap); });
  }

  /// h [F] = the activated product of the MLP.
  RW_CPU_LEVELS void widen(const Layer<W>& l, const Walker& w) {
    const int64_t ffn = c_.intermediate_size;
    normalise(l.mlp_norm, x_.data(), c_.hidden_size, w.mine);
    w.rows(ffn, [&](int64_t i) {
      const float first = activated(c_.block.activation, l.up.row(i, w.mine));
      h_[i] = c_.block.gated ? first * l.up.row(ffn + i, w.mine) : first;
    });
  }

  /// x [C] += the product of `in`, normed where the description says so; all threads have met when it returns.
  RW_CPU_LEVELS void add_to_stream(const Product<W>& product, const float* in, const NormWeights& norm,
                                   const Walker& w) {
    const int64_t width = c_.hidden_size;
    if (!norm) {
      w.rows(width, [&](int64_t i) { x_[i] += product.row(i, in); });
      return w.wait();
    }
    w.rows(width, [&](int64_t i) { y_[i] = product.row(i, in); });
    w.wait();
    normalise(norm, y_.data(), width, w.mine);
    w.rows(width, [&](int64_t i) { x_[i] += w.mine[i]; });
    w.wait();
  }

  /// out [D] = head `head` of `all` [heads, D], normed with `norm` if there is one,
  /// turned by this token's angles, times `factor`.
  RW_CPU_LEVELS void prepare(const Layer<W>& l, const float* all, int64_t heads, int64_t head, const float* norm,
                             float factor, float* out) const {
    const int64_t dim = c_.head_dim;
    const float* in = all + head * dim;
    if (norm) {
      const bool across = c_.block.qk_norm == QkNorm::across;
      NormWeights n;
      n.weight = norm;
      n.eps = static_cast<float>(c_.norm_eps);
      const float scale = moments(n, across ? all : in, across ? heads * dim : dim).scale;
      const float* weight = norm + (across ? head * dim : 0);
      const float offset = static_cast<float>(c_.block.norm_weight_offset);
#pragma omp simd
      for (int64_t i = 0; i < dim; ++i) out[i] = in[i] * scale * (weight[i] + offset);
      in = out;
    }
    rotate(l.rotation, in, factor, out);
  }

  /// out [D] = `in` turned, times `factor`; `in` may be `out`.
  void rotate(const Rotation* rotation, const float* in, float factor, float* out) const {
    const int64_t pairs = rotation ? static_cast<int64_t>(rotation->inv_freq.size()) : 0;
    const bool half = c_.rope_layout == RopeLayout::half;
    for (int64_t i = 0; i < pairs; ++i) {
      const int64_t a = half ? i : 2 * i, b = half ? i + pairs : 2 * i + 1;
      const float cos = rotation->cos[static_cast<size_t>(i)] * factor,
                  sin = rotation->sin[static_cast<size_t>(i)] * factor;
      const float first = in[a], second = in[b];
      out[a] = first * cos - second * sin;
      out[b] = second * cos + first * sin;
    }
    for (int64_t i = 2 * pairs; i < c_.head_dim; ++i) out[i] = in[i] * factor;
  }

  /// Head h of o [H,D]; the first head of a group also puts this token's key and value into the cache. `scratch` holds
  /// D + position + 1 numbers.
  RW_CPU_LEVELS void attend(const Layer<W>& l, int64_t h, int64_t position, float* scratch) {
    const int64_t dim = c_.head_dim, heads = c_.num_attention_heads, kv_heads = c_.num_key_value_heads;
    const int64_t kv = h / (heads / kv_heads), stride = kv_heads * dim;
    float *q = scratch, *p = scratch + dim, *out = o_.data() + h * dim;
    const float* value = qkv_.data() + (heads + kv_heads + kv) * dim;
    prepare(l, qkv_.data() + heads * dim, kv_heads, kv, l.k_norm, 1.0f, out);  // this token's key, for now
    if (h % (heads / kv_heads) == 0) {
      std::copy_n(out, dim, l.k + position * stride + kv * dim);
      std::copy_n(value, dim, l.v + position * stride + kv * dim);
    }
    prepare(l, qkv_.data(), heads, h, l.q_norm, query_factor_, q);
    const float *keys = l.k + kv * dim, *values = l.v + kv * dim;
    const int64_t first = l.window > 0 ? std::max<int64_t>(0, position + 1 - l.window) : 0;
    p[position] = dot(out, q, dim);
    for (int64_t t = first; t < position; ++t) p[t] = dot(keys + t * stride, q, dim);
    if (const float cap = static_cast<float>(c_.block.soft_cap); cap > 0) {
      for (int64_t t = first; t <= position; ++t) p[t] = capped(p[t], cap);
    }
    const float sum = exponentials(p, first, position);
    const float last = p[position] / sum;
    for (int64_t i = 0; i < dim; ++i) out[i] = last * value[i];
    for (int64_t t = first; t < position; ++t) {
      const float weight = p[t] / sum;
      const float* row = values + t * stride;
#pragma omp simd
      for (int64_t i = 0; i < dim; ++i) out[i] += weight * row[i];
    }
  }

  /// p[t] = exp(p[t] - largest) for t in [first, last]; their sum.
  RW_CPU_LEVELS static float exponentials(float* p, int64_t first, int64_t last) {
    float top = p[last], sum = 0;
#pragma omp simd reduction(max : top)
    for (int64_t t = first; t < last; ++t) top = p[t] > top ? p[t] : top;
#pragma omp simd reduction(+ : sum)
    for (int64_t t = first; t <= last; ++t) {
      p[t] = fast_exp(p[t] - top);
      sum += p[t];
    }
    return sum;
  }

  const ModelConfig& c_;
  std::vector<Layer<W>> layers_;
  const float* embedding_ = nullptr;  // [V,C]
  NormWeights final_norm_;
  Product<W> head_;                         // [V,C]
  Rotation rotation_, local_rotation_;      // by ModelConfig::rope and ::local_rope
  float query_factor_ = 1;                  // the scores' scale, times log-n's factor
  std::vector<float> x_, y_, qkv_, o_, h_;  // [C], [C], [(H+2K)D], [HD], [F]
  std::vector<std::vector<float>> own_;     // scratch per thread
  int team_ = 1;
  SpinBarrier barrier_;
};

}  // namespace

std::unique_ptr<Decoder> make_cpu_decoder(const CausalLm& model, KvCache& cache) {
  if (model.embedding().bf16_copy().defined()) return std::make_unique<CpuDecoder<bf16>>(model, cache);
  return std::make_unique<CpuDecoder<float>>(model, cache);
}

}  // namespace rw
