// Decoding on the CPU: all threads walk through the passes of nn/decoder.h together, with a barrier after each, for one
// text or for several. What a block does in them is read from the same modules as in CausalLm::forward.
#include "nn/cpu_decoder.h"

#include <array>

#include "nn/cpu_decoder_parts.h"
#include "nn/sampling.h"
#include "tensor/thread_team.h"
#include "tensor/threads.h"

namespace rw {
namespace {

using namespace cpu_decode;

/// What the passes read of one block.
template <class W>
struct Layer {
  NormWeights attention_norm, attention_out_norm, mlp_norm, mlp_out_norm;
  Product<W> qkv, o, up, down;
  const float *q_norm, *k_norm;  // [D] or all heads', or none
  LayerDescription description;
};

/// One text: where its keys and values lie, and its angles.
struct Text {
  struct Pointers {
    float *k, *v;  // [capacity, K, D]
  };
  KvCache* cache = nullptr;
  std::vector<Pointers> layers;
  Rotation rotation, local_rotation;  // by ModelConfig::rope and ::local_rope
  int64_t position = 0;               // of the token that is run now
  float query_factor = 1;             // the scores' scale, times log-n's factor
};

/// The passes for a token of each of some texts. A row of its vectors belongs to one of them; no sum goes over several.
template <class W>
class Passes {
 public:
  using Next = BatchDecoder::Next;

  Passes(const CausalLm& model, std::span<KvCache> caches) : model_(model), c_(model.config()) {
    for (const Block& block : model.blocks()) add_layer(block);
    embedding_ = floats(model.embedding());
    final_norm_ = NormWeights(&model.final_norm());
    if constexpr (std::is_same_v<W, int8_t>) head_ = Product<W>(*model.head_codes(), model.head_bias());
    else head_ = Product<W>(model.head(), model.head_bias());
    int64_t longest = 0;
    for (KvCache& cache : caches) {
      add_text(cache);
      longest = std::max(longest, cache.capacity);
    }
    const auto texts = static_cast<int64_t>(caches.size());
    const auto vector = [&](std::vector<float>& v, int64_t n) { v.resize(static_cast<size_t>(texts * n)); };
    wide_ = std::max(c_.hidden_size, c_.num_attention_heads * c_.head_dim);
    for (std::vector<float>* v : {&x_, &y_, &o_}) vector(*v, wide_);
    qkv_width_ = (c_.num_attention_heads + 2 * c_.num_key_value_heads) * c_.head_dim;
    vector(qkv_, qkv_width_);
    vector(h_, c_.intermediate_size);
    own_.resize(static_cast<size_t>(thread_count()));
    scratch_ = static_cast<size_t>(texts * wide_ + longest + c_.head_dim);
  }

  /// logits [next.size(), V]
  void run(std::span<const Next> next, float* logits) {
    active_.clear();
    const float scale = static_cast<float>(c_.embedding_scale);
    for (const Next& n : next) {
      float* x = x_.data() + static_cast<int64_t>(active_.size()) * wide_;
      for (int64_t i = 0; i < c_.hidden_size; ++i) x[i] = embedding_[n.id * c_.hidden_size + i] * scale;
      Text& text = texts_[static_cast<size_t>(n.text)];
      begin(text);
      active_.push_back(&text);
    }
    // A thread should read some 256 Ki weights per token, or the barrier costs more than the thread brings.
    const int64_t work = model_.arena().parameter_count() * count();
    const int team = detail::grow_team(static_cast<int>(std::clamp<int64_t>(work >> 18, 1, std::ssize(own_))));
    for (int t = 0; t < team; ++t) own_[static_cast<size_t>(t)].resize(scratch_);
    likeliest_.assign(static_cast<size_t>(team), {});
    if (team == 1) return walk(0, 1, logits);
    detail::run_team(team, [&](int me) { walk(me, team, logits); });
  }

  /// The likeliest token of text s of the last run, the first of equals; -1 if its logit is not finite.
  int32_t likeliest(int64_t s) const {
    Likeliest best;
    for (const auto& part : likeliest_) {
      if (part[static_cast<size_t>(s)].logit > best.logit) best = part[static_cast<size_t>(s)];
    }
    return std::isfinite(best.logit) ? best.token : -1;
  }

