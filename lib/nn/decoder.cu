// Decoding on the GPU: one token is five kernels per block in a CUDA graph. Each is bound by reading its weights, so
// the art is to keep reads in flight all the time:
//   - a warp owns a row of W and has eight 16-byte loads per lane on their way before it needs the first;
//   - what another kernel writes is never read through __restrict__: such reads may come from a cache that is not told;
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

constexpr int kThreads = 128;
constexpr int kWarps = kThreads / kWarp;
constexpr int kChunk = 8 * kWarp;  // columns that a warp reads with one load per lane

enum class After {
  store,   // y[row] = dot
  add,     // y[row] += dot: back into the residual stream
  swiglu,  // y[row] = silu(dot of row) * dot of row + n: gate and up
  rotate,  // rows of q, k and v in pairs: q turned and scaled to y, k turned and v to the cache
};

/// Where After::rotate puts its rows.
template <class T>
struct Heads {
  const State* state;
  const float *cos_sin, *query_scale;  // [2, pairs]; [capacity] or null
  T *k, *v;                            // [capacity, K, D]
  int n_heads, n_kv_heads, head_dim, pairs;
  float scale;  // 1 / sqrt(D)
  bool half;
};

/// The two elements of a head that pair j is made of; those that do not turn pair up with their neighbours.
__device__ __forceinline__ int2 pair_of(int j, int pairs, bool half) {
  if (half && j < pairs) return {j, j + pairs};
  return {2 * j, 2 * j + 1};
}

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
  static constexpr int kColumns = U * kChunk;
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

