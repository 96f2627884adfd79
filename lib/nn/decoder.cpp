#include "nn/decoder.h"

#include <algorithm>
#include <atomic>
#include <cmath>
#include <thread>

#include "nn/cuda_decoder.h"
#include "nn/sampling.h"
#include "tensor/cpu_levels.h"
#include "tensor/dot.h"
#include "tensor/math.h"
#include "tensor/thread_team.h"
#include "tensor/threads.h"

namespace rw {
namespace {

/// Where the threads of a team meet. They are there within microseconds of each other, so waiting is spinning at first.
class MeetingPoint {
 public:
  void meet(int team) {
    const int turn = turn_.load(std::memory_order_acquire);
    if (arrived_.fetch_add(1, std::memory_order_acq_rel) + 1 == team) {
      arrived_.store(0, std::memory_order_relaxed);
      turn_.store(turn + 1, std::memory_order_release);
      return;
    }
    for (int spins = 0; turn_.load(std::memory_order_acquire) == turn; ++spins) {
      if (spins > 4000) std::this_thread::yield();  // more threads than cores
    }
  }

 private:
  std::atomic<int> arrived_{0}, turn_{0};
};

const float* floats(const Tensor& t) { return t.data<float>(); }
template <class W>
const W* weights_of(const Var& v) {
  if constexpr (std::is_same_v<W, bf16>) {
    return v.compact().data<bf16>();
  } else {
    return v.value().data<float>();
  }
}

/// Weights of one block; W is float or bf16.
template <class W>
struct Layer {
  const float* input_norm;  // [C]
  const W* qkv;             // [(H+2K)D, C]
  const W* o;               // [C, HD]
  const float* post_norm;   // [C]
  const W* gate_up;         // [2F, C]
  const W* down;            // [C, F]
  float *k, *v;             // [capacity, K, D]
};

template <class W>
class CpuDecoder final : public Decoder {
 public:
  CpuDecoder(const CausalLm& model, KvCache& cache) : Decoder(model, cache), c_(model.config()) {
    const ParamArena& a = model.arena();
    const auto at = [&](const std::string& name) { return a.index_of(name); };
    for (int64_t i = 0; i < c_.num_hidden_layers; ++i) {
      const std::string p = cat("model.layers.", i, ".");
      const Tensor &k = cache.layers[static_cast<size_t>(i)].k, &v = cache.layers[static_cast<size_t>(i)].v;
      layers_.push_back({floats(a[at(p + "input_layernorm.weight")].value()),
                         weights_of<W>(a.stacked(at(p + "self_attn.q_proj.weight"), 3)),
                         weights_of<W>(a[at(p + "self_attn.o_proj.weight")]),
                         floats(a[at(p + "post_attention_layernorm.weight")].value()),
                         weights_of<W>(a.stacked(at(p + "mlp.gate_proj.weight"), 2)),
                         weights_of<W>(a[at(p + "mlp.down_proj.weight")]), k.data<float>(), v.data<float>()});
    }
    const Var embedding = a[at("model.embed_tokens.weight")];
    embedding_ = floats(embedding.value());
    norm_ = floats(a[at("model.norm.weight")].value());
    head_ = weights_of<W>(c_.tie_word_embeddings ? embedding : a[at("lm_head.weight")]);
    const RopeTable table = model.scaling().table({.length = cache.capacity});
    inv_freq_ = table.inv_freq.value().to_vector();
    rope_scale_ = table.attention_scale;
    const size_t wide = static_cast<size_t>(std::max(c_.hidden_size, c_.num_attention_heads * c_.head_dim));
    x_.resize(wide);
    o_.resize(wide);
    qkv_.resize(static_cast<size_t>((c_.num_attention_heads + 2 * c_.num_key_value_heads) * c_.head_dim));
    h_.resize(static_cast<size_t>(c_.intermediate_size));
    cos_.resize(inv_freq_.size());
    sin_.resize(inv_freq_.size());
    // A thread should read some 256 Ki weights per token, or meeting costs more than it brings.
    team_ = static_cast<int>(std::clamp<int64_t>(a.parameter_count() >> 18, 1, thread_count()));
    own_.resize(static_cast<size_t>(team_));
    for (std::vector<float>& mine : own_) mine.resize(wide + static_cast<size_t>(cache.capacity + c_.head_dim));
  }

