// Decoding on the GPU: one token is five kernels per block in a CUDA graph. Each is bound by reading its weights, so
// the art is to keep reads in flight all the time:
//   - a warp owns a row of W and has eight 16-byte loads per lane on their way before it needs the first;
//   - on sm_90 a kernel starts while the one before it still runs (programmatic dependent launch), asks for its first
//     weights, and only then waits for the vector that the other one writes.
// The residual stream x and every vector between kernels is f32; weights and cache are bf16 or f32.
#include <algorithm>
#include <cmath>
#include <cstring>

#include "nn/cuda_decoder.h"
#include "tensor/launch.cuh"

namespace rw::cuda {
namespace {

// --- overlapping neighbours -----------------------------------------------------------------------------------------

/// Lets the next kernel begin with what does not depend on this one.
__device__ __forceinline__ void let_next_begin() {
#if __CUDA_ARCH__ >= 900
  cudaTriggerProgrammaticLaunchCompletion();
#endif
}
/// Waits until everything before this kernel has finished and can be read.
__device__ __forceinline__ void wait_for_previous() {
#if __CUDA_ARCH__ >= 900
  cudaGridDependencySynchronize();
#endif
}

bool overlaps() {
  static const bool yes = [] {
    int device = 0, major = 0;
    return cudaGetDevice(&device) == cudaSuccess &&
           cudaDeviceGetAttribute(&major, cudaDevAttrComputeCapabilityMajor, device) == cudaSuccess && major >= 9;
  }();
  return yes;
}

template <class... Parameters, class... Arguments>
void launch_overlapping(const char* name, void (*kernel)(Parameters...), dim3 blocks, int threads, int64_t shared_bytes,
                        Arguments... arguments) {
  // Also when nothing needs it: a kernel must be loaded before a capture can record it.
  check_cuda(cudaFuncSetAttribute(kernel, cudaFuncAttributeMaxDynamicSharedMemorySize, static_cast<int>(shared_bytes)),
             name);
  cudaLaunchAttribute attribute{};
  attribute.id = cudaLaunchAttributeProgrammaticStreamSerialization;
  attribute.val.programmaticStreamSerializationAllowed = 1;
  cudaLaunchConfig_t config{};
  config.gridDim = blocks;
  config.blockDim = dim3(static_cast<unsigned>(threads));
  config.dynamicSmemBytes = static_cast<size_t>(shared_bytes);
  config.stream = stream();
  config.attrs = &attribute;
  config.numAttrs = overlaps() ? 1 : 0;
  check_cuda(cudaLaunchKernelEx(&config, kernel, static_cast<Parameters>(arguments)...), name);
}

// --- what a token is made of ----------------------------------------------------------------------------------------

/// On the device; the graph is captured once and reads them anew in every replay.
struct State {
  int32_t id;        // the token to run
  int32_t position;  // its index in the cache
  int32_t best;      // the most likely next token, -1 if a logit is not a number
};

/// x = embedding[id]; cos and sin of this position.
template <class T>
__global__ void begin_kernel(const State* state, const T* __restrict__ embedding, int width, float* __restrict__ x,
                             const double* __restrict__ inv_freq, int pairs, double scale,
                             float* __restrict__ cos_sin) {
  let_next_begin();
  wait_for_previous();
  const T* row = embedding + static_cast<int64_t>(state->id) * width;
  for (int i = threadIdx.x; i < width; i += blockDim.x) x[i] = to_float(row[i]);
  for (int i = threadIdx.x; i < pairs; i += blockDim.x) {
    double s, c;
    sincos(static_cast<double>(state->position) * inv_freq[i], &s, &c);
    cos_sin[i] = static_cast<float>(scale * c);
    cos_sin[pairs + i] = static_cast<float>(scale * s);
  }
}

// --- matrix times vector --------------------------------------------------------------------------------------------

constexpr int kThreads = 256;
constexpr int kWarps = kThreads / kWarp;
constexpr int kChunk = 8 * kWarp;  // columns that a warp reads with one load per lane

enum class After {
  store,   // y[row] = dot
  add,     // y[row] += dot: back into the residual stream
  swiglu,  // y[row] = silu(dot of row) * dot of row + n: gate and up
};

/// The vector in shared memory, as two planes of four: lane i reads four columns of 8i.. in each, without conflicts.
__device__ __forceinline__ void put(float* vector, int k, int column, float value) {
  const int group = column / 8, part = column % 8;
  vector[(part / 4) * (k / 2) + group * 4 + part % 4] = value;
}

template <class T>
__device__ __forceinline__ float dot8(const Eight<T>& w, const float* vector, int k, int column, float sum) {
  const float4 a = *reinterpret_cast<const float4*>(vector + column / 2);
  const float4 b = *reinterpret_cast<const float4*>(vector + k / 2 + column / 2);
  sum = fmaf(w[0], a.x, sum), sum = fmaf(w[1], a.y, sum), sum = fmaf(w[2], a.z, sum), sum = fmaf(w[3], a.w, sum);
  sum = fmaf(w[4], b.x, sum), sum = fmaf(w[5], b.y, sum), sum = fmaf(w[6], b.z, sum), sum = fmaf(w[7], b.w, sum);
  return sum;
}

/// U loads per lane of each of the rows a warp works on, from column `first` on.
template <class T, int ROWS, int U>
struct Tile {
  Eight<T> w[ROWS][U];
  __device__ __forceinline__ void load(const T* const (&rows)[ROWS], int first, int k) {
#pragma unroll
    for (int u = 0; u < U; ++u) {
      const int column = first + u * kChunk;
#pragma unroll
      for (int r = 0; r < ROWS; ++r) {
        if (column < k) w[r][u] = load_eight(rows[r] + column);
      }
    }
  }
  __device__ __forceinline__ void add(const float* vector, int first, int k, float (&sum)[ROWS]) const {
#pragma unroll
    for (int u = 0; u < U; ++u) {
      const int column = first + u * kChunk;
#pragma unroll
      for (int r = 0; r < ROWS; ++r) {
        if (column < k) sum[r] = dot8(w[r][u], vector, k, column, sum[r]);
      }
    }
  }
};

/// y [n] from W [n,k] (swiglu: [2n,k]) and x [k], which is first normalised if `norm` is given.
template <class T, After AFTER, bool NORM>
__global__ void __launch_bounds__(kThreads)
    matvec_kernel(const T* __restrict__ w, int n, int k, const float* __restrict__ x, const T* __restrict__ norm,
                  float eps, float* y) {
  constexpr int ROWS = AFTER == After::swiglu ? 2 : 1, U = 8 / ROWS / (sizeof(T) / 2);
  extern __shared__ __align__(16) float vector[];  // [k]
  __shared__ float scratch[kWarps];
  const int lane = threadIdx.x % kWarp, step = gridDim.x * kWarps;
  int row = blockIdx.x * kWarps + threadIdx.x / kWarp;
  Tile<T, ROWS, U> tile;
  const auto load_tile = [&](int of_row, int first) {
    const T* rows[ROWS];
#pragma unroll
    for (int r = 0; r < ROWS; ++r) rows[r] = w + (static_cast<int64_t>(r) * n + of_row) * k;
    tile.load(rows, first, k);
  };
  let_next_begin();
  if (row < n) load_tile(row, lane * 8);
  wait_for_previous();

  float square = 0;
  for (int i = threadIdx.x; i < k; i += kThreads) {
    const float value = x[i];
    square = fmaf(value, value, square);
    put(vector, k, i, NORM ? value * to_float(norm[i]) : value);
  }
  float scale = 1;
  if constexpr (NORM) {
    scale = rsqrtf(block_reduce<kThreads>(square, Sum{}, scratch) / static_cast<float>(k) + eps);
  }
  __syncthreads();

  for (; row < n; row += step) {
    float sum[ROWS] = {};
    for (int first = lane * 8; first < k; first += U * kChunk) {
      if (first != lane * 8) load_tile(row, first);
      tile.add(vector, first, k, sum);
    }
    if (row + step < n) load_tile(row + step, lane * 8);  // on its way while this row is summed up
#pragma unroll
    for (int r = 0; r < ROWS; ++r) sum[r] = warp_reduce(sum[r], Sum{}) * scale;
    if (lane == 0) {
      if constexpr (AFTER == After::swiglu) {
        y[row] = sum[0] / (1.f + __expf(-sum[0])) * sum[ROWS - 1];
      } else if constexpr (AFTER == After::add) {
        y[row] += sum[0];
      } else {
        y[row] = sum[0];
      }
    }
  }
}

// --- attention of one query over the cache --------------------------------------------------------------------------
//
// Blocks share out (kv head, up to kGroup of its query heads, stretch of the cache). A lane group of LANES lanes takes
// one key at a time, eight elements per lane. The last block of a head to finish adds the stretches together, in order.

constexpr int kAttentionThreads = 128;
constexpr int kAttentionWarps = kAttentionThreads / kWarp;
constexpr int kGroup = 4;

struct DecodeShape {
  int n_heads, n_kv_heads, head_dim, pairs, capacity, splits, parts;  // parts: of a kv head's query heads
  float scale;                                                        // 1 / sqrt(D)
  bool half;
};

/// Element i of a head after RoPE; `head` is f32 [D] in global memory.
__device__ __forceinline__ float rotated(const float* head, int i, const float* cos_sin, int pairs, bool half) {
  if (i >= 2 * pairs) return head[i];
  const int pair = half ? i % pairs : i / 2;
  const bool first = half ? i < pairs : i % 2 == 0;
  const int other = half ? (first ? i + pairs : i - pairs) : (first ? i + 1 : i - 1);
  const float c = cos_sin[pair], s = cos_sin[pairs + pair];
  return first ? head[i] * c - head[other] * s : head[i] * c + head[other] * s;
}

template <class T, int LANES>
__global__ void __launch_bounds__(kAttentionThreads)
    decode_attention_kernel(const State* state, DecodeShape s, const float* __restrict__ qkv, T* k_cache, T* v_cache,
                            const float* __restrict__ cos_sin, const float* __restrict__ query_scale,
                            float* __restrict__ partial, int* __restrict__ arrived, float* __restrict__ out) {
  constexpr int kGroupsPerWarp = kWarp / LANES, kGroups = kAttentionWarps * kGroupsPerWarp;
  __shared__ float top_of[kGroups][kGroup], sum_of[kGroups][kGroup];
  __shared__ float result[kGroup][LANES * 8];
  __shared__ bool last;
  let_next_begin();
  wait_for_previous();
  const int dim = s.head_dim, group = s.n_heads / s.n_kv_heads;
  const int kv = blockIdx.y / s.parts, first_head = kv * group + blockIdx.y % s.parts * kGroup;
  const int heads = min(kGroup, (kv + 1) * group - first_head);
  const int position = state->position, length = position + 1;
  const int stretch = (length + s.splits - 1) / s.splits;
  const int begin = blockIdx.x * stretch, end = min(length, begin + stretch);
  const int64_t row = static_cast<int64_t>(s.n_kv_heads) * dim;
  T *keys = k_cache + kv * dim, *values = v_cache + kv * dim;

  if (begin <= position && position < end) {  // this block is the one that reads the new key, so it also writes it
    const float *k = qkv + (s.n_heads + kv) * dim, *v = qkv + (s.n_heads + s.n_kv_heads + kv) * dim;
    for (int i = threadIdx.x; i < dim; i += kAttentionThreads) {
      keys[position * row + i] = from_float<T>(rotated(k, i, cos_sin, s.pairs, s.half));
      values[position * row + i] = from_float<T>(v[i]);
    }
    __syncthreads();
  }

  const int lane = threadIdx.x % LANES, lane_group = threadIdx.x / LANES, column = lane * 8;
  const bool inside = column < dim;
  const float factor = s.scale * (query_scale ? query_scale[position] : 1.f);
  float q[kGroup][8], acc[kGroup][8], top[kGroup], sum[kGroup];
#pragma unroll
  for (int h = 0; h < kGroup; ++h) {
    top[h] = -INFINITY;
    sum[h] = 0;
#pragma unroll
    for (int i = 0; i < 8; ++i) {
      acc[h][i] = 0;
      q[h][i] = inside && h < heads
                    ? factor * rotated(qkv + (first_head + h) * dim, column + i, cos_sin, s.pairs, s.half)
                    : 0.f;
    }
  }
  // Every lane of a warp makes the same number of turns, so that the shuffles are whole.
  for (int turn = begin; turn < end; turn += kGroups) {
    const int t = turn + lane_group;
    const bool valid = t < end && inside;
    Eight<T> k{}, v{};
    if (valid) k = load_eight(keys + t * row + column), v = load_eight(values + t * row + column);
#pragma unroll
    for (int h = 0; h < kGroup; ++h) {
      float score = 0;
#pragma unroll
      for (int i = 0; i < 8; ++i) score = fmaf(q[h][i], valid ? k[i] : 0.f, score);
#pragma unroll
      for (int offset = LANES / 2; offset > 0; offset /= 2) score += __shfl_xor_sync(kAllLanes, score, offset);
      if (t < end) {
        const float higher = fmaxf(top[h], score), shrink = __expf(top[h] - higher), weight = __expf(score - higher);
        top[h] = higher;
        sum[h] = sum[h] * shrink + weight;
#pragma unroll
        for (int i = 0; i < 8; ++i) acc[h][i] = acc[h][i] * shrink + weight * (valid ? v[i] : 0.f);
      }
    }
  }
  // The lane groups of the block become one.
#pragma unroll
  for (int h = 0; h < kGroup; ++h) {
    if (lane == 0) top_of[lane_group][h] = top[h], sum_of[lane_group][h] = sum[h];
  }
  for (int i = threadIdx.x; i < kGroup * LANES * 8; i += kAttentionThreads) (&result[0][0])[i] = 0;
  __syncthreads();
  float block_top[kGroup], block_sum[kGroup];
#pragma unroll
  for (int h = 0; h < kGroup; ++h) {
    block_top[h] = -INFINITY;
    for (int g = 0; g < kGroups; ++g) block_top[h] = fmaxf(block_top[h], top_of[g][h]);
    block_sum[h] = 0;
    for (int g = 0; g < kGroups; ++g) {
      if (sum_of[g][h] > 0) block_sum[h] += sum_of[g][h] * __expf(top_of[g][h] - block_top[h]);
    }
    const float shrink = sum[h] > 0 ? __expf(top[h] - block_top[h]) : 0.f;
#pragma unroll
    for (int i = 0; i < 8; ++i) acc[h][i] *= shrink;
  }
  for (int g = 0; g < kGroups; ++g) {  // in order: the sum is the same in every run
    if (lane_group == g) {
#pragma unroll
      for (int h = 0; h < kGroup; ++h) {
#pragma unroll
        for (int i = 0; i < 8; ++i) result[h][column + i] += acc[h][i];
      }
    }
    __syncthreads();
  }
  if (s.splits == 1) {
    for (int h = 0; h < heads; ++h) {
      for (int i = threadIdx.x; i < dim; i += kAttentionThreads)
        out[(first_head + h) * dim + i] = result[h][i] / block_sum[h];
    }
    return;
  }
  // partial [H, splits, D + 2]: numerator, top, sum
  const int wide = dim + 2;
  for (int h = 0; h < heads; ++h) {
    float* to = partial + (static_cast<int64_t>(first_head + h) * s.splits + blockIdx.x) * wide;
    for (int i = threadIdx.x; i < dim; i += kAttentionThreads) to[i] = result[h][i];
    if (threadIdx.x == 0) {
      // static indices only: an array that is indexed at run time would leave its registers
#pragma unroll
      for (int j = 0; j < kGroup; ++j) {
        if (j == h) to[dim] = block_top[j], to[dim + 1] = block_sum[j];
      }
    }
  }
  __threadfence();
  __syncthreads();
  if (threadIdx.x == 0) last = atomicAdd(arrived + blockIdx.y, 1) == s.splits - 1;
  __syncthreads();
  if (!last) return;
  __threadfence();
  if (threadIdx.x == 0) arrived[blockIdx.y] = 0;  // for the next layer
  for (int h = 0; h < heads; ++h) {
    const float* from = partial + static_cast<int64_t>(first_head + h) * s.splits * wide;
    float highest = -INFINITY, total = 0;
    for (int p = 0; p < s.splits; ++p) highest = fmaxf(highest, __ldcg(from + p * wide + dim));
    for (int p = 0; p < s.splits; ++p) {
      const float part = __ldcg(from + p * wide + dim + 1);
      if (part > 0) total += part * __expf(__ldcg(from + p * wide + dim) - highest);
    }
    for (int i = threadIdx.x; i < dim; i += kAttentionThreads) {
      float value = 0;
      for (int p = 0; p < s.splits; ++p) {
        if (__ldcg(from + p * wide + dim + 1) > 0)
          value += __ldcg(from + p * wide + i) * __expf(__ldcg(from + p * wide + dim) - highest);
      }
      out[(first_head + h) * dim + i] = value / total;
    }
  }
}

// --- the next token -------------------------------------------------------------------------------------------------

constexpr int kArgmaxThreads = 1024;

/// The largest logit, smallest index first, becomes the token to run next.
__global__ void __launch_bounds__(kArgmaxThreads) argmax_kernel(State* state, const float* __restrict__ logits, int n) {
  __shared__ float top_of[kWarp];
  __shared__ int index_of[kWarp];
  let_next_begin();
  wait_for_previous();
  float top = -INFINITY;
  int index = INT32_MAX;
  bool bad = false;
  for (int i = threadIdx.x; i < n; i += kArgmaxThreads) {
    const float value = logits[i];
    bad |= isnan(value);
    if (value > top) top = value, index = i;
  }
  const auto take = [&](float other, int other_index) {
    if (other > top || (other == top && other_index < index)) top = other, index = other_index;
  };
  const bool any_bad = __syncthreads_or(bad);
#pragma unroll
  for (int offset = kWarp / 2; offset > 0; offset /= 2)
    take(__shfl_xor_sync(kAllLanes, top, offset), __shfl_xor_sync(kAllLanes, index, offset));
  if (threadIdx.x % kWarp == 0) top_of[threadIdx.x / kWarp] = top, index_of[threadIdx.x / kWarp] = index;
  __syncthreads();
  if (threadIdx.x == 0) {
    for (int w = 0; w < kArgmaxThreads / kWarp; ++w) take(top_of[w], index_of[w]);
    const bool usable = !any_bad && top < INFINITY && index < n;
    state->best = usable ? index : -1;
    state->id = usable ? index : 0;
    state->position += 1;
  }
}

__global__ void set_state_kernel(State* state, int32_t id, int32_t position) { *state = {id, position, 0}; }

// --- the graph ------------------------------------------------------------------------------------------------------

template <class T>
class Graph final : public DecoderGraph {
 public:
  explicit Graph(const DecoderModel& m) : m_(m) {
    const Device device = m.embedding.device();
    const MemoryTag tag("decoder");
    const int64_t heads = m.n_heads * m.head_dim;
    state_ = Tensor::zeros({3}, DType::i32, device);
    x_ = Tensor::empty({m.hidden}, DType::f32, device);
    qkv_ = Tensor::empty({heads + 2 * m.n_kv_heads * m.head_dim}, DType::f32, device);
    o_ = Tensor::empty({heads}, DType::f32, device);
    h_ = Tensor::empty({m.ffn}, DType::f32, device);
    logits_ = Tensor::empty({m.vocab}, DType::f32, device);
    const int64_t pairs = m.inv_freq.numel();
    cos_sin_ = Tensor::empty({2 * pairs}, DType::f32, device);
    const int64_t group = m.n_heads / m.n_kv_heads, parts = ceil_div(group, kGroup);
    // Enough stretches to fill the card once, none shorter than 64 tokens of a full cache.
    const int64_t wanted = ceil_div(2 * multiprocessors(), m.n_kv_heads * parts);
    const int64_t splits = std::clamp<int64_t>(std::min(wanted, m.capacity / 64), 1, 64);
    shape_ = {static_cast<int>(m.n_heads),  static_cast<int>(m.n_kv_heads),
              static_cast<int>(m.head_dim), static_cast<int>(pairs),
              static_cast<int>(m.capacity), static_cast<int>(splits),
              static_cast<int>(parts),      1.f / std::sqrt(static_cast<float>(m.head_dim)),
              m.layout == RopeLayout::half};
    partial_ = Tensor::empty({m.n_heads * splits * (m.head_dim + 2)}, DType::f32, device);
    arrived_ = Tensor::zeros({m.n_kv_heads * parts}, DType::i32, device);
    void* pinned = nullptr;
    check_cuda(cudaHostAlloc(&pinned, sizeof(State) + sizeof(float) * static_cast<size_t>(m.vocab), 0),
               "cudaHostAlloc");
    host_state_ = static_cast<State*>(pinned);
    host_logits_ = reinterpret_cast<float*>(host_state_ + 1);
    check_cuda(cudaEventCreateWithFlags(&done_, cudaEventDisableTiming), "cudaEventCreate");
    graph_ = capture(false);
    greedy_graph_ = capture(true);
  }
  ~Graph() override {
    cudaStreamSynchronize(stream());  // a step may be running ahead
    cudaGraphExecDestroy(graph_);
    cudaGraphExecDestroy(greedy_graph_);
    cudaEventDestroy(done_);
    cudaFreeHost(host_state_);
  }

