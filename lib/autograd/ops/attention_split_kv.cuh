// Attention of few queries over many keys, split over the keys ("split-KV", as in flash decoding). A token's keys and
// values are read once and used by few queries, so memory is the bound, and one block per head would leave most of the
// GPU idle. So the keys are split, one block per split. Every warp of a block walks over its own keys with the online
// softmax. Then the warps' results become one result per row and split, and the splits' results become the rows of O:
//
//   walk_keys  ->  combine_warps  ->  combine_splits       numerator sum_j 2^(x_j - top) v_j, top, sum_j 2^(x_j - top)
//
// All sums run in a fixed order. x is the score in units of log 2, so that every exponential is an exp2.
// attention_split_kv.cu makes kernels of this, and nn/decode_attention.cuh a stage of the decoder's kernel.
#pragma once
#include <type_traits>

#include "autograd/ops/attention_mma.cuh"
#include "tensor/launch.cuh"

namespace rw::cuda::attn::split_kv {

constexpr int kThreads = 256;
constexpr int kWarps = kThreads / kWarp;
constexpr int kMaxSplits = 128;  // a multiple of 32
constexpr int kStepsAhead = 2;   // of a warp's walk: prefetched into L2 before they are read

/// Calls f(integral_constant<int, WIDE>), the width that the head dim is padded to: 64, 128 or 256.
template <class F>
decltype(auto) with_wide(int64_t head_dim, F&& f) {
  if (head_dim <= 64) return f(std::integral_constant<int, 64>{});
  if (head_dim <= 128) return f(std::integral_constant<int, 128>{});
  return f(std::integral_constant<int, 256>{});
}

/// Whether the products are tensor cores' work. The others are f32 FMA.
template <class T, int WIDE>
constexpr bool kTensorCores = (std::is_same_v<T, b16> && WIDE <= 128);
/// Queries (rows) that a block takes. On tensor cores 8: they are the columns of the second product's tiles.
template <class T, int WIDE>
constexpr int kRows = kTensorCores<T, WIDE> ? 8 : 4;

/// Keys and values of one kv head: token t at k + t * k_row. Tokens [begin, end) are the split.
template <class T>
struct Keys {
  const T *k, *v;
  int64_t k_row, v_row;
  int begin, end, head_dim;
};

/// The tokens [begin, end) that a row sees.
struct Range {
  int begin, end;
};

/// From q . k to a score in units of log 2: factor * (q . k), with a soft cap
/// (also in units of log 2) cap * tanh of it.
struct ScoreScale {
  float factor, cap = 0;
  __device__ __forceinline__ float operator()(float dot) const {
    const float x = dot * factor;
    return cap > 0 ? cap * tanhf(x / cap) : x;
  }
};

/// What a block keeps of its warps: of_warp is dynamic shared memory, the rest can be declared.
template <class T, int WIDE>
constexpr int kWarpFloats = (kWarps * kRows<T, WIDE> * WIDE);
template <int ROWS>
struct OfWarps {
  float top[kWarps][ROWS], sum[kWarps][ROWS];
};

// --- tensor cores ---------------------------------------------------------------------------------------------------
//
// No shared memory: a product sums over its inner index in any order, as long as both operands agree on it, and its
// rows and columns may be any keys or dims. So the lane that m16n8k16 wants four pairs of inner indices from takes
// eight that lie side by side, 16 bytes of a row, straight into its fragments. Lane 4 g + c holds
//
//   Q   row g, dims 32 j + 8 c ..              K     key 8 n + g of tile n, the same dims
//   S   row g, keys 8 n + 2 c, + 1             V^T   dims 64 j + 8 g .., those keys
//   O^T dims 64 j + 8 g .., rows 2 c, + 1
//
// S = Q K^T has rows 8 to 15 of its tiles empty; O^T = V^T P^T has not: P as computed is P^T as its second operand. K
// of the next keys is asked for as soon as S is there, V as soon as O is.

template <class T>
__device__ __forceinline__ void load_words(uint32_t (&to)[4], const T* p, bool valid) {
  const uint4 x = valid ? __ldcg(reinterpret_cast<const uint4*>(p)) : uint4{};
  to[0] = x.x, to[1] = x.y, to[2] = x.z, to[3] = x.w;
}

/// S of one step; rows 8 to 15 of its tiles are empty.
template <int TILES, int QUADS>
__device__ __forceinline__ void multiply_scores(float (&s)[TILES][4], const uint32_t (&q)[QUADS][4],
                                                const uint32_t (&k)[TILES][QUADS][4]) {
#pragma unroll
  for (int n = 0; n < TILES; ++n) {
#pragma unroll
    for (int e = 0; e < 4; ++e) s[n][e] = 0.f;
#pragma unroll
    for (int j = 0; j < QUADS; ++j) {
      mma_sync::mma(s[n], {q[j][0], 0, q[j][1], 0}, k[n][j][0], k[n][j][1]);
      mma_sync::mma(s[n], {q[j][2], 0, q[j][3], 0}, k[n][j][2], k[n][j][3]);
    }
  }
}

/// S of the keys from `first` on becomes P = exp2(S - maximum), 0 outside of `seen`. `top` and `sum` are the row's
/// maximum and the lane's part of its sum so far. Returns the factor for what was summed before.
template <int TILES>
__device__ __forceinline__ float exponentials(float (&p)[TILES][4], ScoreScale scale, int first, Range seen, float& top,
                                              float& sum) {
  const int quad = threadIdx.x % 4;
  float higher = top;
#pragma unroll
  for (int n = 0; n < TILES; ++n)
#pragma unroll
    for (int e = 0; e < 2; ++e) {
      const int t = first + 8 * n + 2 * quad + e;
      p[n][e] = t >= seen.begin && t < seen.end ? scale(p[n][e]) : -INFINITY;
      higher = fmaxf(higher, p[n][e]);
    }
  higher = fmaxf(higher, __shfl_xor_sync(kAllLanes, higher, 1));
  higher = fmaxf(higher, __shfl_xor_sync(kAllLanes, higher, 2));
  const float from = higher == -INFINITY ? 0.f : higher;  // a row that has seen no key yet
  const float shrink = mma_sync::exp2_fast(top - from);
  top = higher;
  sum *= shrink;
#pragma unroll
  for (int n = 0; n < TILES; ++n)
#pragma unroll
    for (int e = 0; e < 2; ++e) {
      p[n][e] = mma_sync::exp2_fast(p[n][e] - from);
      sum += p[n][e];
    }
  return shrink;
}

/// O^T = O^T shrink + V^T P^T
template <int TILES, int OCTS>
__device__ __forceinline__ void add_values(float (&o)[OCTS][4][4], float shrink, const float (&p)[TILES][4],
                                           const uint32_t (&v)[TILES][2][OCTS][4]) {
  const int quad = threadIdx.x % 4;
  const float shrink_even = __shfl_sync(kAllLanes, shrink, 8 * quad),
              shrink_odd = __shfl_sync(kAllLanes, shrink, 8 * quad + 4);
#pragma unroll
  for (int j = 0; j < OCTS; ++j)
#pragma unroll
    for (int i = 0; i < 4; ++i) {
      o[j][i][0] *= shrink_even, o[j][i][2] *= shrink_even;
      o[j][i][1] *= shrink_odd, o[j][i][3] *= shrink_odd;
    }
#pragma unroll
  for (int n = 0; n < TILES; n += 2) {
    const uint32_t low = mma_sync::pack(p[n][0], p[n][1]), high = mma_sync::pack(p[n + 1][0], p[n + 1][1]);
#pragma unroll
    for (int j = 0; j < OCTS; ++j)
#pragma unroll
      for (int i = 0; i < 4; ++i) {  // one dim of two tokens side by side, then the next dim
        const auto dims = [&](int tile, unsigned halves) {
          return __byte_perm(v[tile][0][j][i], v[tile][1][j][i], halves);
        };
        mma_sync::mma(o[j][i], {dims(n, 0x5410), dims(n, 0x7632), dims(n + 1, 0x5410), dims(n + 1, 0x7632)}, low, high);
      }
  }
}

/// The rows' results over a warp's keys of the split. query(row, column): eight elements of q; visible(row): the Range
/// of tokens that the row sees.
template <int WIDE, class Query, class Visible>
__device__ __forceinline__ void walk_keys_mma(const Keys<b16>& keys, ScoreScale scale, const Query& query,
                                              const Visible& visible, float* of_warp, OfWarps<8>& of) {
  constexpr int KEYS = 16, STEP = kWarps * KEYS;  // a warp's at a time, a block's
  constexpr int TILES = KEYS / 8, QUADS = WIDE / 32, OCTS = WIDE / 64;
  const int lane = threadIdx.x % kWarp, warp = threadIdx.x / kWarp, g = lane / 4, quad = lane % 4;
  uint32_t q[QUADS][4], k[TILES][QUADS][4], v[TILES][2][OCTS][4];
  const auto fetch_k = [&](int first) {
#pragma unroll
    for (int n = 0; n < TILES; ++n) {
      const int t = first + 8 * n + g;
#pragma unroll
      for (int j = 0; j < QUADS; ++j) {
        const int column = 32 * j + 8 * quad;
        load_words(k[n][j], keys.k + t * keys.k_row + column, t < keys.end && column < keys.head_dim);
      }
    }
  };
  const auto fetch_v = [&](int first) {
#pragma unroll
    for (int n = 0; n < TILES; ++n)
#pragma unroll
      for (int e = 0; e < 2; ++e) {
        const int t = first + 8 * n + 2 * quad + e;
#pragma unroll
        for (int j = 0; j < OCTS; ++j) {
          const int column = 64 * j + 8 * g;
          load_words(v[n][e][j], keys.v + t * keys.v_row + column, t < keys.end && column < keys.head_dim);
        }
      }
  };
  // Registers hold the keys of one step, too few bytes to keep the memory busy: later steps are prefetched into L2.
  const auto prefetch_step = [&](int first) {
    const int t = first + lane % KEYS;
    if (t >= keys.end) return;
    const b16* row = lane < KEYS ? keys.k + t * keys.k_row : keys.v + t * keys.v_row;
#pragma unroll
    for (int j = 0; j < OCTS; ++j) prefetch(row + 64 * j);
  };
  float o[OCTS][4][4] = {}, top = -INFINITY, sum = 0.f;
  Range seen = visible(g);
  seen.end = min(keys.end, seen.end);
  int first = keys.begin + warp * KEYS;
  fetch_k(first);
  fetch_v(first);
#pragma unroll
  for (int step = 1; step < kStepsAhead; ++step) prefetch_step(first + step * STEP);
#pragma unroll
  for (int j = 0; j < QUADS; ++j) {
    const Vec<float, 8> x = query(g, 32 * j + 8 * quad);
#pragma unroll
    for (int i = 0; i < 4; ++i) q[j][i] = mma_sync::pack(x.at[2 * i], x.at[2 * i + 1]);
  }
  for (; first < keys.end; first += STEP) {
    prefetch_step(first + kStepsAhead * STEP);
    float p[TILES][4];
    multiply_scores(p, q, k);
    fetch_k(first + STEP);
    add_values(o, exponentials(p, scale, first, seen, top, sum), p, v);
    fetch_v(first + STEP);
  }
  sum += __shfl_xor_sync(kAllLanes, sum, 1);
  sum += __shfl_xor_sync(kAllLanes, sum, 2);
  if (quad == 0) of.top[warp][g] = top, of.sum[warp][g] = sum;
#pragma unroll
  for (int e = 0; e < 2; ++e) {
    float* row = of_warp + (warp * 8 + 2 * quad + e) * WIDE;
#pragma unroll
    for (int j = 0; j < OCTS; ++j)
#pragma unroll
      for (int i = 0; i < 4; i += 2) {
        *reinterpret_cast<float4*>(row + 64 * j + 8 * g + 2 * i) =
            make_float4(o[j][i][e], o[j][i][2 + e], o[j][i + 1][e], o[j][i + 1][2 + e]);
      }
  }
}

// --- f32 FMA --------------------------------------------------------------------------------------------------------

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

/// The same; a group of WIDE / 8 lanes takes one key at a time, eight elements per lane.
template <class T, int WIDE, class Query, class Visible>
__device__ __forceinline__ void walk_keys_fma(const Keys<T>& keys, ScoreScale scale, const Query& query,
                                              const Visible& visible, float* of_warp, OfWarps<4>& of) {
  constexpr int ROWS = 4, LANES = WIDE / 8, kGroups = kThreads / LANES;
  const int warp = threadIdx.x / kWarp, group = threadIdx.x / LANES, column = threadIdx.x % LANES * 8;
  const bool inside = column < keys.head_dim;
  float acc[ROWS][8] = {}, top[ROWS], sum[ROWS];
  Vec<float, 8> q[ROWS];
  Range seen[ROWS];
#pragma unroll
  for (int r = 0; r < ROWS; ++r) {
    top[r] = -INFINITY;
    sum[r] = 0;
    q[r] = query(r, column);
    seen[r] = visible(r);
    seen[r].end = min(keys.end, seen[r].end);
  }
  // Every lane of a warp makes the same number of steps, so that the shuffles are whole.
  Eight<T> k{}, v{}, next_k{}, next_v{};  // a step ahead
  const auto fetch = [&](int t) {
    if (t < keys.end && inside) {
      next_k = load_past_l1(keys.k + t * keys.k_row + column);
      next_v = load_past_l1(keys.v + t * keys.v_row + column);
    }
  };
  fetch(keys.begin + group);
  for (int step = keys.begin; step < keys.end; step += kGroups) {
    const int t = step + group;
    const bool valid = t < keys.end && inside;
    k = next_k, v = next_v;
    fetch(t + kGroups);
#pragma unroll
    for (int r = 0; r < ROWS; ++r) {
      float score = 0;
#pragma unroll
      for (int i = 0; i < 8; ++i) score = fmaf(q[r].at[i], valid ? k[i] : 0.f, score);
#pragma unroll
      for (int offset = LANES / 2; offset > 0; offset /= 2) score += __shfl_xor_sync(kAllLanes, score, offset);
      if (t >= seen[r].begin && t < seen[r].end) {
        score = scale(score);
        const float higher = fmaxf(top[r], score), shrink = exp2f(top[r] - higher), weight = exp2f(score - higher);
        top[r] = higher;
        sum[r] = sum[r] * shrink + weight;
#pragma unroll
        for (int i = 0; i < 8; ++i) acc[r][i] = acc[r][i] * shrink + weight * (valid ? v[i] : 0.f);
      }
    }
  }
  // The lane groups of a warp become one.
#pragma unroll
  for (int r = 0; r < ROWS; ++r) {
    float highest = top[r];
#pragma unroll
    for (int offset = LANES; offset < kWarp; offset *= 2)
      highest = fmaxf(highest, __shfl_xor_sync(kAllLanes, highest, offset));
    const float shrink = sum[r] > 0 ? exp2f(top[r] - highest) : 0.f;
    float total = sum[r] * shrink;
#pragma unroll
    for (int offset = LANES; offset < kWarp; offset *= 2) total += __shfl_xor_sync(kAllLanes, total, offset);
#pragma unroll
    for (int i = 0; i < 8; ++i) {
      float value = acc[r][i] * shrink;
#pragma unroll
      for (int offset = LANES; offset < kWarp; offset *= 2) value += __shfl_xor_sync(kAllLanes, value, offset);
      if (threadIdx.x % kWarp < LANES) of_warp[(warp * ROWS + r) * WIDE + column + i] = value;
    }
    if (threadIdx.x % kWarp == 0) of.top[warp][r] = highest, of.sum[warp][r] = total;
  }
}

/// Every thread of the block must call it.
template <class T, int WIDE, class Query, class Visible>
__device__ __forceinline__ void walk_keys(const Keys<T>& keys, ScoreScale scale, const Query& query,
                                          const Visible& visible, float* of_warp, OfWarps<kRows<T, WIDE>>& of) {
  if constexpr (kTensorCores<T, WIDE>) {
    walk_keys_mma<WIDE>(keys, scale, query, visible, of_warp, of);
  } else {
    walk_keys_fma<T, WIDE>(keys, scale, query, visible, of_warp, of);
  }
}

// --- the warps, then the splits ----------------------------------------------------------------------------------

struct SyncBlock {
  __device__ __forceinline__ void operator()() const { __syncthreads(); }
};

/// put(row, column, numerators of two columns, top, sum) of the block's split. Begins with a barrier of the kThreads
/// threads, Sync().
template <int WIDE, class Sync = SyncBlock, int ROWS, class Put>
__device__ __forceinline__ void combine_warps(const float* of_warp, const OfWarps<ROWS>& of, int rows, int head_dim,
                                              const Put& put) {
  Sync()();
  for (int item = threadIdx.x; item < rows * head_dim / 2; item += kThreads) {
    const int r = 2 * item / head_dim, i = 2 * item % head_dim;
    float highest = of.top[0][r], total = 0;
    float2 value{};
#pragma unroll
    for (int w = 1; w < kWarps; ++w) highest = fmaxf(highest, of.top[w][r]);
#pragma unroll
    for (int w = 0; w < kWarps; ++w) {
      const float shrink = of.sum[w][r] > 0 ? exp2f(of.top[w][r] - highest) : 0.f;
      const float2 x = *reinterpret_cast<const float2*>(of_warp + (w * ROWS + r) * WIDE + i);
      total += of.sum[w][r] * shrink;
      value.x += x.x * shrink, value.y += x.y * shrink;
    }
    put(r, i, value, highest, total);
  }
}

/// What splits found, per row: [splits, head_dim + 2] floats, numerator, top and sum.
__device__ __forceinline__ void keep(float* row, int split, int head_dim, int column, float2 value, float top,
                                     float sum) {
  float* to = row + static_cast<int64_t>(split) * (head_dim + 2);
  *reinterpret_cast<float2*>(to + column) = value;
  if (column == 0) *reinterpret_cast<float2*>(to + head_dim) = {top, sum};
}

/// put(row, column, two elements of O), and finish(row, top, sum) by one thread each, of `rows` rows at `partial`, of
/// whose `splits` the first `used` count. THREADS threads of the block call it. weight: shared. It has one barrier,
/// inside. AHEAD: splits whose loads are on their way together.
template <int THREADS, int AHEAD, int ROWS, class Put, class Finish>
__device__ __forceinline__ void combine_splits(const float* partial, int rows, int splits, int used, int head_dim,
                                               float (&weight)[ROWS][kMaxSplits], const Put& put,
                                               const Finish& finish) {
  static_assert(ROWS <= THREADS / kWarp);
  const int64_t wide = head_dim + 2;
  const int warp = threadIdx.x / kWarp, lane = threadIdx.x % kWarp;
  float2 value[AHEAD];
  const auto fetch = [&](int item, int first) {
    const float* from = partial + (2 * item / head_dim * splits + first) * wide + 2 * item % head_dim;
#pragma unroll
    for (int p = 0; p < AHEAD; ++p)
      value[p] = first + p < used ? __ldcg(reinterpret_cast<const float2*>(from + p * wide)) : float2{};
  };
  if (threadIdx.x < rows * head_dim / 2) fetch(threadIdx.x, 0);
  // Meanwhile the weights of the splits, by a warp per row.
  if (warp < rows) {
    constexpr int kEach = kMaxSplits / kWarp;
    const float* from = partial + warp * splits * wide + head_dim;
    float2 end[kEach];  // top and sum
    float highest = -INFINITY, total = 0;
#pragma unroll
    for (int j = 0; j < kEach; ++j) {
      const int p = lane + j * kWarp;
      end[j] = p < used ? __ldcg(reinterpret_cast<const float2*>(from + p * wide)) : float2{-INFINITY, 0.f};
      highest = fmaxf(highest, end[j].x);
    }
    highest = warp_reduce(highest, Max{});
#pragma unroll
    for (int j = 0; j < kEach; ++j) {
      end[j].x = end[j].y > 0 ? exp2f(end[j].x - highest) : 0.f;
      total += end[j].y * end[j].x;
    }
    total = warp_reduce(total, Sum{});
#pragma unroll
    for (int j = 0; j < kEach; ++j) weight[warp][lane + j * kWarp] = end[j].x / total;
    if (lane == 0) finish(warp, highest, total);
  }
  __syncthreads();
  for (int item = threadIdx.x; item < rows * head_dim / 2; item += THREADS) {
    const int r = 2 * item / head_dim;
    float2 sum{};
    for (int first = 0; first < used; first += AHEAD) {
      if (first > 0 || item >= THREADS) fetch(item, first);
#pragma unroll
      for (int p = 0; p < AHEAD; ++p) {
        const float w = weight[r][first + p];
        sum.x = fmaf(w, value[p].x, sum.x), sum.y = fmaf(w, value[p].y, sum.y);
      }
    }
    put(r, 2 * item % head_dim, sum);
  }
}

}  // namespace rw::cuda::attn::split_kv