 private:
  void run(int32_t id, std::vector<float>& logits) override {
    logits.resize(static_cast<size_t>(c_.vocab_size));
    std::copy_n(embedding_ + id * c_.hidden_size, c_.hidden_size, x_.begin());
    const int64_t position = cache_.length;
    for (size_t i = 0; i < inv_freq_.size(); ++i) {
      const double angle = static_cast<double>(position) * inv_freq_[i];
      cos_[i] = static_cast<float>(rope_scale_ * std::cos(angle));
      sin_[i] = static_cast<float>(rope_scale_ * std::sin(angle));
    }
    const std::vector<float> factor = model_.scaling().query_scale(position, 1);
    query_factor_ = (factor.empty() ? 1.0f : factor[0]) / std::sqrt(static_cast<float>(c_.head_dim));
    const int team = detail::grow_team(team_);
    if (team == 1) return walk(0, 1, position, logits.data());
    detail::run_team(team, [&](int me) { walk(me, team, position, logits.data()); });
  }

  int32_t run_greedy(int32_t id) override {
    run(id, logits_);
    return sample_token(logits_, {.temperature = 0}, 0);
  }

  /// What thread `me` of `team` does for one token.
  RW_CPU_LEVELS void walk(int me, int team, int64_t position, float* logits) {
    const int64_t width = c_.hidden_size, heads = c_.num_attention_heads * c_.head_dim, ffn = c_.intermediate_size;
    float* mine = own_[static_cast<size_t>(me)].data();
    const auto rows = [&](int64_t n, const auto& f) {
      for (int64_t i = n * me / team, end = n * (me + 1) / team; i < end; ++i) f(i);
    };
    const auto meet = [&] {
      if (team > 1) meeting_.meet(team);
    };
    for (const Layer<W>& l : layers_) {
      normalise(l.input_norm, mine);  // every thread for itself: the row is short, and meeting is dearer
      rows(static_cast<int64_t>(qkv_.size()), [&](int64_t i) { qkv_[i] = dot(l.qkv + i * width, mine, width); });
      meet();
      rows(c_.num_attention_heads, [&](int64_t h) { attend(l, h, position, mine); });
      meet();
      rows(width, [&](int64_t i) { x_[i] += dot(l.o + i * heads, o_.data(), heads); });
      meet();
      normalise(l.post_norm, mine);
      rows(ffn, [&](int64_t i) {
        const float gate = dot(l.gate_up + i * width, mine, width),
                    up = dot(l.gate_up + (ffn + i) * width, mine, width);
        h_[i] = gate * sigmoid(gate) * up;
      });
      meet();
      rows(width, [&](int64_t i) { x_[i] += dot(l.down + i * ffn, h_.data(), ffn); });
      meet();
    }
    normalise(norm_, mine);
    rows(c_.vocab_size, [&](int64_t i) { logits[i] = dot(head_ + i * width, mine, width); });
  }

  /// y [C] = RMSNorm(x) * weight
  RW_CPU_LEVELS void normalise(const float* weight, float* y) const {
    const int64_t n = c_.hidden_size;
    const float square = dot(x_.data(), x_.data(), n);
    const float scale = 1 / std::sqrt(square / static_cast<float>(n) + static_cast<float>(c_.rms_norm_eps));
#pragma omp simd
    for (int64_t i = 0; i < n; ++i) y[i] = x_[static_cast<size_t>(i)] * scale * weight[i];
  }

