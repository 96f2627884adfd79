// Decoding on the GPU: one token is one kernel. What bounds it is reading every weight once, and which weights those
// are is known before the token is. So one block per multiprocessor stays for the whole token, its warps keep their
// weights coming all the time (decode_step.cuh), and a barrier over the grid stands where a vector has to be whole:
//
//   x = embedding | q, k, v | attention | x += W_o o | h = swiglu | x += W_d h | ... | logits, the best token
//
// The residual stream x and every vector between two barriers is f32; weights and cache are bf16 or f32.
#include <algorithm>
#include <cmath>
#include <cstring>

#include "nn/cuda_decoder.h"
#include "nn/decode_attention.cuh"

namespace rw::cuda {
namespace decode {
namespace {

/// x [k] to shared memory, as two planes of four: lane i reads columns 8i.. as one float4 of each, without conflicts.
/// With a norm, x * norm, and the factor that is missing: 1 / rms(x).
template <bool NORM, class T>
__device__ __forceinline__ float load_vector(const float* x, const T* norm, int k, float eps, float* vector,
                                             float* scratch) {
  constexpr int kStep = 4 * kThreads, kAhead = 6;  // loads on their way together
  float square = 0;
  for (int first = 4 * static_cast<int>(threadIdx.x); first < k; first += kAhead * kStep) {
    float4 value[kAhead];
    Vec<T, 4> weight[kAhead];
#pragma unroll
    for (int u = 0; u < kAhead; ++u) {
      const int i = first + u * kStep;
      if (i < k) value[u] = __ldcg(reinterpret_cast<const float4*>(x + i));
      if (NORM && i < k) weight[u] = load<4>(norm + i);
    }
#pragma unroll
    for (int u = 0; u < kAhead; ++u) {
      const int i = first + u * kStep;
      if (i >= k) continue;
      float4& v = value[u];
      if constexpr (NORM) {
        square += v.x * v.x + v.y * v.y + v.z * v.z + v.w * v.w;
        const Vec<float, 4> w = widen<4>(weight[u]);
        v = {v.x * w.at[0], v.y * w.at[1], v.z * w.at[2], v.w * w.at[3]};
      }
      *reinterpret_cast<float4*>(vector + i / 4 % 2 * (k / 2) + i / 8 * 4) = v;
    }
  }
  float scale = 1;
  if constexpr (NORM) scale = rsqrtf(block_reduce<kThreads>(square, Sum{}, scratch) / static_cast<float>(k) + eps);
  __syncthreads();
  return scale;
}

/// Orders logits as unsigned numbers, larger first, then the smaller index.
__device__ __forceinline__ unsigned long long best_key(float logit, int index) {
  const unsigned bits = __float_as_uint(logit + 0.f);  // -0 becomes 0
  const unsigned ordered = bits >> 31 ? ~bits : bits | 0x80000000u;
  return static_cast<unsigned long long>(ordered) << 32 | (0xffffffffu - static_cast<unsigned>(index));
}
__device__ __forceinline__ int best_of_key(unsigned long long key) {
  const unsigned ordered = static_cast<unsigned>(key >> 32);
  const float logit = __uint_as_float(ordered >> 31 ? ordered & 0x7fffffffu : ~ordered);
  return isfinite(logit) ? static_cast<int>(0xffffffffu - static_cast<unsigned>(key)) : -1;
}

/// What a launch has in shared memory.
template <class T>
struct Local {
  const Model<T>& m;
  const Layer<T>* layers;  // [n_layers]
  const Share* shares;     // [kMatrices]
  const float* cos_sin;    // [2,pairs]
  float *vector, *scratch;
};

/// Row pair `item` of q, k and v: q rotated and scaled to m.q, k rotated and v to the cache.
template <class T>
__device__ __forceinline__ void rotate_and_put(const Local<T>& l, const Layer<T>& layer, int position, int item,
                                               float first, float second) {
  const Model<T>& m = l.m;
  const int head = item / (m.head_dim / 2), j = item % (m.head_dim / 2);
  const bool rotates = head < m.n_heads + m.n_kv_heads;
  const int2 pair = pair_of(j, m.pairs, m.half && rotates);
  if (rotates && j < m.pairs) {
    const float c = l.cos_sin[j], s = l.cos_sin[m.pairs + j], old = first;
    first = first * c - second * s;
    second = second * c + old * s;
  }
  if (head < m.n_heads) {
    const float factor = m.scale * (m.query_scale ? m.query_scale[position] : 1.f);
    m.q[head * m.head_dim + pair.x] = first * factor;
    m.q[head * m.head_dim + pair.y] = second * factor;
  } else {
    const int kv = rotates ? head - m.n_heads : head - m.n_heads - m.n_kv_heads;
    T* to = (rotates ? layer.k : layer.v) + (static_cast<int64_t>(position) * m.n_kv_heads + kv) * m.head_dim;
    to[pair.x] = from_float<T>(first);
    to[pair.y] = from_float<T>(second);
  }
}

/// put(item, products of its two rows with the vector), by lane 0; before(item) first, while the weights come.
template <class T, int SLOTS, class Before, class Put>
__device__ __forceinline__ void multiply(WeightStream<T, SLOTS>& weights, const Local<T>& l, int matrix, float scale,
                                         int& items_before, Before&& before, Put&& put) {
  const Share share = l.shares[matrix];
  for (int item = weights.first_item(share, items_before); item < share.end; item += kWarps) {
    before(item);
    float sum[2][kEights<T>] = {};
    for (int first = 0; first < share.k; first += kColumns<T>) weights.take(l.vector, share.k, first, sum);
    float of_row[2];
#pragma unroll
    for (int r = 0; r < 2; ++r) {
      of_row[r] = sum[r][0];
#pragma unroll
      for (int e = 1; e < kEights<T>; ++e) of_row[r] += sum[r][e];
      of_row[r] = warp_reduce(of_row[r], Sum{}) * scale;
    }
    if (threadIdx.x % kWarp == 0) put(item, of_row[0], of_row[1]);
  }
  items_before += share.end - share.begin;
}

/// One token: `id`, or with a negative one the best token of the launch before. Its logits go to m.logits, the best
/// next token to m.grid->best and to `result`, which is host memory.
template <class T, int SLOTS, int WIDE>
__global__ void __launch_bounds__(kThreads, 1)
    decode_step_kernel(const __grid_constant__ Model<T> m, int id, int position, int32_t* result) {
  extern __shared__ __align__(128) unsigned char memory[];
  __shared__ __align__(8) uint64_t ready[kWarps][SLOTS];
  __shared__ Share shares[kMatrices];
  __shared__ float cos_sin[256], scratch[kWarps];
  __shared__ unsigned long long best_of[kWarps];
  Layer<T>* layers = reinterpret_cast<Layer<T>*>(memory + SLOTS * kWarps * kSlotBytes);
  const Local<T> l{m, layers, shares, cos_sin, reinterpret_cast<float*>(layers + m.n_layers), scratch};
  const int lane = threadIdx.x % kWarp, warp = threadIdx.x / kWarp;

  if (threadIdx.x < kMatrices) shares[threadIdx.x] = share_of(m, static_cast<int>(threadIdx.x));
  for (int i = threadIdx.x; i < m.n_layers; i += kThreads) layers[i] = m.layers[i];
  __syncthreads();
  WeightStream<T, SLOTS> weights(m, layers, shares, memory, ready[warp]);
  unsigned target = 0;
  int items_before = 0;

  if (id < 0) id = max(m.grid->best, 0);
  // The rows of x that this block will add to are its own from the start.
  for (int i = 2 * shares[kO].begin + static_cast<int>(threadIdx.x); i < 2 * shares[kO].end; i += kThreads)
    m.x[i] = to_float(m.embedding[static_cast<int64_t>(id) * m.hidden + i]);
  for (int i = threadIdx.x; i < m.pairs; i += kThreads) {
    double s, c;
    sincos(static_cast<double>(position) * m.inv_freq[i], &s, &c);
    cos_sin[i] = static_cast<float>(m.rope_factor * c);
    cos_sin[m.pairs + i] = static_cast<float>(m.rope_factor * s);
  }

  const auto nothing = [](int) {};
  float2 x_before{};  // of this item's rows, asked for before it is needed
  const auto read_x = [&](int item) {
    if (lane == 0) x_before = __ldcg(reinterpret_cast<const float2*>(m.x) + item);
  };
  const auto add_to_x = [&](int item, float first, float second) {
    reinterpret_cast<float2*>(m.x)[item] = {x_before.x + first, x_before.y + second};
  };
  for (int i = 0; i < m.n_layers; ++i) {
    const Layer<T>& layer = layers[i];
    grid_barrier(m.grid, target);
    float scale = load_vector<true>(m.x, layer.input_norm, m.hidden, m.eps, l.vector, scratch);
    prefetch_cache(m, layer, position);
    multiply(weights, l, kQkv, scale, items_before, nothing,
             [&](int item, float first, float second) { rotate_and_put(l, layer, position, item, first, second); });
    grid_barrier(m.grid, target);
    attend<T, WIDE>(m, layer, position, l.vector);
    grid_barrier(m.grid, target);
    load_vector<false, T>(m.o, nullptr, m.n_heads * m.head_dim, 0.f, l.vector, scratch);
    multiply(weights, l, kO, 1.f, items_before, read_x, add_to_x);
    grid_barrier(m.grid, target);
    scale = load_vector<true>(m.x, layer.post_norm, m.hidden, m.eps, l.vector, scratch);
    multiply(weights, l, kGateUp, scale, items_before, nothing,
             [&](int item, float gate, float up) { m.h[item] = gate / (1.f + __expf(-gate)) * up; });
    grid_barrier(m.grid, target);
    load_vector<false, T>(m.h, nullptr, m.ffn, 0.f, l.vector, scratch);
    multiply(weights, l, kDown, 1.f, items_before, read_x, add_to_x);
  }
  grid_barrier(m.grid, target);
  const float scale = load_vector<true>(m.x, m.norm, m.hidden, m.eps, l.vector, scratch);
  unsigned long long best = 0;
  bool bad = false;
  multiply(weights, l, kHead, scale, items_before, nothing, [&](int item, float first, float second) {
    const auto put = [&](int row, float logit) {
      m.logits[row] = logit;
      bad |= isnan(logit);
      best = max(best, best_key(logit, row));
    };
    put(2 * item, first);
    if (2 * item + 1 < m.vocab) put(2 * item + 1, second);
  });

  if (lane == 0) best_of[warp] = best;
  if (__syncthreads_or(bad) && threadIdx.x == 0) m.grid->bad = 1;
  if (threadIdx.x != 0) return;
  for (int w = 1; w < kWarps; ++w) best = max(best, best_of[w]);
  atomicMax(&m.grid->top, best);
  __threadfence();
  if (atomicAdd(&m.grid->done, 1u) + 1 != gridDim.x) return;
  __threadfence();
  GridState& all = *m.grid;  // the last block leaves it as the next launch expects it
  const unsigned long long top = atomicExch(&all.top, 0ull);
  all.best = atomicExch(&all.bad, 0) != 0 ? -1 : best_of_key(top);
  all.arrived = 0;
  all.done = 0;
  *result = all.best;
}

// --- the host -------------------------------------------------------------------------------------------------------

constexpr int kShallow = 2;  // slots of a warp's ring
template <class T>
constexpr int kDeep = sizeof(T) == 2 ? 5 : kShallow;
constexpr int64_t kOwnSharedBytes = 8 * 1024;  // what the kernel declares beside the dynamic part, and a reserve

/// Shared floats for the activations: of a product's input, or of attention.
template <class T>
int64_t vector_floats_for(int64_t widest, int64_t head_dim) {
  return split_kv::with_wide(head_dim,
                             [&](auto wide) { return std::max<int64_t>(widest, split_kv::kWarpFloats<T, wide>); });
}
template <class T>
bool fits(int slots, int64_t n_layers, int64_t vector_floats) {
  return shared_bytes<T>(slots, n_layers, vector_floats) + kOwnSharedBytes <= max_shared_bytes();
}

template <class T>
class Decoder final : public DeviceDecoder {
 public:
  explicit Decoder(const DecoderModel& m) : m_(m) {
    const Device device = m.embedding.device();
    const MemoryTag tag("decoder");
    const int64_t rows = split_kv::with_wide(m.head_dim, [](auto wide) { return split_kv::kRows<T, wide>; });
    const int64_t parts = ceil_div(m.n_heads / m.n_kv_heads, rows), units = m.n_kv_heads * parts;
    // As many splits of the cache as there are blocks for, but none shorter than it should be.
    const int64_t splits = std::clamp<int64_t>(std::min(multiprocessors() / units, ceil_div(m.capacity, kShortest)), 1,
                                               split_kv::kMaxSplits);
    const int64_t vector_floats = vector_floats_for<T>(std::max({m.hidden, m.ffn, m.n_heads * m.head_dim}), m.head_dim);

    std::vector<Layer<T>> layers;
    for (const DecoderLayer& l : m.layers) {
      layers.push_back({as<T>(l.input_norm), as<T>(l.qkv), as<T>(l.o), as<T>(l.post_norm), as<T>(l.gate_up),
                        as<T>(l.down), as<T>(l.k), as<T>(l.v)});
      weight_bytes_ += bytes_of(l.input_norm, l.qkv, l.o, l.post_norm, l.gate_up, l.down);
    }
    weight_bytes_ += bytes_of(m.norm, m.head);
    std::vector<int32_t> words(layers.size() * sizeof(Layer<T>) / sizeof(int32_t));
    std::memcpy(words.data(), layers.data(), words.size() * sizeof(int32_t));
    layers_ = Tensor::from(words).to(device);
    grid_state_ = Tensor::zeros({static_cast<int64_t>(sizeof(GridState) / sizeof(int32_t))}, DType::i32, device);
    heads_arrived_ = Tensor::zeros({units}, DType::i32, device);
    const auto vector = [&](int64_t n) { return Tensor::empty({n}, DType::f32, device); };
    x_ = vector(m.hidden), q_ = vector(m.n_heads * m.head_dim), o_ = vector(m.n_heads * m.head_dim), h_ = vector(m.ffn);
    logits_ = vector(m.vocab), partial_ = vector(m.n_heads * splits * (m.head_dim + 2));

    model_ = {static_cast<const Layer<T>*>(layers_.raw()),
              as<T>(m.embedding),
              as<T>(m.norm),
              as<T>(m.head),
              as<double>(m.inv_freq),
              as<float>(m.query_scale),
              as<float>(x_),
              as<float>(q_),
              as<float>(o_),
              as<float>(h_),
              as<float>(logits_),
              as<float>(partial_),
              as<int>(heads_arrived_),
              static_cast<GridState*>(grid_state_.raw()),
              static_cast<int>(m.layers.size()),
              static_cast<int>(m.hidden),
              static_cast<int>(m.ffn),
              static_cast<int>(m.vocab),
              static_cast<int>(m.n_heads),
              static_cast<int>(m.n_kv_heads),
              static_cast<int>(m.head_dim),
              static_cast<int>(m.inv_freq.numel()),
              static_cast<int>(parts),
              static_cast<int>(splits),
              static_cast<int>(vector_floats),
              m.eps,
              1.f / std::sqrt(static_cast<float>(m.head_dim)),
              m.attention_scale,
              m.layout == RopeLayout::half};
    // The deepest ring that fits beside the rest.
    slots_ = fits<T>(kDeep<T>, model_.n_layers, vector_floats) ? kDeep<T> : kShallow;
    shared_ = shared_bytes<T>(slots_, model_.n_layers, vector_floats);
    check(fits<T>(slots_, model_.n_layers, vector_floats), "decoder", "a model of this size needs ", shared_,
          " bytes of shared memory per block, and ", max_shared_bytes() - kOwnSharedBytes, " are there");

    void* pinned = nullptr;
    check_cuda(cudaHostAlloc(&pinned, sizeof(int32_t) * kResults + sizeof(float) * static_cast<size_t>(m.vocab), 0),
               "cudaHostAlloc");
    results_ = static_cast<int32_t*>(pinned);
    host_logits_ = reinterpret_cast<float*>(results_ + kResults);
    for (cudaEvent_t& e : done_) check_cuda(cudaEventCreateWithFlags(&e, cudaEventDisableTiming), "cudaEventCreate");
  }
  ~Decoder() override {
    cudaStreamSynchronize(stream());  // a token may be on its way
    for (cudaEvent_t e : done_) cudaEventDestroy(e);
    cudaFreeHost(results_);
  }

