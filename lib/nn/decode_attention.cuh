// Attention of one query over the cache, as a stage of the decoder's kernel. Blocks share out (kv head, some of its
// query heads, split of the cache); the last block of a unit to finish combines the splits
// (autograd/ops/attention_split_kv.cuh).
#pragma once
#include "autograd/ops/attention_split_kv.cuh"
#include "nn/decode_exchange.cuh"

namespace rw::cuda::decode {

namespace split_kv = attn::split_kv;
static_assert(kThreads == split_kv::kThreads);

// Tokens of a split at least: a block reads 128 at a time, and combining splits costs as much as a few hundred
// (docs/kernels-log.md).
constexpr int kShortest = 512;

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

/// sync_readers() for split_kv.
struct SyncReaders {
  __device__ __forceinline__ void operator()() const { sync_readers(); }
};

/// Adds up what the `used` splits of a unit sent. Each of their blocks takes an equal part of the rows' pairs of
/// columns, by groups of LANES lanes that share the splits of a pair: the block of split `index` does its own.
template <int LANES, class W>
__device__ __forceinline__ void combine_received(const LongWord* partial, unsigned stamp, int heads, int dim,
                                                 int splits, int index, int used, W* o) {
  constexpr int kGroups = kThreads / LANES;
  const int pairs = heads * dim / 2, end = pairs * (index + 1) / used, lane = threadIdx.x % LANES;
  for (int first = pairs * index / used; first < end; first += kGroups) {
    const int pair = first + static_cast<int>(threadIdx.x) / LANES, r = 2 * pair / dim, i = 2 * pair % dim;
    float top = -INFINITY, sum = 0;
    float2 value{};
    if (pair < end) {
      for (int p = lane; p < used; p += LANES) {
        const LongWord* row = partial + (static_cast<int64_t>(r) * splits + p) * (dim + 2);
        Words<LongWord, 2> totals, numerators;
        do totals = look<2>(row + dim), numerators = look<2>(row + i);
        while (!totals.have(stamp) || !numerators.have(stamp));
        const float2 of = values_of(totals), x = values_of(numerators);
        if (!(of.y > 0)) continue;
        const float higher = fmaxf(top, of.x), old = exp2f(top - higher), fresh = exp2f(of.x - higher);
        top = higher;
        sum = sum * old + of.y * fresh;
        value.x = value.x * old + x.x * fresh, value.y = value.y * old + x.y * fresh;
      }
    }
    float highest = top;
#pragma unroll
    for (int offset = LANES / 2; offset > 0; offset /= 2)
      highest = fmaxf(highest, __shfl_xor_sync(kAllLanes, highest, offset));
    const float shrink = sum > 0 ? exp2f(top - highest) : 0.f;
    sum *= shrink, value.x *= shrink, value.y *= shrink;
#pragma unroll
    for (int offset = LANES / 2; offset > 0; offset /= 2) {
      sum += __shfl_xor_sync(kAllLanes, sum, offset);
      value.x += __shfl_xor_sync(kAllLanes, value.x, offset);
      value.y += __shfl_xor_sync(kAllLanes, value.y, offset);
    }
    if (pair < end && lane == 0) send(o + 2 * pair, float2{value.x / sum, value.y / sum}, stamp);
  }
}

/// The same as attend() for queries, and a newest key and value, that come as words with `stamp` (decode_exchange.cuh);
/// o goes to m.o_words. The block with the newest split puts the newest key and value into the cache. A block waits for
/// its own heads' words, and with more than one split for those of the unit's other blocks.
template <class T, int WIDE>
__device__ __forceinline__ void attend_received(const Model<T>& m, const Layer<T>& layer, const Visible& visible,
                                                unsigned stamp, float* memory) {
  constexpr int ROWS = split_kv::kRows<T, WIDE>;
  __shared__ split_kv::OfWarps<ROWS> of;
  __shared__ __align__(16) float query[ROWS][WIDE], newest_k[WIDE], newest_v[WIDE];
  __shared__ float newest_score[ROWS];
  const int dim = m.head_dim, group = m.n_heads / m.n_kv_heads;
  const int64_t row = static_cast<int64_t>(m.n_kv_heads) * dim;

  for (int job = blockIdx.x; job < m.n_kv_heads * m.parts * m.splits; job += gridDim.x) {
    const Split s = split_of(m, job, visible.position, visible.first);
    if (s.begin >= s.end) continue;
    const int kv = s.unit / m.parts, first_head = kv * group + s.unit % m.parts * ROWS;
    const int heads = min(ROWS, (kv + 1) * group - first_head);
    const bool newest = s.end == s.length;
    // Comes after the first loads of keys and values, which so are on their way meanwhile.
    const auto receive_token = [&] {
      for (int pair = threadIdx.x; pair < heads * dim / 2; pair += kThreads) {
        const float2 q = values_of(receive<2>(m.qkv_words + static_cast<int64_t>(first_head) * dim + 2 * pair, stamp));
        *reinterpret_cast<float2*>(&query[2 * pair / dim][2 * pair % dim]) = q;
      }
      for (int pair = threadIdx.x; newest && pair < dim; pair += kThreads) {
        const bool value = 2 * pair >= dim;
        const int i = 2 * pair % dim;
        const int64_t head = m.n_heads + (value ? m.n_kv_heads : 0) + kv;
        const float2 x = values_of(receive<2>(m.qkv_words + head * dim + i, stamp));
        T* to = (value ? layer.v : layer.k) + visible.position * row + static_cast<int64_t>(kv) * dim + i;
        to[0] = from_float<T>(x.x), to[1] = from_float<T>(x.y);
        float* here = (value ? newest_v : newest_k) + i;
        here[0] = to_float(from_float<T>(x.x)), here[1] = to_float(from_float<T>(x.y));
      }
      sync_readers();
    };
    bool received = false;
    split_kv::walk_keys<T, WIDE>(
        split_kv::Keys<T>{layer.k + kv * dim, layer.v + kv * dim, row, row, s.begin, newest ? s.end - 1 : s.end, dim},
        visible.scale,
        [&](int h, int column) {
          if (!received) receive_token();
          received = true;
          Vec<float, 8> q{};
          if (h < heads && column < dim) q = load<8>(&query[h][column]);
          return q;
        },
        [&](int) {
          return split_kv::Range{visible.first, s.length};
        },
        memory, of);
    if (const int h = threadIdx.x / kWarp; newest && h < heads) {
      float dot = 0;
      for (int i = threadIdx.x % kWarp; i < dim; i += kWarp) dot = fmaf(query[h][i], newest_k[i], dot);
      dot = warp_reduce(dot, Sum{});
      if (threadIdx.x % kWarp == 0) newest_score[h] = visible.scale(dot);
    }
    LongWord* const partial = m.partial_words + static_cast<int64_t>(first_head) * m.splits * (dim + 2);
    Word<T>* const o = m.o_words + static_cast<int64_t>(first_head) * dim;
    split_kv::combine_warps<WIDE, SyncReaders>(
        memory, of, heads, dim, [&](int h, int i, float2 value, float top, float sum) {
          if (newest) {
            const float score = newest_score[h], higher = fmaxf(top, score);
            const float old = exp2f(top - higher), fresh = exp2f(score - higher);
            value.x = value.x * old + newest_v[i] * fresh, value.y = value.y * old + newest_v[i + 1] * fresh;
            sum = sum * old + fresh;
            top = higher;
          }
          if (s.used == 1) return send(o + h * dim + i, float2{value.x / sum, value.y / sum}, stamp);
          LongWord* to = partial + (static_cast<int64_t>(h) * m.splits + s.index) * (dim + 2);
          send(to + i, value, stamp);
          if (i == 0) send(to + dim, float2{top, sum}, stamp);
        });
    if (s.used > 16) combine_received<32>(partial, stamp, heads, dim, m.splits, s.index, s.used, o);
    else if (s.used > 4) combine_received<16>(partial, stamp, heads, dim, m.splits, s.index, s.used, o);
    else if (s.used > 1) combine_received<4>(partial, stamp, heads, dim, m.splits, s.index, s.used, o);
    sync_readers();  // before the memory is used again
  }
}

}  // namespace rw::cuda::decode