  /// out [D] = the head at `in` turned by this token's angles, times `factor`.
  void rotate(const float* in, float factor, float* out) const {
    const int64_t pairs = static_cast<int64_t>(inv_freq_.size());
    const bool half = c_.rope_layout == RopeLayout::half;
    for (int64_t i = 0; i < pairs; ++i) {
      const int64_t a = half ? i : 2 * i, b = half ? i + pairs : 2 * i + 1;
      const float cos = cos_[static_cast<size_t>(i)] * factor, sin = sin_[static_cast<size_t>(i)] * factor;
      const float first = in[a], second = in[b];
      out[a] = first * cos - second * sin;
      out[b] = second * cos + first * sin;
    }
    for (int64_t i = 2 * pairs; i < c_.head_dim; ++i) out[i] = in[i] * factor;
  }

  /// Head h of o [H,D]; the first head of a group also puts this token's key and value into the cache. `scratch` holds
  /// D + position + 1 numbers.
  RW_CPU_LEVELS void attend(const Layer<W>& l, int64_t h, int64_t position, float* scratch) {
    const int64_t dim = c_.head_dim, kv_heads = c_.num_key_value_heads, group = c_.num_attention_heads / kv_heads;
    const int64_t kv = h / group, stride = kv_heads * dim;
    float *q = scratch, *p = scratch + dim, *out = o_.data() + h * dim;
    const float* value = qkv_.data() + (c_.num_attention_heads + kv_heads + kv) * dim;
    rotate(qkv_.data() + (c_.num_attention_heads + kv) * dim, 1.0f, out);  // this token's key, for now
    if (h % group == 0) {
      std::copy_n(out, dim, l.k + position * stride + kv * dim);
      std::copy_n(value, dim, l.v + position * stride + kv * dim);
    }
    rotate(qkv_.data() + h * dim, query_factor_, q);
    const float *keys = l.k + kv * dim, *values = l.v + kv * dim;
    p[position] = dot(out, q, dim);
    for (int64_t t = 0; t < position; ++t) p[t] = dot(keys + t * stride, q, dim);
    float top = p[position], sum = 0;
#pragma omp simd reduction(max : top)
    for (int64_t t = 0; t < position; ++t) top = p[t] > top ? p[t] : top;
#pragma omp simd reduction(+ : sum)
    for (int64_t t = 0; t <= position; ++t) {
      p[t] = fast_exp(p[t] - top);
      sum += p[t];
    }
    const float last = p[position] / sum;
    for (int64_t i = 0; i < dim; ++i) out[i] = last * value[i];
    for (int64_t t = 0; t < position; ++t) {
      const float weight = p[t] / sum;
      const float* row = values + t * stride;
#pragma omp simd
      for (int64_t i = 0; i < dim; ++i) out[i] += weight * row[i];
    }
  }