  void run(int32_t id, int64_t position, float* logits) override {
    ahead_ = -1;
    launch("decoder_state", set_state_kernel, 1, 1, 0, state(), id, static_cast<int32_t>(position));
    check_cuda(cudaGraphLaunch(graph_, stream()), "cudaGraphLaunch");
    check_cuda(cudaStreamSynchronize(stream()), "decoder");
    std::memcpy(logits, host_logits_, sizeof(float) * static_cast<size_t>(m_.vocab));
  }

  int32_t greedy(int32_t id, int64_t position, bool ahead) override {
    if (ahead_ != id || ahead_position_ != position) {  // not what was started: begin anew
      launch("decoder_state", set_state_kernel, 1, 1, 0, state(), id, static_cast<int32_t>(position));
      start_greedy();
    }
    ahead_ = -1;
    check_cuda(cudaEventSynchronize(done_), "decoder");
    const int32_t best = host_state_->best;
    check(best >= 0, "decoder", "a logit after token ", position, " is not a finite number");
    if (ahead) {
      ahead_ = best;
      ahead_position_ = position + 1;
      start_greedy();
    }
    return best;
  }

 private:
  State* state() const { return static_cast<State*>(state_.raw()); }

  void start_greedy() {
    check_cuda(cudaGraphLaunch(greedy_graph_, stream()), "cudaGraphLaunch");
    check_cuda(cudaEventRecord(done_, stream()), "cudaEventRecord");
  }