 private:
  int64_t count() const { return static_cast<int64_t>(active_.size()); }

  void add_layer(const Block& block) {
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
    l.description = c_.layer(static_cast<int64_t>(layers_.size()));
    layers_.push_back(l);
  }

  void add_text(KvCache& cache) {
    Text text;
    text.cache = &cache;
    for (const KvCache::Layer& kv : cache.layers) text.layers.push_back({kv.k.data<float>(), kv.v.data<float>()});
    text.rotation.set(model_.scaling().table({.length = cache.capacity}));
    if (c_.local_rope) text.local_rotation.set(model_.local_table());
    texts_.push_back(std::move(text));
  }

  void begin(Text& text) const {
    text.position = text.cache->length;
    text.rotation.turn(text.position);
    text.local_rotation.turn(text.position);
    const std::vector<float> factor = model_.scaling().query_scale(text.position, 1);
    const float plain = c_.block.attention_scale > 0 ? static_cast<float>(c_.block.attention_scale)
                                                     : 1 / std::sqrt(static_cast<float>(c_.head_dim));
    text.query_factor = (factor.empty() ? 1.0f : factor[0]) * plain;
  }

  struct Likeliest {
    float logit = -INFINITY;
    int32_t token = -1;
  };

  static constexpr int64_t kChunk = 16;
  using Chunk = float[kChunk * BatchDecoder::kMost];  // rows of a product, of every text

  /// One thread of a team.
  struct Walker {
    int me, team;
    float* mine;  // scratch
    SpinBarrier& barrier;

    int64_t begin(int64_t n) const { return n * me / team; }  // this thread's part of n
    int64_t end(int64_t n) const { return n * (me + 1) / team; }
    /// f(i, y) for this thread's outputs i, y [count] being those of every vector.
    template <class F>
    void outputs(const Product<W>& product, int64_t n, const Rows& in, const F& f) const {
      Chunk y;
      chunks(n, [&](int64_t i, int64_t rows) {
        product.rows(i, rows, in, y);
        for (int64_t r = 0; r < rows; ++r) f(i + r, y + r * in.count);
      });
    }
    /// f(i, rows) for rows [i, i + rows) of this thread's part of n.
    template <class F>
    void chunks(int64_t n, const F& f) const {
      for (int64_t i = begin(n); i < end(n); i += kChunk) f(i, std::min(kChunk, end(n) - i));
    }
    void wait() const {
      if (team > 1) barrier.wait(team);
    }
  };

  Rows rows_of(const float* data, int64_t stride) const { return {data, stride, count()}; }

  /// The norm of every text's row of `from` into the thread's own scratch. Every thread norms for itself: the rows are
  /// short, and a barrier costs more.
  RW_CPU_LEVELS Rows normed(const NormWeights& norm, const std::vector<float>& from, const Walker& w) const {
    for (int64_t s = 0; s < count(); ++s) normalise(norm, from.data() + s * wide_, c_.hidden_size, w.mine + s * wide_);
    return rows_of(w.mine, wide_);
  }

