// Decoding on the GPU: one token is one kernel. What bounds it is reading every weight once, and which weights those
// are is known before the token is. So one block per multiprocessor stays for the whole token. One of its warps asks
// for weights all the time (decode_weights.cuh). Where a vector has to be whole, all blocks receive it from those that
// computed its parts (decode_exchange.cuh):
//
//   x = embedding | q, k, v | attention | x += W_o o | h = swiglu | x += W_d h | ... | logits, the best token
//
// The residual stream x is f32. What is sent is f32, or the upper 24 bits of it; weights and cache are bf16 or f32.
// decoder_families.cu has the kernel of other families, which still waits at barriers over the grid.
#include <algorithm>
#include <cmath>
#include <cstring>

#include "nn/cuda_decoder.h"
#include "nn/decode_families.cuh"
#include "nn/decode_kernel.cuh"

namespace rw::cuda {
namespace decode {
namespace {

/// Sends row pair `item` of q, k and v: q rotated and scaled, k rotated, v as it is.
template <class T>
__device__ __forceinline__ void rotate_and_send(const Local<T>& l, int position, int item, float first, float second,
                                                unsigned stamp) {
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
    first *= factor, second *= factor;
  }
  Word<T>* to = m.qkv_words + static_cast<int64_t>(head) * m.head_dim;
  if (pair.y == pair.x + 1) return send(to + pair.x, float2{first, second}, stamp);
  send(to + pair.x, first, stamp);
  send(to + pair.y, second, stamp);
}

/// One token: `id`, or with a negative one the best token of the launch before. Its logits go to m.logits, the best
/// next token to m.grid->best and to `result`, which is host memory.
template <class T, int SLOTS, int WIDE, bool INT8>
__global__ void __launch_bounds__(kThreads + kFeeders, 1)
    decode_step_kernel(const __grid_constant__ Model<T> m, int id, int position, int32_t* result) {
  extern __shared__ __align__(128) unsigned char memory[];
  __shared__ __align__(8) uint64_t ready[kWarps][SLOTS], emptied[kWarps][SLOTS];
  __shared__ Share shares[kMatrices];
  __shared__ float cos_sin[256], scratch[kWarps];
  Layer<T>* layers = reinterpret_cast<Layer<T>*>(memory + ring_bytes(SLOTS, INT8));
  const Local<T> l{m, layers, shares, cos_sin, reinterpret_cast<float*>(layers + m.n_layers), scratch};
  const int lane = threadIdx.x % kWarp, warp = threadIdx.x / kWarp;

  if (threadIdx.x < kMatrices) shares[threadIdx.x] = share_of(m, static_cast<int>(threadIdx.x));
  for (int i = threadIdx.x; i < m.n_layers; i += kThreads) layers[i] = m.layers[i];
  __syncthreads();
  if (warp >= kWarps) {  // the warp that brings the others' weights, and what a group of four needs besides
    give_registers();
    __syncthreads();
    if constexpr (kCanFeed) {
      if (warp == kWarps) feed_warps<T, SLOTS, INT8>(m, layers, shares, memory, ready[0], emptied[0]);
    }
    __syncwarp();
    return finish_token(m, 0, false, result);
  }
  take_registers();
  WeightStream<T, SLOTS, INT8, true> weights(m, layers, shares, memory, ready[warp], emptied[warp]);
  __syncthreads();
  int items_before = 0;

  if (id < 0) id = max(m.grid->best, 0);
  const T* embedding = m.embedding + static_cast<int64_t>(id) * m.hidden;
  // The rows of x that this block will add to are its own from the start.
  for (int i = 2 * shares[kO].begin + static_cast<int>(threadIdx.x); i < 2 * shares[kO].end; i += kThreads)
    m.x[i] = to_float(embedding[i]);
  for (int i = threadIdx.x; i < m.pairs; i += kThreads) {
    double s, c;
    sincos(static_cast<double>(position) * m.inv_freq[i], &s, &c);
    cos_sin[i] = static_cast<float>(m.rope_factor * c);
    cos_sin[m.pairs + i] = static_cast<float>(m.rope_factor * s);
  }

  float2 x_before{};  // of this item's rows, asked for before it is needed
  unsigned stamp = m.token * (2 * static_cast<unsigned>(m.n_layers) + 1);  // of x as it is now
  unsigned long long best = 0;
  bool bad = false;
  sync_readers();
  // All matrices of all layers, one after the other, and then the head. The loop has each part of the work once, so
  // that its instructions stay in the multiprocessor's cache.
  const int n_passes = kHead * m.n_layers + 1;
  for (int pass = 0; pass < n_passes; ++pass) {
    const int i = min(pass / kHead, m.n_layers - 1);
    const Matrix matrix = pass + 1 == n_passes ? kHead : static_cast<Matrix>(pass % kHead);
    const Layer<T>& layer = layers[i];
    const bool adds_to_x = matrix == kO || matrix == kDown;
    const Share share = shares[matrix];
    float scale = 1;
    if (matrix == kO) attend_received<T, WIDE>(m, layer, Visible{position, 0, {attn::kLog2e}}, stamp, l.vector);
    if (share.begin < share.end) {  // a block without rows of a matrix reads nothing for it
      if (adds_to_x) {
        load_vector<false, T>(WordsSource<Word<T>>{matrix == kO ? m.o_words : m.h_words, stamp}, nullptr, share.k, 0.f,
                              l.vector, scratch);
      } else if (pass == 0) {
        scale = load_vector<true>(RowSource<T>{embedding}, layer.input_norm, m.hidden, m.eps, l.vector, scratch);
      } else {
        const T* norm = matrix == kQkv ? layer.input_norm : matrix == kGateUp ? layer.post_norm : m.norm;
        scale = load_vector<true>(WordsSource<Word<T>>{m.x_words, stamp}, norm, m.hidden, m.eps, l.vector, scratch);
      }
    }
    if (matrix == kQkv) {
      prefetch_cache(m, layer, position, 0);
      prefetch_row(layer.post_norm, m.hidden);
      prefetch_row(i + 1 < m.n_layers ? layers[i + 1].input_norm : m.norm, m.hidden);
    }
    multiply(
        weights, l, matrix, scale, items_before,
        [&](int item) {
          if (adds_to_x && lane == 0) x_before = __ldcg(reinterpret_cast<const float2*>(m.x) + item);
        },
        [&](int item, float first, float second) {
          if (matrix == kQkv) return rotate_and_send(l, position, item, first, second, stamp);
          if (matrix == kGateUp) return send(m.h_words + item, __fdividef(first, 1.f + __expf(-first)) * second, stamp);
          if (adds_to_x) {
            const float2 sum{x_before.x + first, x_before.y + second};
            reinterpret_cast<float2*>(m.x)[item] = sum;
            return send(m.x_words + 2 * item, sum, stamp + 1);
          }
          const auto put = [&](int row, float logit) {
            m.logits[row] = logit;
            bad |= isnan(logit);
            best = max(best, best_key(logit, row));
          };
          put(2 * item, first);
          if (2 * item + 1 < m.vocab) put(2 * item + 1, second);
        });
    if (adds_to_x) ++stamp;
  }

  finish_token(m, best, bad, result);
}

// --- the host -------------------------------------------------------------------------------------------------------

/// What a kernel declares beside the dynamic part, and a reserve.
constexpr int64_t kOwnSharedBytes = 10 * 1024, kFamilySharedBytes = 16 * 1024;

/// Shared floats for the activations: of a product's input, or of attention.
template <class T>
int64_t vector_floats_for(int64_t widest, int64_t head_dim) {
  return split_kv::with_wide(head_dim,
                             [&](auto wide) { return std::max<int64_t>(widest, split_kv::kWarpFloats<T, wide>); });
}
template <class T>
bool fits(int slots, int64_t n_layers, int64_t vector_floats, bool int8, int64_t own = kFamilySharedBytes) {
  return shared_bytes<T>(slots, n_layers, vector_floats, int8) + own <= max_shared_bytes();
}

/// A list of structures on the GPU.
template <class S>
Tensor on_gpu(const std::vector<S>& list, Device device) {
  std::vector<int32_t> words(list.size() * sizeof(S) / sizeof(int32_t));
  std::memcpy(words.data(), list.data(), words.size() * sizeof(int32_t));
  return Tensor::from(words).to(device);
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
    std::vector<LayerScales> scales;
    for (const DecoderLayer& l : m.layers) {
      layers.push_back({as<T>(l.input_norm), as<T>(l.qkv), as<T>(l.o), as<T>(l.post_norm), as<T>(l.gate_up),
                        as<T>(l.down), as<T>(l.k), as<T>(l.v)});
      if (m.int8)
        scales.push_back(
            {as<float>(l.qkv_scales), as<float>(l.o_scales), as<float>(l.gate_up_scales), as<float>(l.down_scales)});
      weight_bytes_ += bytes_of(l.input_norm, l.qkv, l.o, l.post_norm, l.gate_up, l.down);
      weight_bytes_ += bytes_of(l.qkv_scales, l.o_scales, l.gate_up_scales, l.down_scales);
    }
    weight_bytes_ += bytes_of(m.norm, m.head, m.head_scales);
    layers_ = on_gpu(layers, device);
    if (m.int8) scales_ = on_gpu(scales, device);
    grid_state_ = Tensor::zeros({static_cast<int64_t>(sizeof(GridState) / sizeof(int32_t))}, DType::i32, device);
    heads_arrived_ = Tensor::zeros({units}, DType::i32, device);
    const auto vector = [&](int64_t n) { return Tensor::empty({n}, DType::f32, device); };
    x_ = vector(m.hidden), q_ = vector(m.n_heads * m.head_dim), o_ = vector(m.n_heads * m.head_dim), h_ = vector(m.ffn);
    logits_ = vector(m.vocab), partial_ = vector(m.n_heads * splits * (m.head_dim + 2));
    // One after the other: partial, x, qkv, o, h. No stamp is 0.
    const int64_t attended = m.n_heads * m.head_dim, kv = m.n_kv_heads * m.head_dim, even_ffn = (m.ffn + 1) / 2 * 2;
    words_ = Tensor::zeros({2 * (partial_.numel() + m.hidden + 2 * attended + 2 * kv + even_ffn)}, DType::i32, device);
    LongWord* const partial_words = static_cast<LongWord*>(words_.raw());
    Word<T>* const words = reinterpret_cast<Word<T>*>(partial_words + partial_.numel());

    model_ = {.layers = static_cast<const Layer<T>*>(layers_.raw()),
              .embedding = as<T>(m.embedding),
              .norm = as<T>(m.norm),
              .head = as<T>(m.head),
              .inv_freq = as<double>(m.inv_freq),
              .query_scale = as<float>(m.query_scale),
              .x = as<float>(x_),
              .q = as<float>(q_),
              .o = as<float>(o_),
              .h = as<float>(h_),
              .logits = as<float>(logits_),
              .partial = as<float>(partial_),
              .heads_arrived = as<int>(heads_arrived_),
              .x_words = words,
              .qkv_words = words + m.hidden,
              .o_words = words + m.hidden + attended + 2 * kv,
              .h_words = words + m.hidden + 2 * attended + 2 * kv,
              .partial_words = partial_words,
              .grid = static_cast<GridState*>(grid_state_.raw()),
              .n_layers = static_cast<int>(m.layers.size()),
              .hidden = static_cast<int>(m.hidden),
              .ffn = static_cast<int>(m.ffn),
              .vocab = static_cast<int>(m.vocab),
              .n_heads = static_cast<int>(m.n_heads),
              .n_kv_heads = static_cast<int>(m.n_kv_heads),
              .head_dim = static_cast<int>(m.head_dim),
              .pairs = static_cast<int>(m.inv_freq.numel()),
              .parts = static_cast<int>(parts),
              .splits = static_cast<int>(splits),
              .vector_floats = static_cast<int>(vector_floats),
              .eps = m.eps,
              .scale = m.score_scale != 0 ? static_cast<float>(m.score_scale)
                                          : 1.f / std::sqrt(static_cast<float>(m.head_dim)),
              .rope_factor = m.attention_scale,
              .half = m.layout == RopeLayout::half,
              .gated = m.gated,
              .layer_scales = m.int8 ? static_cast<const LayerScales*>(scales_.raw()) : nullptr,
              .head_scales = as<float>(m.head_scales)};
    if (!is_llama(m)) family_ = std::make_unique<Family<T>>(m);
    // The deepest ring that fits beside the rest.
    const int64_t own = family_ ? kFamilySharedBytes : kOwnSharedBytes;
    slots_ = kShallow;
    for (const int slots : {kDeep<T>, family_ ? kShallow : kDeepest<T>})
      if (fits<T>(slots, model_.n_layers, vector_floats, m.int8, own)) slots_ = std::max(slots_, slots);
    shared_ = shared_bytes<T>(slots_, model_.n_layers, vector_floats, m.int8);
    check(fits<T>(slots_, model_.n_layers, vector_floats, m.int8, own), "decoder", "a model of this size needs ",
          shared_, " bytes of shared memory per block, and ", max_shared_bytes() - own, " are there");

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
    // A token has 2 n_layers + 1 stamps of 32 bits. A short stamp is one of these modulo 255. So the numbers of tokens
    // may begin anew only after a multiple of 255.
    const unsigned stamps = 2 * static_cast<unsigned>(model_.n_layers) + 1, most = (~0u - stamps) / stamps / 255 * 255;
    model_.token = model_.token % most + 1;
    split_kv::with_wide(m_.head_dim, [&](auto wide) {
      if (family_) return launch_step(family_step_kernel<T>(slots_, wide, m_.int8), id, position, family_->model());
      if (m_.int8) return launch_step(kernel<wide, true>(), id, position);
      launch_step(kernel<wide, false>(), id, position);
    });
    check_cuda(cudaEventRecord(done_[next_], stream()), "cudaEventRecord");
    next_ = (next_ + 1) % kResults;
    ++in_flight_;
  }