  void run(int32_t id, int64_t position, float* logits) override {
    in_flight_ = 0;
    start(id, position);
    in_flight_ = 0;
    const size_t bytes = sizeof(float) * static_cast<size_t>(m_.vocab);
    check_cuda(cudaMemcpyAsync(host_logits_, logits_.raw(), bytes, cudaMemcpyDeviceToHost, stream()), "decoder");
    check_cuda(cudaStreamSynchronize(stream()), "decoder");
    std::memcpy(logits, host_logits_, bytes);
  }

  /// The token after this one is started before this one is known here: the card takes it from its own memory, and
  /// never waits for the host.
  int32_t greedy(int32_t id, int64_t position, bool ahead) override {
    if (in_flight_ == 0 || ahead_id_ != id || ahead_position_ != position) {  // not what was started: begin anew
      in_flight_ = 0;
      start(id, position);
    }
    if (ahead) start(-1, position + 1);
    const int slot = (next_ - in_flight_ + kResults) % kResults;
    --in_flight_;
    check_cuda(cudaEventSynchronize(done_[slot]), "decoder");
    const int32_t best = results_[slot];
    check(best >= 0, "decoder", "a logit after token ", position, " is not a finite number");
    ahead_id_ = best;
    ahead_position_ = position + 1;
    return best;
  }