  /// What thread `me` of `team` does for one token of each text.
  void walk(int me, int team, float* logits) {
    const Walker w{.me = me, .team = team, .mine = own_[static_cast<size_t>(me)].data(), .barrier = barrier_};
    const int64_t n = count(), heads = c_.num_attention_heads;
    const Rows o = rows_of(o_.data(), wide_), h = rows_of(h_.data(), c_.intermediate_size);
    for (size_t layer = 0; layer < layers_.size(); ++layer) {
      const Layer<W>& l = layers_[layer];
      const Rows in = normed(l.attention_norm, x_, w);
      w.outputs(l.qkv, qkv_width_, in, [&](int64_t i, const float* y) {
        for (int64_t s = 0; s < n; ++s) qkv_[s * qkv_width_ + i] = y[s];
      });
      if (c_.block.parallel) widen(l, w);
      w.wait();
      for (int64_t i = w.begin(n * heads); i < w.end(n * heads); ++i) attend(layer, i / heads, i % heads, w.mine);
      w.wait();
      if (c_.block.parallel) {
        w.outputs(l.o, c_.hidden_size, o, [&](int64_t i, const float* a) {
          for (int64_t s = 0; s < n; ++s) y_[s * wide_ + i] = a[s];
        });
        w.outputs(l.down, c_.hidden_size, h, [&](int64_t i, const float* b) {
          for (int64_t s = 0; s < n; ++s) x_[s * wide_ + i] += y_[s * wide_ + i] + b[s];
        });
        w.wait();
        continue;
      }
      add_to_stream(l.o, o, l.attention_out_norm, w);
      widen(l, w);
      w.wait();
      add_to_stream(l.down, h, l.mlp_out_norm, w);
    }
    const Rows last = normed(final_norm_, x_, w);
    const float cap = static_cast<float>(c_.logit_soft_cap);
    std::array<Likeliest, BatchDecoder::kMost> best;
    w.outputs(head_, c_.vocab_size, last, [&](int64_t i, const float* y) {
      for (int64_t s = 0; s < n; ++s) {
        const float logit = logits[s * c_.vocab_size + i] = capped(y[s], cap);
        Likeliest& of_text = best[static_cast<size_t>(s)];
        if (logit > of_text.logit) of_text = {logit, static_cast<int32_t>(i)};
      }
    });
    likeliest_[static_cast<size_t>(me)] = best;
  }

  /// h [F] = the activated product of the MLP.
  void widen(const Layer<W>& l, const Walker& w) {
    const int64_t ffn = c_.intermediate_size, n = count();
    const Rows in = normed(l.mlp_norm, x_, w);
    Chunk first, second;
    w.chunks(ffn, [&](int64_t i, int64_t rows) {
      l.up.rows(i, rows, in, first);
      activate(c_.block.activation, first, rows * n);
      if (c_.block.gated) l.up.rows(ffn + i, rows, in, second);
      for (int64_t r = 0; r < rows; ++r) {
        for (int64_t s = 0; s < n; ++s)
          h_[s * ffn + i + r] = c_.block.gated ? first[r * n + s] * second[r * n + s] : first[r * n + s];
      }
    });
  }

  /// x [C] += the product of `in`, normed where the description says so; all threads have met when it returns.
  void add_to_stream(const Product<W>& product, const Rows& in, const NormWeights& norm, const Walker& w) {
    const int64_t n = count();
    const auto multiply = [&](auto&& put) {
      w.outputs(product, c_.hidden_size, in, [&](int64_t i, const float* y) {
        for (int64_t s = 0; s < n; ++s) put(s * wide_ + i, y[s]);
      });
      w.wait();
    };
    if (!norm) return multiply([&](int64_t at, float y) { x_[at] += y; });
    multiply([&](int64_t at, float y) { y_[at] = y; });
    const Rows added = normed(norm, y_, w);
    for (int64_t s = 0; s < n; ++s)
      for (int64_t i = w.begin(c_.hidden_size); i < w.end(c_.hidden_size); ++i)
        x_[s * wide_ + i] += added.data[s * wide_ + i];
    w.wait();
  }

