// Attention of one query over the cache, as a stage of the decoder's kernel: blocks share out (kv head, up to kGroup of
// its query heads, stretch of the cache). A lane group of LANES lanes takes one key at a time, eight elements per lane.
// The last block of a head to finish adds the stretches together, in order.
#pragma once
#include "nn/decode_step.cuh"

namespace rw::cuda::decode {

constexpr int kGroup = 4;
constexpr int kMaxSplits = 64;
constexpr int kShortest = 64;  // tokens of a stretch at least: adding partial results up costs as much as some dozens

/// Shared floats that attend() needs for heads of up to 8 * lanes elements.
constexpr int64_t attention_floats(int lanes) { return static_cast<int64_t>(kWarps) * kGroup * lanes * 8; }

template <class T>
__device__ __forceinline__ Eight<T> load_past_l1(const T* p) {
  constexpr int kWords = static_cast<int>(sizeof(Eight<T>) / 16);
  Eight<T> e;
  uint4 words[kWords];
#pragma unroll
  for (int i = 0; i < kWords; ++i) words[i] = __ldcg(reinterpret_cast<const uint4*>(p) + i);
  memcpy(&e, words, sizeof e);
  return e;
}

/// What a block has to do, as far as the position tells.
struct Stretch {
  int unit;  // kv head * parts + part of its query heads
  int index, begin, end, length;
  int used;  // stretches of this length
};
template <class T>
__device__ __forceinline__ Stretch stretch_of(const Model<T>& m, int job, int position) {
  const int length = position + 1, tokens = max(kShortest, (length + m.splits - 1) / m.splits);
  const int index = job % m.splits, begin = index * tokens;
  return {job / m.splits, index, begin, min(length, begin + tokens), length, (length + tokens - 1) / tokens};
}

/// Asks for the first keys and values that attend() will read.
template <class T, int LANES>
__device__ __forceinline__ void prefetch_cache(const Model<T>& m, const Layer<T>& layer, int position) {
  const int job = blockIdx.x;
  if (job >= m.n_kv_heads * m.parts * m.splits) return;
  const Stretch s = stretch_of(m, job, position);
  const int t = s.begin + static_cast<int>(threadIdx.x) / 2;
  if (t >= min(s.end, position)) return;
  const int64_t row = (static_cast<int64_t>(t) * m.n_kv_heads + s.unit / m.parts) * m.head_dim;
  prefetch((threadIdx.x % 2 ? layer.v : layer.k) + row);
  if (m.head_dim * sizeof(T) > 128) prefetch((threadIdx.x % 2 ? layer.v : layer.k) + row + 128 / sizeof(T));
}

/// o [H,D] of the queries q [H,D], which are scaled already, over positions 0..position of the cache. Every block must
/// call it; `memory`: attention_floats(LANES) shared floats.
template <class T, int LANES>
__device__ __forceinline__ void attend(const Model<T>& m, const Layer<T>& layer, int position, float* memory) {
  constexpr int kGroups = kThreads / LANES;
  constexpr int kWide = LANES * 8;
  __shared__ float top_of[kWarps][kGroup], sum_of[kWarps][kGroup];
  __shared__ float weight_of[kGroup][kMaxSplits];
  __shared__ bool last;
  float(*of_warp)[kGroup][kWide] = reinterpret_cast<float(*)[kGroup][kWide]>(memory);  // [kWarps]
  const int dim = m.head_dim, group = m.n_heads / m.n_kv_heads;
  const int lane = threadIdx.x % LANES, lane_group = threadIdx.x / LANES, column = lane * 8;
  const bool inside = column < dim;
  const int64_t row = static_cast<int64_t>(m.n_kv_heads) * dim;

  for (int job = blockIdx.x; job < m.n_kv_heads * m.parts * m.splits; job += gridDim.x) {
    const Stretch s = stretch_of(m, job, position);
    if (s.begin >= s.end) continue;
    const int kv = s.unit / m.parts, first_head = kv * group + s.unit % m.parts * kGroup;
    const int heads = min(kGroup, (kv + 1) * group - first_head);
    const T *keys = layer.k + kv * dim, *values = layer.v + kv * dim;
    float q[kGroup][8], acc[kGroup][8], top[kGroup], sum[kGroup];
#pragma unroll
    for (int h = 0; h < kGroup; ++h) {
      top[h] = -INFINITY;
      sum[h] = 0;
      float4 low{}, high{};
      if (inside && h < heads) {
        const float4* from = reinterpret_cast<const float4*>(m.q + (first_head + h) * dim + column);
        low = __ldcg(from), high = __ldcg(from + 1);
      }
      q[h][0] = low.x, q[h][1] = low.y, q[h][2] = low.z, q[h][3] = low.w;
      q[h][4] = high.x, q[h][5] = high.y, q[h][6] = high.z, q[h][7] = high.w;
#pragma unroll
      for (int i = 0; i < 8; ++i) acc[h][i] = 0;
    }
    // Every lane of a warp makes the same number of turns, so that the shuffles are whole.
    Eight<T> k{}, v{}, next_k{}, next_v{};  // a turn ahead
    const auto fetch = [&](int t) {
      if (t < s.end && inside) {
        next_k = load_past_l1(keys + static_cast<int64_t>(t) * row + column);
        next_v = load_past_l1(values + static_cast<int64_t>(t) * row + column);
      }
    };
    fetch(s.begin + lane_group);
    for (int turn = s.begin; turn < s.end; turn += kGroups) {
      const int t = turn + lane_group;
      const bool valid = t < s.end && inside;
      k = next_k, v = next_v;
      fetch(t + kGroups);
#pragma unroll
      for (int h = 0; h < kGroup; ++h) {
        float score = 0;
#pragma unroll
        for (int i = 0; i < 8; ++i) score = fmaf(q[h][i], valid ? k[i] : 0.f, score);
#pragma unroll
        for (int offset = LANES / 2; offset > 0; offset /= 2) score += __shfl_xor_sync(kAllLanes, score, offset);
        if (t < s.end) {
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
    const int wide = dim + 2;
    for (int item = threadIdx.x; item < heads * dim; item += kThreads) {
      const int h = item / dim, i = item % dim;
      float highest = top_of[0][h], total = 0, value = 0;
#pragma unroll
      for (int w = 1; w < kWarps; ++w) highest = fmaxf(highest, top_of[w][h]);
#pragma unroll
      for (int w = 0; w < kWarps; ++w) {
        const float shrink = sum_of[w][h] > 0 ? __expf(top_of[w][h] - highest) : 0.f;
        total += sum_of[w][h] * shrink;
        value += of_warp[w][h][i] * shrink;
      }
      if (s.used == 1) {
        m.o[(first_head + h) * dim + i] = value / total;
      } else {
        float* to = m.partial + (static_cast<int64_t>(first_head + h) * m.splits + s.index) * wide;
        to[i] = value;
        if (i == 0) to[dim] = highest, to[dim + 1] = total;
      }
    }
    if (s.used > 1) {
      __threadfence();
      __syncthreads();
      if (threadIdx.x == 0) last = atomicAdd(m.heads_arrived + s.unit, 1) == s.used - 1;
      __syncthreads();
      if (last) {
        __threadfence();
        if (threadIdx.x == 0) m.heads_arrived[s.unit] = 0;  // for the next layer
        // Weights of the stretches first, by a warp per head, then the sums with all loads on their way together.
        if (warp < heads) {
          const int at = threadIdx.x % kWarp;
          const float* from = m.partial + static_cast<int64_t>(first_head + warp) * m.splits * wide + dim;
          float tops[kMaxSplits / kWarp], sums[kMaxSplits / kWarp], highest = -INFINITY, total = 0;
#pragma unroll
          for (int j = 0; j < kMaxSplits / kWarp; ++j) {
            const int p = at + j * kWarp;
            tops[j] = p < s.used ? __ldcg(from + static_cast<int64_t>(p) * wide) : -INFINITY;
            sums[j] = p < s.used ? __ldcg(from + static_cast<int64_t>(p) * wide + 1) : 0.f;
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
          for (int j = 0; j < kMaxSplits / kWarp; ++j) weight_of[warp][at + j * kWarp] = tops[j] / total;
        }
        __syncthreads();
        for (int item = threadIdx.x; item < heads * dim; item += kThreads) {
          const int h = item / dim, i = item % dim;
          const float* from = m.partial + static_cast<int64_t>(first_head + h) * m.splits * wide + i;
          float value = 0;
#pragma unroll 8
          for (int p = 0; p < s.used; ++p)
            value = fmaf(weight_of[h][p], __ldcg(from + static_cast<int64_t>(p) * wide), value);
          m.o[(first_head + h) * dim + i] = value;
        }
      }
    }
    __syncthreads();  // before the memory is used again
  }
}

}  // namespace rw::cuda::decode