 private:
  static constexpr int kResults = 4;  // on their way back

  void start(int32_t id, int64_t position) {
    split_kv::with_wide(m_.head_dim, [&](auto wide) {
      if (slots_ == kShallow) return launch_step(decode_step_kernel<T, kShallow, wide>, id, position);
      launch_step(decode_step_kernel<T, kDeep<T>, wide>, id, position);
    });
    check_cuda(cudaEventRecord(done_[next_], stream()), "cudaEventRecord");
    next_ = (next_ + 1) % kResults;
    ++in_flight_;
  }

  void launch_step(void (*kernel)(Model<T>, int, int, int32_t*), int32_t id, int64_t position) {
    check_cuda(cudaFuncSetAttribute(kernel, cudaFuncAttributeMaxDynamicSharedMemorySize, static_cast<int>(shared_)),
               "decode_step");
    cudaLaunchAttribute together{};  // all blocks at once, or an error: they wait for each other
    together.id = cudaLaunchAttributeCooperative;
    together.val.cooperative = 1;
    cudaLaunchConfig_t config{};
    config.gridDim = dim3(static_cast<unsigned>(multiprocessors()));
    config.blockDim = dim3(kThreads);
    config.dynamicSmemBytes = static_cast<size_t>(shared_);
    config.stream = stream();
    config.attrs = &together;
    config.numAttrs = 1;
    const Timed timed({"decode_step", Work(weight_bytes_, weight_bytes_ / static_cast<int64_t>(sizeof(T)) * 2)});
    check_cuda(cudaLaunchKernelEx(&config, kernel, model_, id, static_cast<int>(position), results_ + next_),
               "decode_step");
  }

