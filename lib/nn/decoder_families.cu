// Decoding a token of other families than LLaMA: the kernel of decoder.cu, with biases, LayerNorm, norms of what is
// added to the residual stream, norms of q and k, other activations, parallel blocks, windows, soft caps and layers
// with another RoPE table or none. The description is data, read by every block alike.
#include <algorithm>
#include <cmath>
#include <cstring>
#include <vector>

#include "nn/decode_families.cuh"
#include "nn/decode_kernel.cuh"

namespace rw::cuda::decode {
namespace {

/// One vector that a product reads: norm(x), with x = stream (+ norm'(added)).
template <class T>
struct Input {
  const float* stream;
  const float* added;                // or null
  const T *added_norm, *added_bias;  // of norm'
  float* to;                         // gets x, this block's own rows of it, if something was added
  const T *norm, *bias;              // or null: x itself
};

/// Runs over the columns of a vector [k] that a thread owns, four at a time.
template <class F>
__device__ __forceinline__ void each_four(int k, F&& f) {
  for (int i = 4 * static_cast<int>(threadIdx.x); i < k; i += 4 * kThreads) f(i);
}

/// What a norm subtracts, and what it multiplies by.
struct NormFactors {
  float mean, rstd;
};

/// Of the vector in shared memory, every thread's own columns. scratch is used; begins and ends with a barrier.
template <class T>
__device__ __forceinline__ NormFactors norm_factors(const Local<T>& l, const FamilyModel<T>& f, int k) {
  const auto mean_of = [&](auto term) {
    float sum = 0;
    each_four(k, [&](int i) {
      const float4 v = *reinterpret_cast<const float4*>(l.vector + i / 4 % 2 * (k / 2) + i / 8 * 4);
      sum += term(v.x) + term(v.y) + term(v.z) + term(v.w);
    });
    __syncthreads();
    sum = block_reduce<kThreads>(sum, Sum{}, l.scratch);
    return sum / static_cast<float>(k);
  };
  const float mean = f.layer_norm ? mean_of([](float v) { return v; }) : 0.f;
  const float square = mean_of([mean](float v) { return (v - mean) * (v - mean); });
  return {mean, 1.f / sqrtf(square + l.m.eps)};
}

/// (v - mean) rstd (weight + offset) + bias of columns i to i + 3.
template <class T>
__device__ __forceinline__ float4 normed(const FamilyModel<T>& f, const NormFactors& n, float4 v, const T* weight,
                                         const T* bias, int i) {
  const Vec<float, 4> w = widen<4>(load<4>(weight + i));
  const auto one = [&](float x, int e) { return (x - n.mean) * n.rstd * (w.at[e] + f.norm_weight_offset); };
  float4 y{one(v.x, 0), one(v.y, 1), one(v.z, 2), one(v.w, 3)};
  if (bias) {
    const Vec<float, 4> b = widen<4>(load<4>(bias + i));
    y.x += b.at[0], y.y += b.at[1], y.z += b.at[2], y.w += b.at[3];
  }
  return y;
}

/// The input to shared memory, in load_vector's layout. Each thread reads and writes its own columns until the end.
template <class T>
__device__ __forceinline__ void load_input(const Local<T>& l, const FamilyModel<T>& f, const Input<T>& in) {
  const int k = l.m.hidden;
  const auto at = [&](int i) { return reinterpret_cast<float4*>(l.vector + i / 4 % 2 * (k / 2) + i / 8 * 4); };
  __syncthreads();  // the vector before this one has been read
  if (in.added) {
    each_four(k, [&](int i) { *at(i) = __ldcg(reinterpret_cast<const float4*>(in.added + i)); });
    const NormFactors n = norm_factors(l, f, k);
    const int begin = 2 * l.shares[kO].begin, end = 2 * l.shares[kO].end;
    each_four(k, [&](int i) {
      const float4 x = __ldcg(reinterpret_cast<const float4*>(in.stream + i));
      const float4 y = normed(f, n, *at(i), in.added_norm, in.added_bias, i);
      const float sum[4] = {x.x + y.x, x.y + y.y, x.z + y.z, x.w + y.w};
#pragma unroll
      for (int e = 0; e < 4; ++e)
        if (i + e >= begin && i + e < end) in.to[i + e] = sum[e];
      *at(i) = {sum[0], sum[1], sum[2], sum[3]};
    });
  } else {
    each_four(k, [&](int i) { *at(i) = __ldcg(reinterpret_cast<const float4*>(in.stream + i)); });
  }
  if (in.norm) {
    const NormFactors n = norm_factors(l, f, k);
    each_four(k, [&](int i) { *at(i) = normed(f, n, *at(i), in.norm, in.bias, i); });
  }
  __syncthreads();
}

template <class T>
__device__ __forceinline__ float bias_of(const T* bias, int row) {
  return bias ? to_float(bias[row]) : 0.f;
}

__device__ __forceinline__ float activated(Activation activation, float x) {
  if (activation == Activation::silu) return x / (1.f + __expf(-x));
  if (activation == Activation::gelu) return 0.5f * x * erfcf(-x * 0.70710678f);
  const float c = fminf(fmaxf(x, -12.f), 12.f);
  return x / (1.f + __expf(-1.59576912f * c * (1.f + 0.044715f * c * c)));
}

/// Row pair `item` of q, k and v. Without norms: q rotated and scaled to m.q, k rotated and v to the cache. With norms
/// of q and k these go to m.q and f.keys as they are.
template <class T>
__device__ __forceinline__ void put_qkv(const Local<T>& l, const FamilyModel<T>& f, const LayerExtras<T>& extras,
                                        const Layer<T>& layer, int position, int item, float first, float second) {
  const Model<T>& m = l.m;
  const int head = item / (m.head_dim / 2), j = item % (m.head_dim / 2);
  const bool q_or_k = head < m.n_heads + m.n_kv_heads;
  const int2 pair = pair_of(j, m.pairs, m.half && q_or_k);
  first += bias_of(extras.qkv_bias, head * m.head_dim + pair.x);
  second += bias_of(extras.qkv_bias, head * m.head_dim + pair.y);
  if (q_or_k && !f.qk_norm && extras.table >= 0 && j < m.pairs) {
    const float* table = l.cos_sin + extras.table * 2 * m.pairs;
    const float c = table[j], s = table[m.pairs + j], old = first;
    first = first * c - second * s;
    second = second * c + old * s;
  }
  if (head < m.n_heads) {
    const float factor = f.qk_norm ? 1.f : m.scale * (m.query_scale ? m.query_scale[position] : 1.f);
    m.q[head * m.head_dim + pair.x] = first * factor;
    m.q[head * m.head_dim + pair.y] = second * factor;
  } else if (q_or_k && f.qk_norm) {
    f.keys[(head - m.n_heads) * m.head_dim + pair.x] = first;
    f.keys[(head - m.n_heads) * m.head_dim + pair.y] = second;
  } else {
    const int kv = q_or_k ? head - m.n_heads : head - m.n_heads - m.n_kv_heads;
    T* to = (q_or_k ? layer.k : layer.v) + (static_cast<int64_t>(position) * m.n_kv_heads + kv) * m.head_dim;
    to[pair.x] = from_float<T>(first);
    to[pair.y] = from_float<T>(second);
  }
}

/// Queries whose norm, rotation and scaling a block does for itself; the block that reads the newest key does the same
/// for it. tile: shared [rows + 1, WIDE].
template <class T, int WIDE>
struct NormedQueries {
  const Local<T>& l;
  const FamilyModel<T>& f;
  const LayerExtras<T>& extras;
  const Layer<T>& layer;
  int position;
  float q_rstd, k_rstd;  // across heads
  float (*tile)[WIDE];