  cudaGraphExec_t capture(bool greedy) {
    cudaGraph_t graph = nullptr;
    cudaGraphExec_t executable = nullptr;
    check_cuda(cudaStreamBeginCapture(stream(), cudaStreamCaptureModeRelaxed), "cudaStreamBeginCapture");
    enqueue();
    if (greedy) {
      launch_overlapping("argmax", argmax_kernel, dim3(1), kArgmaxThreads, 0, state(), as<float>(logits_),
                         static_cast<int>(m_.vocab));
      check_cuda(cudaMemcpyAsync(host_state_, state(), sizeof(State), cudaMemcpyDeviceToHost, stream()), "decoder");
    } else {
      check_cuda(cudaMemcpyAsync(host_logits_, logits_.raw(), sizeof(float) * static_cast<size_t>(m_.vocab),
                                 cudaMemcpyDeviceToHost, stream()),
                 "decoder");
    }
    check_cuda(cudaStreamEndCapture(stream(), &graph), "cudaStreamEndCapture");
    check_cuda(cudaGraphInstantiate(&executable, graph, 0), "cudaGraphInstantiate");
    check_cuda(cudaGraphDestroy(graph), "cudaGraphDestroy");
    return executable;
  }

  template <After AFTER, bool NORM>
  void matvec(const char* name, const Tensor& w, int64_t n, const Tensor& x, const Tensor& norm, const Tensor& y) {
    const int64_t k = w.size(1);
    const auto kernel = matvec_kernel<T, AFTER, NORM>;
    const int64_t shared = k * static_cast<int64_t>(sizeof(float));
    const int64_t blocks = std::min(ceil_div(n, kWarps), resident_blocks(name, kernel, kThreads, shared));
    launch_overlapping(name, kernel, dim3(static_cast<unsigned>(blocks)), kThreads, shared, as<T>(w),
                       static_cast<int>(n), static_cast<int>(k), as<float>(x), as<T>(norm), m_.eps, as<float>(y));
  }