  template <int WIDE, bool INT8>
  auto kernel() const {
    return slots_ == kShallow   ? decode_step_kernel<T, kShallow, WIDE, INT8>
           : slots_ == kDeep<T> ? decode_step_kernel<T, kDeep<T>, WIDE, INT8>
                                : decode_step_kernel<T, kDeepest<T>, WIDE, INT8>;
  }

  /// `more`: the FamilyModel, for kernels that take one.
  template <class Kernel, class... More>
  void launch_step(Kernel* kernel, int32_t id, int64_t position, const More&... more) {
    check_cuda(cudaFuncSetAttribute(kernel, cudaFuncAttributeMaxDynamicSharedMemorySize, static_cast<int>(shared_)),
               "decode_step");
    cudaLaunchAttribute together{};  // all blocks at once, or an error: they wait for each other
    together.id = cudaLaunchAttributeCooperative;
    together.val.cooperative = 1;
    cudaLaunchConfig_t config{};
    config.gridDim = dim3(static_cast<unsigned>(multiprocessors()));
    config.blockDim = dim3(family_ ? kThreads : kThreads + kFeeders);
    config.dynamicSmemBytes = static_cast<size_t>(shared_);
    config.stream = stream();
    config.attrs = &together;
    config.numAttrs = 1;
    const int64_t weights = m_.int8 ? weight_bytes_ / 17 * 16 : weight_bytes_ / static_cast<int64_t>(sizeof(T));
    const Timed timed({"decode_step", Work(weight_bytes_, weights * 2)});
    check_cuda(cudaLaunchKernelEx(&config, kernel, model_, more..., id, static_cast<int>(position), results_ + next_),
               "decode_step");
  }

  DecoderModel m_;
  Model<T> model_{};
  std::unique_ptr<Family<T>> family_;  // of what is not LLaMA's
  Tensor layers_, scales_, grid_state_, heads_arrived_, x_, q_, o_, h_, logits_, partial_, words_;
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

bool decoder_fits(DType dtype, int64_t widest, int64_t head_dim, int64_t n_layers, bool int8) {
  if (dtype == DType::bf16)
    return decode::fits<b16>(decode::kShallow, n_layers, decode::vector_floats_for<b16>(widest, head_dim), int8);
  return decode::fits<float>(decode::kShallow, n_layers, decode::vector_floats_for<float>(widest, head_dim), int8);
}

std::unique_ptr<DeviceDecoder> make_decoder(const DecoderModel& model) {
  if (model.embedding.dtype() == DType::bf16) return std::make_unique<decode::Decoder<b16>>(model);
  check(model.embedding.dtype() == DType::f32, "decoder", "expected f32 or bf16 weights, got ",
        model.embedding.dtype());
  return std::make_unique<decode::Decoder<float>>(model);
}

}  // namespace rw::cuda
