// Attention of one query over the cache, as a stage of the decoder's kernel. Blocks share out (kv head, some of its
// query heads, split of the cache); the last block of a unit to finish combines the splits
// (autograd/ops/attention_split_kv.cuh).
#pragma once
#include "autograd/ops/attention_split_kv.cuh"
#include "nn/decode_step.cuh"

namespace rw::cuda::decode {

namespace split_kv = attn::split_kv;
static_assert(kThreads == split_kv::kThreads);

constexpr int kShortest = 64;  // tokens of a split at least: combining partial results costs as much as some dozens

/// The tokens [first, position] that a query sees, and its scores.
struct Visible {
  int position, first;
  split_kv::ScoreScale scale;
};

/// What a block has to do, as far as the position tells.
struct Split {
  int unit;  // kv head * parts + part of its query heads
  int index, begin, end, length;
  int used;  // splits of this length
};
template <class T>
__device__ __forceinline__ Split split_of(const Model<T>& m, int job, int position, int first) {
  const int length = position + 1, keys = length - first, share = (keys + m.splits - 1) / m.splits;
  const int tokens = max(kShortest, (share + 15) / 16 * 16);
  const int index = job % m.splits, begin = first + index * tokens;
  return {job / m.splits, index, begin, min(length, begin + tokens), length, (keys + tokens - 1) / tokens};
}

/// Asks for the first keys and values that attend() will read.
template <class T>
__device__ __forceinline__ void prefetch_cache(const Model<T>& m, const Layer<T>& layer, int position, int first) {
  const int job = blockIdx.x;
  if (job >= m.n_kv_heads * m.parts * m.splits) return;
  const Split s = split_of(m, job, position, first);
  const int t = s.begin + static_cast<int>(threadIdx.x) / 2;
  if (t >= min(s.end, position)) return;
  const int64_t row = (static_cast<int64_t>(t) * m.n_kv_heads + s.unit / m.parts) * m.head_dim;
  prefetch((threadIdx.x % 2 ? layer.v : layer.k) + row);
  if (m.head_dim * sizeof(T) > 128) prefetch((threadIdx.x % 2 ? layer.v : layer.k) + row + 128 / sizeof(T));
}

/// The query heads [first_head, first_head + heads) of kv head `kv` that a block attends with.
struct BlockHeads {
  int kv, first_head, heads;
};
/// Queries that lie whole in m.q: nothing to prepare.
template <class T>
struct PlainQueries {
  const float* q;
  int dim;
  __device__ __forceinline__ void prepare(const BlockHeads&, bool) const {}
  __device__ __forceinline__ const float* row(const BlockHeads& b, int h) const { return q + (b.first_head + h) * dim; }
  __device__ __forceinline__ static float4 load(const float* p) { return __ldcg(reinterpret_cast<const float4*>(p)); }
};
template <class T>
__device__ __forceinline__ PlainQueries<T> plain_queries(const Model<T>& m) {
  return {m.q, m.head_dim};
}

/// o [H,D] of the queries, which are scaled already, over the visible tokens of the cache. Every block must call it;
/// `memory`: split_kv::kWarpFloats<T, WIDE> shared floats. queries.prepare(heads, newest) comes before a split is read,
/// newest: the split holds the newest token.
template <class T, int WIDE, class Queries>
__device__ __forceinline__ void attend(const Model<T>& m, const Layer<T>& layer, const Visible& visible, float* memory,
                                       const Queries& queries) {
  constexpr int ROWS = split_kv::kRows<T, WIDE>;
  __shared__ split_kv::OfWarps<ROWS> of;
  __shared__ float weight[ROWS][split_kv::kMaxSplits];
  __shared__ bool last;
  const int dim = m.head_dim, group = m.n_heads / m.n_kv_heads;
  const int64_t row = static_cast<int64_t>(m.n_kv_heads) * dim;

  for (int job = blockIdx.x; job < m.n_kv_heads * m.parts * m.splits; job += gridDim.x) {
    const Split s = split_of(m, job, visible.position, visible.first);
    if (s.begin >= s.end) continue;
    const int kv = s.unit / m.parts, first_head = kv * group + s.unit % m.parts * ROWS;
    const int heads = min(ROWS, (kv + 1) * group - first_head);
    const BlockHeads block{kv, first_head, heads};
    queries.prepare(block, s.end == s.length);
    const auto put = [&](int h, int i, float2 value) {
      *reinterpret_cast<float2*>(m.o + (first_head + h) * dim + i) = value;
    };
    split_kv::walk_keys<T, WIDE>(
        split_kv::Keys<T>{layer.k + kv * dim, layer.v + kv * dim, row, row, s.begin, s.end, dim}, visible.scale,
        [&](int h, int column) {
          Vec<float, 8> q{};
          if (h < heads && column < dim) {
            const float* from = queries.row(block, h) + column;
            const float4 low = queries.load(from), high = queries.load(from + 4);
            q = {low.x, low.y, low.z, low.w, high.x, high.y, high.z, high.w};
          }
          return q;
        },
        [&](int) {
          return split_kv::Range{visible.first, s.length};
        },
        memory, of);
    split_kv::combine_warps<WIDE>(memory, of, heads, dim, [&](int h, int i, float2 value, float top, float sum) {
      if (s.used == 1) {
        put(h, i, {value.x / sum, value.y / sum});
      } else {
        split_kv::keep(m.partial + static_cast<int64_t>(first_head + h) * m.splits * (dim + 2), s.index, dim, i, value,
                       top, sum);
      }
    });
    if (s.used > 1) {
      __threadfence();
      __syncthreads();
      if (threadIdx.x == 0) last = atomicAdd(m.heads_arrived + s.unit, 1) == s.used - 1;
      __syncthreads();
      if (last) {
        __threadfence();
        if (threadIdx.x == 0) m.heads_arrived[s.unit] = 0;  // for the next layer
        split_kv::combine_splits<kThreads, 16>(m.partial + static_cast<int64_t>(first_head) * m.splits * (dim + 2),
                                               heads, m.splits, s.used, dim, weight, put, [](int, float, float) {});
      }
    }
    __syncthreads();  // before the memory is used again
  }
}

}  // namespace rw::cuda::decode