  void attention(const DecoderLayer& l) {
    const dim3 blocks(static_cast<unsigned>(shape_.splits), static_cast<unsigned>(m_.n_kv_heads * shape_.parts));
    const auto with = [&](auto lanes) {
      launch_overlapping("decode_attention", decode_attention_kernel<T, lanes.value>, blocks, kAttentionThreads, 0,
                         state(), shape_, as<float>(qkv_), as<T>(l.k), as<T>(l.v), as<float>(cos_sin_),
                         as<float>(m_.query_scale), as<float>(partial_), as<int>(arrived_), as<float>(o_));
    };
    if (m_.head_dim <= 32) return with(std::integral_constant<int, 4>{});
    if (m_.head_dim <= 64) return with(std::integral_constant<int, 8>{});
    if (m_.head_dim <= 128) return with(std::integral_constant<int, 16>{});
    with(std::integral_constant<int, 32>{});
  }

  void enqueue() {
    launch_overlapping("decoder_begin", begin_kernel<T>, dim3(1), 1024, 0, state(), as<T>(m_.embedding),
                       static_cast<int>(m_.hidden), as<float>(x_), as<double>(m_.inv_freq), shape_.pairs,
                       m_.attention_scale, as<float>(cos_sin_));
    for (const DecoderLayer& l : m_.layers) {
      matvec<After::store, true>("decode_qkv", l.qkv, l.qkv.size(0), x_, l.input_norm, qkv_);
      attention(l);
      matvec<After::add, false>("decode_o", l.o, m_.hidden, o_, Tensor(), x_);
      matvec<After::swiglu, true>("decode_gate_up", l.gate_up, m_.ffn, x_, l.post_norm, h_);
      matvec<After::add, false>("decode_down", l.down, m_.hidden, h_, Tensor(), x_);
    }
    matvec<After::store, true>("decode_head", m_.head, m_.vocab, x_, m_.norm, logits_);
  }

  DecoderModel m_;
  DecodeShape shape_{};
  Tensor state_, x_, qkv_, o_, h_, logits_, cos_sin_, partial_, arrived_;
  State* host_state_ = nullptr;  // pinned, with the logits behind it
  float* host_logits_ = nullptr;
  cudaEvent_t done_ = nullptr;
  cudaGraphExec_t graph_ = nullptr, greedy_graph_ = nullptr;
  int32_t ahead_ = -1;  // the token whose step was started before it was asked for
  int64_t ahead_position_ = 0;
};

}  // namespace

std::unique_ptr<DecoderGraph> make_decoder_graph(const DecoderModel& model) {
  if (model.embedding.dtype() == DType::bf16) return std::make_unique<Graph<b16>>(model);
  check(model.embedding.dtype() == DType::f32, "decoder", "expected f32 or bf16 weights, got ",
        model.embedding.dtype());
  return std::make_unique<Graph<float>>(model);
}

}  // namespace rw::cuda