  const ModelConfig& c_;
  std::vector<Layer<W>> layers_;
  const float *embedding_, *norm_;  // [V,C], [C]
  const W* head_;                   // [V,C]
  std::vector<double> inv_freq_;    // [R/2]
  double rope_scale_ = 1;
  float query_factor_ = 1;               // 1 / sqrt(D), times log-n's factor
  std::vector<float> x_, qkv_, o_, h_;   // [C], [(H+2K)D], [HD], [F]
  std::vector<float> cos_, sin_;         // [R/2]
  std::vector<std::vector<float>> own_;  // scratch per thread
  int team_ = 1;
  MeetingPoint meeting_;
};

class CudaDecoder final : public Decoder {
 public:
  CudaDecoder(const CausalLm& model, KvCache& cache) : Decoder(model, cache) {
    const ModelConfig& c = model.config();
    const ParamArena& a = model.arena();
    const auto weight = [&](const std::string& name) { return a[a.index_of(name)].value(); };
    const auto stacked = [&](const std::string& name, size_t n) { return a.stacked(a.index_of(name), n).value(); };
    const RopeTable table = model.scaling().table({.length = cache.capacity});
    const std::vector<float> factors = model.scaling().query_scale(0, cache.capacity);
    cuda::DecoderModel m{c.hidden_size,
                         c.intermediate_size,
                         c.num_attention_heads,
                         c.num_key_value_heads,
                         c.head_dim,
                         c.vocab_size,
                         cache.capacity,
                         static_cast<float>(c.rms_norm_eps),
                         c.rope_layout,
                         table.attention_scale,
                         table.inv_freq.value().to(model.device()),
                         factors.empty() ? Tensor() : Tensor::from(factors).to(model.device()),
                         weight("model.embed_tokens.weight"),
                         weight("model.norm.weight"),
                         weight(c.tie_word_embeddings ? "model.embed_tokens.weight" : "lm_head.weight"),
                         {}};
    for (int64_t i = 0; i < c.num_hidden_layers; ++i) {
      const std::string p = cat("model.layers.", i, ".");
      const KvCache::Layer& kv = cache.layers[static_cast<size_t>(i)];
      m.layers.push_back({weight(p + "input_layernorm.weight"), stacked(p + "self_attn.q_proj.weight", 3),
                          weight(p + "self_attn.o_proj.weight"), weight(p + "post_attention_layernorm.weight"),
                          stacked(p + "mlp.gate_proj.weight", 2), weight(p + "mlp.down_proj.weight"), kv.k, kv.v});
    }
    device_ = cuda::make_decoder(m);
  }

 private:
  void run(int32_t id, std::vector<float>& logits) override {
    logits.resize(static_cast<size_t>(model_.config().vocab_size));
    device_->run(id, cache_.length, logits.data());
  }
  int32_t run_greedy(int32_t id) override {
    return device_->greedy(id, cache_.length, cache_.length + 1 < cache_.capacity);
  }

  std::unique_ptr<cuda::DeviceDecoder> device_;
};

}  // namespace

Decoder::Decoder(const CausalLm& model, KvCache& cache) : model_(model), cache_(cache) {
  check(supports(model, cache), "decoder", "this model or cache needs CausalLm::extend");
}

bool Decoder::supports(const CausalLm& model, const KvCache& cache) {
  const ModelConfig& c = model.config();
  const DType t = model.dtype();
  if (cache.raw_keys || cache.layers.empty() || cache.layers[0].k.size(0) != 1) return false;
  if (!model.device().is_cuda()) return t == DType::f32;
  const bool whole = c.hidden_size % 8 == 0 && c.intermediate_size % 8 == 0 && c.head_dim % 8 == 0;
  const int64_t widest = std::max({c.hidden_size, c.intermediate_size, c.num_attention_heads * c.head_dim});
  return (t == DType::bf16 || t == DType::f32) && whole && c.head_dim <= 256 &&
         cuda::decoder_fits(t, widest, c.head_dim, c.num_hidden_layers);
}

std::unique_ptr<Decoder> Decoder::make(const CausalLm& model, KvCache& cache) {
  if (model.device().is_cuda()) return std::make_unique<CudaDecoder>(model, cache);
  const ParamArena& a = model.arena();
  if (a[a.index_of("model.embed_tokens.weight")].compact().defined())
    return std::make_unique<CpuDecoder<bf16>>(model, cache);
  return std::make_unique<CpuDecoder<float>>(model, cache);
}

void Decoder::check_next(int32_t id) const {
  check(cache_.length < cache_.capacity, "decoder", "the KV cache of ", cache_.capacity, " tokens is full");
  check(id >= 0 && id < model_.config().vocab_size, "decoder", "token id ", id, " is outside the vocabulary [0, ",
        model_.config().vocab_size, ")");
}

const std::vector<float>& Decoder::step(int32_t id) {
  check_next(id);
  run(id, logits_);
  ++cache_.length;
  return logits_;
}

int32_t Decoder::greedy(int32_t id) {
  check_next(id);
  const int32_t next = run_greedy(id);
  ++cache_.length;
  return next;
}

}  // namespace rw