/// n results from W and x [k], which is first normalised if `norm` is given. A warp makes one result at a time, from
/// one row or two.
template <class T, After AFTER, bool NORM>
__global__ void __launch_bounds__(kThreads)
    matvec_kernel(const T* __restrict__ w, int n, int k, const float* x, const T* __restrict__ norm, float eps,
                  float* y, Heads<T> heads) {
  constexpr int ROWS = AFTER == After::swiglu || AFTER == After::rotate ? 2 : 1, U = 4 / ROWS / (sizeof(T) / 2);
  extern __shared__ __align__(16) float vector[];  // [k]
  __shared__ float scratch[kWarps];
  const int lane = threadIdx.x % kWarp, begin = lane * 8, step = gridDim.x * kWarps;
  int item = blockIdx.x * kWarps + threadIdx.x / kWarp;
  const T* rows[ROWS];
  const auto point = [&](int of) {
    if constexpr (AFTER == After::rotate) {
      const int head = of / (heads.head_dim / 2);
      const int2 pair =
          pair_of(of % (heads.head_dim / 2), heads.pairs, heads.half && head < heads.n_heads + heads.n_kv_heads);
      rows[0] = w + (static_cast<int64_t>(head) * heads.head_dim + pair.x) * k;
      rows[ROWS - 1] = w + (static_cast<int64_t>(head) * heads.head_dim + pair.y) * k;
    } else {
#pragma unroll
      for (int r = 0; r < ROWS; ++r) rows[r] = w + (static_cast<int64_t>(r) * n + of) * k;
    }
  };
  Tile<T, ROWS, U> even, odd;  // while one is added up, the other is on its way
  constexpr int kColumns = Tile<T, ROWS, U>::kColumns;
  let_next_begin();
  if (item < n) {
    point(item);
    even.load(rows, begin, k);
    odd.load(rows, begin + kColumns, k);
  }
  wait_for_previous();
  int position = 0;
  if constexpr (AFTER == After::rotate) position = heads.state->position;

  float square = 0;
#pragma unroll 4
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

  for (; item < n; item += step) {
    float sum[ROWS] = {};
    for (int first = begin; first - begin < k; first += 2 * kColumns) {
      even.add(vector, first, k, sum);
      even.load(rows, first + 2 * kColumns, k);
      odd.add(vector, first + kColumns, k, sum);
      odd.load(rows, first + 3 * kColumns, k);
    }
    if (item + step < n) {  // on their way while this result is summed up
      point(item + step);
      even.load(rows, begin, k);
      odd.load(rows, begin + kColumns, k);
    }
#pragma unroll
    for (int r = 0; r < ROWS; ++r) sum[r] = warp_reduce(sum[r], Sum{}) * scale;
    if (lane != 0) continue;
    if constexpr (AFTER == After::swiglu) {
      y[item] = sum[0] / (1.f + __expf(-sum[0])) * sum[ROWS - 1];
    } else if constexpr (AFTER == After::add) {
      y[item] += sum[0];
    } else if constexpr (AFTER == After::store) {
      y[item] = sum[0];
    } else {
      const int head = item / (heads.head_dim / 2), j = item % (heads.head_dim / 2);
      const bool turns = head < heads.n_heads + heads.n_kv_heads;
      const int2 pair = pair_of(j, heads.pairs, heads.half && turns);
      float first = sum[0], second = sum[ROWS - 1];
      if (turns && j < heads.pairs) {
        const float c = heads.cos_sin[j], s = heads.cos_sin[heads.pairs + j];
        first = sum[0] * c - sum[ROWS - 1] * s;
        second = sum[ROWS - 1] * c + sum[0] * s;
      }
      if (head < heads.n_heads) {
        const float factor = heads.scale * (heads.query_scale ? heads.query_scale[position] : 1.f);
        y[head * heads.head_dim + pair.x] = first * factor;
        y[head * heads.head_dim + pair.y] = second * factor;
      } else {
        const int kv = turns ? head - heads.n_heads : head - heads.n_heads - heads.n_kv_heads;
        T* to = (turns ? heads.k : heads.v) + (static_cast<int64_t>(position) * heads.n_kv_heads + kv) * heads.head_dim;
        to[pair.x] = from_float<T>(first);
        to[pair.y] = from_float<T>(second);
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
constexpr int kMaxSplits = 64;
constexpr int kShortest = 64;  // tokens of a stretch at least: adding partial results up costs as much as some dozens

struct DecodeShape {
  int n_heads, n_kv_heads, head_dim, splits, parts;  // parts: of a kv head's query heads
};

template <class T, int LANES>
__global__ void __launch_bounds__(kAttentionThreads)
    decode_attention_kernel(const State* state, DecodeShape s, const float* q_heads, const T* k_cache, const T* v_cache,
                            float* partial, int* arrived, float* out) {
  constexpr int kGroups = kAttentionThreads / LANES;
  constexpr int kWide = LANES * 8 > kMaxSplits ? LANES * 8 : kMaxSplits;  // of_warp's memory is used twice
  __shared__ float top_of[kAttentionWarps][kGroup], sum_of[kAttentionWarps][kGroup];
  __shared__ float of_warp[kAttentionWarps][kGroup][kWide];
  __shared__ bool last;
  let_next_begin();
  wait_for_previous();
  const int dim = s.head_dim, group = s.n_heads / s.n_kv_heads;
  const int kv = blockIdx.y / s.parts, first_head = kv * group + blockIdx.y % s.parts * kGroup;
  const int heads = min(kGroup, (kv + 1) * group - first_head);
  const int position = state->position, length = position + 1;
  const int stretch = max(kShortest, (length + s.splits - 1) / s.splits);
  const int begin = blockIdx.x * stretch, end = min(length, begin + stretch);
  if (begin >= end) return;
  const int64_t row = static_cast<int64_t>(s.n_kv_heads) * dim;
  const T *keys = k_cache + kv * dim, *values = v_cache + kv * dim;

  const int lane = threadIdx.x % LANES, lane_group = threadIdx.x / LANES, column = lane * 8;
  const bool inside = column < dim;
  float q[kGroup][8], acc[kGroup][8], top[kGroup], sum[kGroup];
#pragma unroll
  for (int h = 0; h < kGroup; ++h) {
    top[h] = -INFINITY;
    sum[h] = 0;
#pragma unroll
    for (int i = 0; i < 8; ++i) {
      acc[h][i] = 0;
      q[h][i] = inside && h < heads ? q_heads[(first_head + h) * dim + column + i] : 0.f;
    }
  }
  // Every lane of a warp makes the same number of turns, so that the shuffles are whole.
  Eight<T> k{}, v{}, next_k{}, next_v{};  // a turn ahead
  const auto fetch = [&](int t) {
    if (t < end && inside) {
      next_k = load_eight(keys + static_cast<int64_t>(t) * row + column);
      next_v = load_eight(values + static_cast<int64_t>(t) * row + column);
    }
  };
  fetch(begin + lane_group);
  for (int turn = begin; turn < end; turn += kGroups) {
    const int t = turn + lane_group;
    const bool valid = t < end && inside;
    k = next_k, v = next_v;
    fetch(t + kGroups);
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
  // The lane groups of a warp become one, then the warps of the block; both in a fixed order.
  const int warp = threadIdx.x / kWarp;
#pragma unroll
  for (int h = 0; h < kGroup; ++h) {
    float highest = top[h];
#pragma unroll
    for (int offset = LANES; offset < kWarp; offset *= 2)
      highest = fmaxf(highest, __shfl_xor_sync(kAllLanes, highest, offset));
    const float shrink = sum[h] > 0 ? __expf(top[h] - highest) : 0.f;
    float total = sum[h] * shrink;
#pragma unroll
    for (int offset = LANES; offset < kWarp; offset *= 2) total += __shfl_xor_sync(kAllLanes, total, offset);
#pragma unroll
    for (int i = 0; i < 8; ++i) {
      float value = acc[h][i] * shrink;
#pragma unroll
      for (int offset = LANES; offset < kWarp; offset *= 2) value += __shfl_xor_sync(kAllLanes, value, offset);
      if (threadIdx.x % kWarp < LANES) of_warp[warp][h][column + i] = value;
    }
    if (threadIdx.x % kWarp == 0) top_of[warp][h] = highest, sum_of[warp][h] = total;
  }
  __syncthreads();
  const bool alone = begin == 0 && end == length;
  const int wide = dim + 2;  // partial [H, splits, D + 2]: numerator, top, sum
  for (int item = threadIdx.x; item < heads * dim; item += kAttentionThreads) {
    const int h = item / dim, i = item % dim;
    float highest = top_of[0][h], total = 0, value = 0;
#pragma unroll
    for (int w = 1; w < kAttentionWarps; ++w) highest = fmaxf(highest, top_of[w][h]);
#pragma unroll
    for (int w = 0; w < kAttentionWarps; ++w) {
      const float shrink = sum_of[w][h] > 0 ? __expf(top_of[w][h] - highest) : 0.f;
      total += sum_of[w][h] * shrink;
      value += of_warp[w][h][i] * shrink;
    }
    if (alone) {
      out[(first_head + h) * dim + i] = value / total;
    } else {
      float* to = partial + (static_cast<int64_t>(first_head + h) * s.splits + blockIdx.x) * wide;
      to[i] = value;
      if (i == 0) to[dim] = highest, to[dim + 1] = total;
    }
  }
  if (alone) return;
  const int used = (length + stretch - 1) / stretch;  // blocks that have keys: the others have left
  __threadfence();
  __syncthreads();
  if (threadIdx.x == 0) last = atomicAdd(arrived + blockIdx.y, 1) == used - 1;
  __syncthreads();
  if (!last) return;
  __threadfence();
  if (threadIdx.x == 0) arrived[blockIdx.y] = 0;  // for the next layer
  // Weights of the stretches first, by one thread each, then the sums with all loads on their way together.
  float(*weight_of)[kMaxSplits] = reinterpret_cast<float(*)[kMaxSplits]>(&of_warp[0][0][0]);  // [kGroup][kMaxSplits]
  __syncthreads();
  for (int item = threadIdx.x; item < heads * kWarp; item += kAttentionThreads) {  // a warp per head
    const int h = item / kWarp, at = item % kWarp;
    const float* from = partial + static_cast<int64_t>(first_head + h) * s.splits * wide + dim;
    float tops[kMaxSplits / kWarp], sums[kMaxSplits / kWarp], highest = -INFINITY, total = 0;
#pragma unroll
    for (int j = 0; j < kMaxSplits / kWarp; ++j) {
      const int p = at + j * kWarp;
      tops[j] = p < used ? __ldcg(from + static_cast<int64_t>(p) * wide) : -INFINITY;
      sums[j] = p < used ? __ldcg(from + static_cast<int64_t>(p) * wide + 1) : 0.f;
      highest = fmaxf(highest, tops[j]);
    }
    highest = warp_reduce(highest, Max{});
#pragma unroll
    for (int j = 0; j < kMaxSplits / kWarp; ++j) {
      tops[j] = sums[j] > 0 ? __expf(tops[j] - highest) : 0.f;
      total += sums[j] * tops[j];
    }
    total = warp_reduce(total, Sum{});
#pragma unroll
    for (int j = 0; j < kMaxSplits / kWarp; ++j) weight_of[h][at + j * kWarp] = tops[j] / total;
  }
  __syncthreads();
  for (int item = threadIdx.x; item < heads * dim; item += kAttentionThreads) {
    const int h = item / dim, i = item % dim;
    const float* from = partial + static_cast<int64_t>(first_head + h) * s.splits * wide + i;
    float value = 0;
#pragma unroll 8
    for (int p = 0; p < used; ++p) value = fmaf(weight_of[h][p], __ldcg(from + static_cast<int64_t>(p) * wide), value);
    out[(first_head + h) * dim + i] = value;
  }
}

// --- the next token -------------------------------------------------------------------------------------------------

constexpr int kArgmaxThreads = 1024;

/// The largest logit, smallest index first, becomes the token to run next.
__global__ void __launch_bounds__(kArgmaxThreads) argmax_kernel(State* state, const float* logits, int n) {
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
    q_ = Tensor::empty({heads}, DType::f32, device);
    o_ = Tensor::empty({heads}, DType::f32, device);
    h_ = Tensor::empty({m.ffn}, DType::f32, device);
    logits_ = Tensor::empty({m.vocab}, DType::f32, device);
    const int64_t pairs = m.inv_freq.numel();
    cos_sin_ = Tensor::empty({2 * pairs}, DType::f32, device);
    const int64_t group = m.n_heads / m.n_kv_heads, parts = ceil_div(group, kGroup);
    // Enough stretches to fill the card twice.
    const int64_t wanted = ceil_div(2 * multiprocessors(), m.n_kv_heads * parts);
    const int64_t splits = std::clamp<int64_t>(std::min(wanted, ceil_div(m.capacity, kShortest)), 1, kMaxSplits);
    shape_ = {static_cast<int>(m.n_heads), static_cast<int>(m.n_kv_heads), static_cast<int>(m.head_dim),
              static_cast<int>(splits), static_cast<int>(parts)};
    partial_ = Tensor::empty({m.n_heads * splits * (m.head_dim + 2)}, DType::f32, device);
    arrived_ = Tensor::zeros({m.n_kv_heads * parts}, DType::i32, device);
    void* pinned = nullptr;
    check_cuda(cudaHostAlloc(&pinned, kSlots * sizeof(State) + sizeof(float) * static_cast<size_t>(m.vocab), 0),
               "cudaHostAlloc");
    host_state_ = static_cast<State*>(pinned);
    host_logits_ = reinterpret_cast<float*>(host_state_ + kSlots);
    for (cudaEvent_t& e : done_) check_cuda(cudaEventCreateWithFlags(&e, cudaEventDisableTiming), "cudaEventCreate");
    graph_ = capture(false);
    greedy_graph_ = capture(true);
  }
  ~Graph() override {
    cudaStreamSynchronize(stream());  // a step may be running ahead
    cudaGraphExecDestroy(graph_);
    cudaGraphExecDestroy(greedy_graph_);
    for (cudaEvent_t e : done_) cudaEventDestroy(e);
    cudaFreeHost(host_state_);
  }

  void run(int32_t id, int64_t position, float* logits) override {
    in_flight_ = 0;
    launch("decoder_state", set_state_kernel, 1, 1, 0, state(), id, static_cast<int32_t>(position));
    check_cuda(cudaGraphLaunch(graph_, stream()), "cudaGraphLaunch");
    check_cuda(cudaStreamSynchronize(stream()), "decoder");
    std::memcpy(logits, host_logits_, sizeof(float) * static_cast<size_t>(m_.vocab));
  }

  /// The step after this one is enqueued before this one's result is known: the card takes the token from its own
  /// memory, and never waits for the host.
  int32_t greedy(int32_t id, int64_t position, bool ahead) override {
    if (in_flight_ == 0 || ahead_id_ != id || ahead_position_ != position) {  // not what was started: begin anew
      in_flight_ = 0;
      launch("decoder_state", set_state_kernel, 1, 1, 0, state(), id, static_cast<int32_t>(position));
      start_greedy();
    }
    if (ahead) start_greedy();
    const int slot = (next_slot_ - in_flight_ + kSlots) % kSlots;
    --in_flight_;
    check_cuda(cudaEventSynchronize(done_[slot]), "decoder");
    const int32_t best = host_state_[slot].best;
    check(best >= 0, "decoder", "a logit after token ", position, " is not a finite number");
    ahead_id_ = best;
    ahead_position_ = position + 1;
    return best;
  }

 private:
  static constexpr int kSlots = 4;  // results on their way back

  State* state() const { return static_cast<State*>(state_.raw()); }

  void start_greedy() {
    const int slot = next_slot_;
    next_slot_ = (next_slot_ + 1) % kSlots;
    ++in_flight_;
    check_cuda(cudaGraphLaunch(greedy_graph_, stream()), "cudaGraphLaunch");
    check_cuda(cudaMemcpyAsync(host_state_ + slot, state(), sizeof(State), cudaMemcpyDeviceToHost, stream()),
               "cudaMemcpyAsync");
    check_cuda(cudaEventRecord(done_[slot], stream()), "cudaEventRecord");
  }

  cudaGraphExec_t capture(bool greedy) {
    cudaGraph_t graph = nullptr;
    cudaGraphExec_t executable = nullptr;
    check_cuda(cudaStreamBeginCapture(stream(), cudaStreamCaptureModeRelaxed), "cudaStreamBeginCapture");
    enqueue();
    if (greedy) {
      launch_overlapping("argmax", argmax_kernel, dim3(1), kArgmaxThreads, 0, state(), as<float>(logits_),
                         static_cast<int>(m_.vocab));
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

  /// n results; see After.
  template <After AFTER, bool NORM>
  void matvec(const char* name, const Tensor& w, int64_t n, const Tensor& x, const Tensor& norm, const Tensor& y,
              const Heads<T>& heads = {}) {
    const int64_t k = w.size(1), shared = k * static_cast<int64_t>(sizeof(float));
    const auto kernel = matvec_kernel<T, AFTER, NORM>;
    // Up to a few waves, blocks of one result per warp spread evenly over the card; beyond, they stay and walk.
    const int64_t resident = resident_blocks(name, kernel, kThreads, shared), wanted = ceil_div(n, kWarps);
    launch_overlapping(name, kernel, dim3(static_cast<unsigned>(wanted <= 3 * resident ? wanted : resident)), kThreads,
                       shared, as<T>(w), static_cast<int>(n), static_cast<int>(k), as<float>(x), as<T>(norm), m_.eps,
                       as<float>(y), heads);
  }

  void qkv(const DecoderLayer& l) {
    const Heads<T> heads{state(),
                         as<float>(cos_sin_),
                         as<float>(m_.query_scale),
                         as<T>(l.k),
                         as<T>(l.v),
                         static_cast<int>(m_.n_heads),
                         static_cast<int>(m_.n_kv_heads),
                         static_cast<int>(m_.head_dim),
                         static_cast<int>(m_.inv_freq.numel()),
                         1.f / std::sqrt(static_cast<float>(m_.head_dim)),
                         m_.layout == RopeLayout::half};
    matvec<After::rotate, true>("decode_qkv", l.qkv, l.qkv.size(0) / 2, x_, l.input_norm, q_, heads);
  }

  void attention(const DecoderLayer& l) {
    const dim3 blocks(static_cast<unsigned>(shape_.splits), static_cast<unsigned>(m_.n_kv_heads * shape_.parts));
    const auto with = [&](auto lanes) {
      launch_overlapping("decode_attention", decode_attention_kernel<T, lanes.value>, blocks, kAttentionThreads, 0,
                         state(), shape_, as<float>(q_), as<T>(l.k), as<T>(l.v), as<float>(partial_), as<int>(arrived_),
                         as<float>(o_));
    };
    if (m_.head_dim <= 32) return with(std::integral_constant<int, 4>{});
    if (m_.head_dim <= 64) return with(std::integral_constant<int, 8>{});
    if (m_.head_dim <= 128) return with(std::integral_constant<int, 16>{});
    with(std::integral_constant<int, 32>{});
  }

  void enqueue() {
    launch_overlapping("decoder_begin", begin_kernel<T>, dim3(1), 1024, 0, state(), as<T>(m_.embedding),
                       static_cast<int>(m_.hidden), as<float>(x_), as<double>(m_.inv_freq),
                       static_cast<int>(m_.inv_freq.numel()), m_.attention_scale, as<float>(cos_sin_));
    for (const DecoderLayer& l : m_.layers) {
      qkv(l);
      attention(l);
      matvec<After::add, false>("decode_o", l.o, m_.hidden, o_, Tensor(), x_);
      matvec<After::swiglu, true>("decode_gate_up", l.gate_up, m_.ffn, x_, l.post_norm, h_);
      matvec<After::add, false>("decode_down", l.down, m_.hidden, h_, Tensor(), x_);
    }
    matvec<After::store, true>("decode_head", m_.head, m_.vocab, x_, m_.norm, logits_);
  }

  DecoderModel m_;
  DecodeShape shape_{};
  Tensor state_, x_, q_, o_, h_, logits_, cos_sin_, partial_, arrived_;
  State* host_state_ = nullptr;  // pinned, with the logits behind it
  float* host_logits_ = nullptr;
  cudaEvent_t done_[kSlots] = {};
  cudaGraphExec_t graph_ = nullptr, greedy_graph_ = nullptr;
  int next_slot_ = 0, in_flight_ = 0;  // greedy steps that were started and not asked for
  int32_t ahead_id_ = -1;              // the token that the oldest of them runs
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