  __device__ void prepare(const BlockHeads& b, bool newest) const {
    const Model<T>& m = l.m;
    const int lane = threadIdx.x % kWarp, dim = m.head_dim;
    __syncthreads();  // the tile before this one has been read
    for (int r = threadIdx.x / kWarp; r < b.heads + (newest ? 1 : 0); r += kWarps) {
      const bool key = r == b.heads;
      const int head = key ? b.kv : b.first_head + r;
      const float* from = (key ? f.keys : m.q) + head * dim;
      float* to = tile[r];
      float square = 0;
      for (int i = lane; i < dim; i += kWarp) {
        to[i] = __ldcg(from + i);
        square = fmaf(to[i], to[i], square);
      }
      square = warp_reduce(square, Sum{});
      const float rstd =
          f.qk_norm_across ? (key ? k_rstd : q_rstd) : 1.f / sqrtf(square / static_cast<float>(dim) + m.eps);
      const T* weight = (key ? extras.k_norm : extras.q_norm) + (f.qk_norm_across ? head * dim : 0);
      for (int i = lane; i < dim; i += kWarp) to[i] *= rstd * (to_float(weight[i]) + f.norm_weight_offset);
      __syncwarp();
      if (extras.table >= 0) {
        const float* table = l.cos_sin + extras.table * 2 * m.pairs;
        for (int j = lane; j < m.pairs; j += kWarp) {
          const int2 pair = pair_of(j, m.pairs, m.half);
          const float c = table[j], s = table[m.pairs + j], x = to[pair.x], y = to[pair.y];
          to[pair.x] = x * c - y * s;
          to[pair.y] = y * c + x * s;
        }
        __syncwarp();
      }
      const float factor = m.scale * (m.query_scale ? m.query_scale[position] : 1.f);
      T* cached = layer.k + (static_cast<int64_t>(position) * m.n_kv_heads + b.kv) * dim;
      for (int i = lane; i < dim; i += kWarp) {
        if (key) cached[i] = from_float<T>(to[i]);
        else to[i] *= factor;
      }
    }
    __threadfence();
    __syncthreads();
  }
  __device__ __forceinline__ const float* row(const BlockHeads&, int h) const { return tile[h]; }
  __device__ __forceinline__ static float4 load(const float* p) { return *reinterpret_cast<const float4*>(p); }
};

/// 1 / sqrt(mean square + eps) of a vector [n] in global memory, by the whole block.
template <class T>
__device__ __forceinline__ float rstd_of(const Local<T>& l, const float* x, int n) {
  float square = 0;
  for (int i = threadIdx.x; i < n; i += kThreads) {
    const float v = __ldcg(x + i);
    square = fmaf(v, v, square);
  }
  __syncthreads();
  return 1.f / sqrtf(block_reduce<kThreads>(square, Sum{}, l.scratch) / static_cast<float>(n) + l.m.eps);
}

/// Attention of a layer, in both forms of its queries.
template <class T, int WIDE>
__device__ __forceinline__ void attend_layer(const Local<T>& l, const FamilyModel<T>& f, const LayerExtras<T>& extras,
                                             const Layer<T>& layer, const Visible& visible) {
  if (!f.qk_norm) return attend<T, WIDE>(l.m, layer, visible, l.vector, plain_queries(l.m));
  __shared__ __align__(16) float tile[split_kv::kRows<T, WIDE> + 1][WIDE];
  const Model<T>& m = l.m;
  const float q_rstd = f.qk_norm_across ? rstd_of(l, m.q, m.n_heads * m.head_dim) : 0.f;
  const float k_rstd = f.qk_norm_across ? rstd_of(l, f.keys, m.n_kv_heads * m.head_dim) : 0.f;
  attend<T, WIDE>(m, layer, visible, l.vector,
                  NormedQueries<T, WIDE>{l, f, extras, layer, visible.position, q_rstd, k_rstd, tile});
}

/// cos and sin of this position, of both tables.
template <class T>
__device__ __forceinline__ void fill_tables(const Model<T>& m, const FamilyModel<T>& f, int position, float* cos_sin) {
  for (int i = threadIdx.x; i < (f.local_inv_freq ? 2 : 1) * m.pairs; i += kThreads) {
    const int table = i / m.pairs, j = i % m.pairs;
    const double factor = table ? f.local_rope_factor : m.rope_factor;
    double s, c;
    sincos(static_cast<double>(position) * (table ? f.local_inv_freq : m.inv_freq)[j], &s, &c);
    cos_sin[table * 2 * m.pairs + j] = static_cast<float>(factor * c);
    cos_sin[table * 2 * m.pairs + m.pairs + j] = static_cast<float>(factor * s);
  }
}

/// The arguments of decode_step_kernel (decoder.cu), and the FamilyModel.
template <class T, int SLOTS, int WIDE, bool INT8>
__global__ void __launch_bounds__(kThreads, 1)
    family_kernel(const __grid_constant__ Model<T> m, const __grid_constant__ FamilyModel<T> f, int id, int position,
                  int32_t* result) {
  extern __shared__ __align__(128) unsigned char memory[];
  __shared__ __align__(8) uint64_t ready[kWarps][SLOTS];
  __shared__ Share shares[kMatrices];
  __shared__ float cos_sin[2 * 256], scratch[kWarps];
  Layer<T>* layers = reinterpret_cast<Layer<T>*>(memory + ring_bytes(SLOTS, INT8));
  const Local<T> l{m, layers, shares, cos_sin, reinterpret_cast<float*>(layers + m.n_layers), scratch};
  const int lane = threadIdx.x % kWarp;
  if (threadIdx.x < kMatrices) shares[threadIdx.x] = share_of(m, static_cast<int>(threadIdx.x));
  for (int i = threadIdx.x; i < m.n_layers; i += kThreads) layers[i] = m.layers[i];
  __syncthreads();
  WeightStream<T, SLOTS, INT8> weights(m, layers, shares, memory, ready[threadIdx.x / kWarp], nullptr);
  unsigned target = 0;
  int items_before = 0;
  if (id < 0) id = max(m.grid->best, 0);
  for (int i = 2 * shares[kO].begin + static_cast<int>(threadIdx.x); i < 2 * shares[kO].end; i += kThreads)
    m.x[i] = to_float(m.embedding[static_cast<int64_t>(id) * m.hidden + i]) * f.embedding_scale;
  fill_tables(m, f, position, cos_sin);

  const auto nothing = [](int) {};
  float *stream = m.x, *other = f.other;
  const T *added_norm = nullptr, *added_bias = nullptr;  // of what waits in f.added
  const auto load_next = [&](const T* norm, const T* bias) {
    load_input(l, f, {stream, added_norm ? f.added : nullptr, added_norm, added_bias, other, norm, bias});
    if (!added_norm) return;
    float* now = other;
    other = stream;
    stream = now;
  };
  float2 before{};  // of this item's rows
  const auto add_rows = [&](int matrix, const T* bias, const T* norm, const float* from, float* to) {
    multiply(
        weights, l, matrix, 1.f, items_before,
        [&](int item) {
          if (lane == 0) before = norm ? float2{} : __ldcg(reinterpret_cast<const float2*>(from) + item);
        },
        [&](int item, float first, float second) {
          first += bias_of(bias, 2 * item), second += bias_of(bias, 2 * item + 1);
          reinterpret_cast<float2*>(norm ? f.added : to)[item] = {before.x + first, before.y + second};
        });
  };
  for (int i = 0; i < m.n_layers; ++i) {
    const Layer<T>& layer = layers[i];
    const LayerExtras<T>& extras = f.layers[i];
    const int seen_from = extras.window > 0 ? max(0, position + 1 - extras.window) : 0;
    grid_barrier(m.grid, target);
    load_next(layer.input_norm, extras.input_norm_bias);
    prefetch_cache(m, layer, position, seen_from);
    multiply(weights, l, kQkv, 1.f, items_before, nothing,
             [&](int item, float first, float second) { put_qkv(l, f, extras, layer, position, item, first, second); });
    grid_barrier(m.grid, target);
    attend_layer<T, WIDE>(l, f, extras, layer, {position, seen_from, {attn::kLog2e, f.soft_cap * attn::kLog2e}});
    grid_barrier(m.grid, target);
    load_vector<false, T>(FloatsSource{m.o}, nullptr, m.n_heads * m.head_dim, 0.f, l.vector, scratch);
    add_rows(kO, extras.o_bias, extras.attention_norm, stream, f.parallel ? other : stream);
    grid_barrier(m.grid, target);
    added_norm = extras.attention_norm, added_bias = extras.attention_norm_bias;
    load_next(layer.post_norm, extras.post_norm_bias);
    multiply(weights, l, kGateUp, 1.f, items_before, nothing, [&](int item, float first, float second) {
      const T* bias = extras.gate_up_bias;
      if (m.gated) {
        m.h[item] = activated(f.activation, first + bias_of(bias, item)) * (second + bias_of(bias, m.ffn + item));
      } else {
        m.h[2 * item] = activated(f.activation, first + bias_of(bias, 2 * item));
        m.h[2 * item + 1] = activated(f.activation, second + bias_of(bias, 2 * item + 1));
      }
    });
    grid_barrier(m.grid, target);
    load_vector<false, T>(FloatsSource{m.h}, nullptr, m.ffn, 0.f, l.vector, scratch);
    float* sum = f.parallel ? other : stream;
    add_rows(kDown, extras.down_bias, extras.mlp_norm, sum, sum);
    added_norm = extras.mlp_norm, added_bias = extras.mlp_norm_bias;
    if (f.parallel) other = stream, stream = sum;
  }
  grid_barrier(m.grid, target);
  load_next(m.norm, f.norm_bias);
  unsigned long long best = 0;
  bool bad = false;
  multiply(weights, l, kHead, 1.f, items_before, nothing, [&](int item, float first, float second) {
    const auto put = [&](int row, float logit) {
      logit += bias_of(f.head_bias, row);
      if (f.logit_soft_cap > 0) logit = f.logit_soft_cap * tanhf(logit / f.logit_soft_cap);
      m.logits[row] = logit;
      bad |= isnan(logit);
      best = max(best, best_key(logit, row));
    };
    put(2 * item, first);
    if (2 * item + 1 < m.vocab) put(2 * item + 1, second);
  });
  finish_token(m, best, bad, result);
}

}  // namespace

bool is_llama(const DecoderModel& m) {
  const bool plain = !m.layer_norm && m.gated && !m.parallel && m.activation == Activation::silu &&
                     m.norm_weight_offset == 0 && m.embedding_scale == 1 && m.score_scale == 0 && m.soft_cap == 0 &&
                     m.logit_soft_cap == 0 && !m.norm_bias.defined() && !m.head_bias.defined();
  return plain && std::all_of(m.layers.begin(), m.layers.end(), [](const DecoderLayer& l) {
           for (const Tensor* t : {&l.qkv_bias, &l.o_bias, &l.gate_up_bias, &l.down_bias, &l.input_norm_bias,
                                   &l.post_norm_bias, &l.q_norm, &l.attention_norm, &l.mlp_norm})
             if (t->defined()) return false;
           return l.input_norm.defined() && l.post_norm.defined() && l.window == 0 && l.rope && !l.local_rope;
         });
}

template <class T>
Family<T>::Family(const DecoderModel& m) {
  const Device device = m.embedding.device();
  std::vector<LayerExtras<T>> layers;
  bool qk_norm = false;
  for (const DecoderLayer& l : m.layers) {
    layers.push_back({.qkv_bias = as<T>(l.qkv_bias),
                      .o_bias = as<T>(l.o_bias),
                      .gate_up_bias = as<T>(l.gate_up_bias),
                      .down_bias = as<T>(l.down_bias),
                      .input_norm_bias = as<T>(l.input_norm_bias),
                      .post_norm_bias = as<T>(l.post_norm_bias),
                      .q_norm = as<T>(l.q_norm),
                      .k_norm = as<T>(l.k_norm),
                      .attention_norm = as<T>(l.attention_norm),
                      .attention_norm_bias = as<T>(l.attention_norm_bias),
                      .mlp_norm = as<T>(l.mlp_norm),
                      .mlp_norm_bias = as<T>(l.mlp_norm_bias),
                      .window = static_cast<int>(l.window),
                      .table = !l.rope        ? -1
                               : l.local_rope ? 1
                                              : 0});
    qk_norm |= l.q_norm.defined();
    check(!l.local_rope || m.local_inv_freq.numel() == m.inv_freq.numel(), "decoder",
          "both RoPE tables must have as many frequencies");
  }
  std::vector<int32_t> words(layers.size() * sizeof(LayerExtras<T>) / sizeof(int32_t));
  std::memcpy(words.data(), layers.data(), words.size() * sizeof(int32_t));
  layers_ = Tensor::from(words).to(device);
  other_ = Tensor::empty({m.hidden}, DType::f32, device);
  added_ = Tensor::empty({m.hidden}, DType::f32, device);
  keys_ = Tensor::empty({m.n_kv_heads * m.head_dim}, DType::f32, device);
  model_ = {.layers = static_cast<const LayerExtras<T>*>(layers_.raw()),
            .norm_bias = as<T>(m.norm_bias),
            .head_bias = as<T>(m.head_bias),
            .local_inv_freq = as<double>(m.local_inv_freq),
            .local_rope_factor = m.local_attention_scale,
            .other = as<float>(other_),
            .added = as<float>(added_),
            .keys = as<float>(keys_),
            .norm_weight_offset = static_cast<float>(m.norm_weight_offset),
            .embedding_scale = static_cast<float>(m.embedding_scale),
            .soft_cap = static_cast<float>(m.soft_cap),
            .logit_soft_cap = static_cast<float>(m.logit_soft_cap),
            .activation = m.activation,
            .layer_norm = m.layer_norm,
            .parallel = m.parallel,
            .qk_norm = qk_norm,
            .qk_norm_across = m.qk_norm_across};
}

template <class T>
FamilyKernel<T> family_step_kernel(int slots, int wide, bool int8) {
  const auto of = [&](auto width) -> FamilyKernel<T> {
    if (int8 && slots == kShallow) return family_kernel<T, kShallow, width(), true>;
    if (int8) return family_kernel<T, kDeep<T>, width(), true>;
    if (slots == kShallow) return family_kernel<T, kShallow, width(), false>;
    return family_kernel<T, kDeep<T>, width(), false>;
  };
  if (wide == 64) return of(std::integral_constant<int, 64>{});
  if (wide == 128) return of(std::integral_constant<int, 128>{});
  return of(std::integral_constant<int, 256>{});
}

template class Family<float>;
template class Family<b16>;
template FamilyKernel<float> family_step_kernel<float>(int, int, bool);
template FamilyKernel<b16> family_step_kernel<b16>(int, int, bool);

}  // namespace rw::cuda::decode