  /// out [D] = head `head` of `all` [heads, D], normed with `norm` if there is one,
  /// turned by `rotation` if there is one, times `factor`.
  RW_CPU_LEVELS void prepare(const Rotation* rotation, const float* all, int64_t heads, int64_t head, const float* norm,
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
    rotate(rotation, in, factor, out);
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

  /// Head h of o [H,D] of active text s; the first head of a group also puts this token's key and value into the cache.
  /// `scratch` holds D + position + 1 numbers.
  RW_CPU_LEVELS void attend(size_t layer, int64_t s, int64_t h, float* scratch) {
    const Layer<W>& l = layers_[layer];
    const Text& text = *active_[static_cast<size_t>(s)];
    const int64_t dim = c_.head_dim, heads = c_.num_attention_heads, kv_heads = c_.num_key_value_heads;
    const int64_t kv = h / (heads / kv_heads), stride = kv_heads * dim;
    const int64_t position = text.position, window = l.description.window;
    const Rotation* rotation = !l.description.rope        ? nullptr
                               : l.description.local_rope ? &text.local_rotation
                                                          : &text.rotation;
    float *const keys = text.layers[layer].k + kv * dim, *const values = text.layers[layer].v + kv * dim;
    float *q = scratch, *p = scratch + dim, *out = o_.data() + s * wide_ + h * dim;
    const float *qkv = qkv_.data() + s * qkv_width_, *value = qkv + (heads + kv_heads + kv) * dim;
    prepare(rotation, qkv + heads * dim, kv_heads, kv, l.k_norm, 1.0f, out);  // this token's key, for now
    if (h % (heads / kv_heads) == 0) {
      std::copy_n(out, dim, keys + position * stride);
      std::copy_n(value, dim, values + position * stride);
    }
    prepare(rotation, qkv, heads, h, l.q_norm, text.query_factor, q);
    const int64_t first = window > 0 ? std::max<int64_t>(0, position + 1 - window) : 0;
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

  const CausalLm& model_;
  const ModelConfig& c_;
  std::vector<Layer<W>> layers_;
  std::vector<Text> texts_;
  std::vector<const Text*> active_;   // those of this step; a row each:
  std::vector<float> x_, y_, o_;      // [texts, wide]
  std::vector<float> qkv_, h_;        // [texts, (H+2K)D], [texts, F]
  int64_t wide_ = 0, qkv_width_ = 0;  // the larger of C and HD; (H+2K)D
  const float* embedding_ = nullptr;  // [V,C]
  NormWeights final_norm_;
  Product<W> head_;                      // [V,C]
  std::vector<std::vector<float>> own_;  // scratch per thread
  // of each text, in each thread's part of the vocabulary
  std::vector<std::array<Likeliest, BatchDecoder::kMost>> likeliest_;
  size_t scratch_ = 0;
  SpinBarrier barrier_;
};

template <class W>
class CpuDecoder final : public Decoder {
 public:
  CpuDecoder(const CausalLm& model, KvCache& cache) : Decoder(model, cache), passes_(model, {&cache, 1}) {}

 private:
  void run(int32_t id, std::vector<float>& logits) override {
    logits.resize(static_cast<size_t>(model_.config().vocab_size));
    const BatchDecoder::Next next{.text = 0, .id = id};
    passes_.run({&next, 1}, logits.data());
  }
  int32_t run_greedy(int32_t id) override {
    run(id, logits_);
    const int32_t token = passes_.likeliest(0);
    return token >= 0 ? token : sample_token(logits_, {.temperature = 0}, 0);  // which says what is wrong
  }

  Passes<W> passes_;
};

template <class W>
class CpuBatchDecoder final : public BatchDecoder {
 public:
  CpuBatchDecoder(const CausalLm& model, std::span<KvCache> caches)
      : BatchDecoder(model, caches), passes_(model, caches) {}

 private:
  void run(std::span<const Next> next, std::vector<float>& logits) override { passes_.run(next, logits.data()); }
  int32_t likeliest(int64_t row) const override {
    const int32_t token = passes_.likeliest(row);
    return token >= 0 ? token : BatchDecoder::likeliest(row);  // which says what is wrong
  }

  Passes<W> passes_;
};

/// `make` with the type of the weights that are read.
template <class F>
auto with_weights(const CausalLm& model, const F& make) {
  if (model.head_codes()) return make(int8_t());
  if (model.embedding().bf16_copy().defined()) return make(bf16());
  return make(float());
}

}  // namespace

std::unique_ptr<Decoder> make_cpu_decoder(const CausalLm& model, KvCache& cache) {
  return with_weights(model, [&](auto weight) -> std::unique_ptr<Decoder> {
    return std::make_unique<CpuDecoder<decltype(weight)>>(model, cache);
  });
}

std::unique_ptr<BatchDecoder> make_cpu_batch_decoder(const CausalLm& model, std::span<KvCache> caches) {
  return with_weights(model, [&](auto weight) -> std::unique_ptr<BatchDecoder> {
    return std::make_unique<CpuBatchDecoder<decltype(weight)>>(model, caches);
  });
}

}  // namespace rw