  DecoderModel m_;
  Model<T> model_{};
  Tensor layers_, grid_state_, heads_arrived_, x_, q_, o_, h_, logits_, partial_;
  int slots_ = kShallow;
  int64_t shared_ = 0, weight_bytes_ = 0;
  int32_t* results_ = nullptr;  // pinned, with the logits behind them
  float* host_logits_ = nullptr;
  cudaEvent_t done_[kResults] = {};
  int next_ = 0, in_flight_ = 0;  // tokens that were started and not asked for
  int32_t ahead_id_ = -1;         // the token that the oldest of them runs
  int64_t ahead_position_ = 0;
};

}  // namespace
}  // namespace decode

bool decoder_fits(DType dtype, int64_t widest, int64_t head_dim, int64_t n_layers) {
  if (dtype == DType::bf16)
    return decode::fits<b16>(decode::kShallow, n_layers, decode::vector_floats_for<b16>(widest, head_dim));
  return decode::fits<float>(decode::kShallow, n_layers, decode::vector_floats_for<float>(widest, head_dim));
}

std::unique_ptr<DeviceDecoder> make_decoder(const DecoderModel& model) {
  if (model.embedding.dtype() == DType::bf16) return std::make_unique<decode::Decoder<b16>>(model);
  check(model.embedding.dtype() == DType::f32, "decoder", "expected f32 or bf16 weights, got ",
        model.embedding.dtype());
  return std::make_unique<decode::Decoder<float>>(model);
}

}  // namespace rw::cuda
