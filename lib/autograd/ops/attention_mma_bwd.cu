// Attention backward on tensor cores through mma.sync; attention_mma.cuh has the products it is made of.
//
// In a fixed order two kernels: dK and dV (a block owns keys), then dQ (a block owns queries). With fast_atomics
// one kernel, with dS^T through shared memory for the fifth product, and dQ added to an f32 workspace.
#include "autograd/ops/atomic_add.cuh"
#include "autograd/ops/attention_mma.cuh"

namespace rw::cuda::attn {

using namespace mma_sync;

namespace {

/// P = exp2(c S - lse2), in place of S. Rounding can leave the exponent above 0 at huge scores; P never exceeds 1.
__device__ float probability(float score, float c, float lse2) { return exp2_fast(fminf(fmaf(score, c, -lse2), 0.f)); }

/// Rows a warp owns and the length of the walked tile, by head dim: what fits in 255 registers.
template <int D>
struct BackwardTiles {
  static constexpr int MT = D <= 64 ? 2 : 1;        // 16-row tiles per warp
  static constexpr int rows = 16 * MT * kWarps;     // 128 or 64 rows per block
  static constexpr int walked = D <= 64 ? 32 : 64;  // rows per step
  static constexpr int shared_bytes = 2 * (D + 8) * (2 * rows + 2 * 2 * walked);
  static constexpr int ds_bytes = 2 * rows * (walked + 8);  // dS^T, where dQ is summed, too
};

/// This warp's 16 MT rows of dS^T, packed, into rows of 8 NT + 8 elements at `to`.
template <int MT, int NT>
__device__ void store_ds(bf* to, const Tile<MT, NT>& ds) {
  const int lane = threadIdx.x % 32;
#pragma unroll
  for (int i = 0; i < MT; ++i)
#pragma unroll
    for (int half = 0; half < 2; ++half) {
      bf* row = to + (16 * i + 8 * half + lane / 4) * (8 * NT + 8) + lane % 4 * 2;
#pragma unroll
      for (int j = 0; j < NT; ++j)
        *reinterpret_cast<unsigned*>(row + 8 * j) = pack(ds.at[i][j][2 * half], ds.at[i][j][2 * half + 1]);
    }
}

/// Adds dS K to rows [q0, end) of one head's f32 rows of D: dS^T has BN rows of BM + 8 elements in shared memory, K has
/// BN rows of D + 8. The warps share out squares of 16 x 16; the operand dS is read transposed.
template <int D, int BM, int BN>
__device__ void add_dq(float* head, int q0, int end, const bf* ds, const bf* k_tile) {
  constexpr int LDS = BM + 8, LD = D + 8, kSquares = BM / 16 * (D / 16);
  const int lane = threadIdx.x % 32, warp = threadIdx.x / 32;
  for (int square = warp; square < kSquares; square += kWarps) {
    const int m = square % (BM / 16) * 16, column = square / (BM / 16) * 16;
    const bf* pa = ds + (lane % 8 + lane / 16 * 8) * LDS + m + lane / 8 % 2 * 8;
    const bf* pb = k_tile + lane % 16 * LD + column + lane / 16 * 8;
    float acc[2][4] = {};
#pragma unroll
    for (int n = 0; n < BN; n += 16) {
      unsigned x[4], y[4];
      load4_transposed(x, pa + n * LDS);
      load4_transposed(y, pb + n * LD);
      mma(acc[0], x, y[0], y[1]);
      mma(acc[1], x, y[2], y[3]);
    }
#pragma unroll
    for (int half = 0; half < 2; ++half) {
      const int t = q0 + m + 8 * half + lane / 4;
      if (t >= end) continue;
#pragma unroll
      for (int j = 0; j < 2; ++j)
        atomic_add(head + static_cast<int64_t>(t) * D + column + 8 * j + lane % 4 * 2,
                   Vec<float, 2>{acc[j][2 * half], acc[j][2 * half + 1]});
    }
  }
}

/// dK and dV of a block's keys, over the queries of every head of the group. Scores are transposed: rows are keys.
/// with_dq: dS^T also goes to shared memory, and what these keys give to dQ / scale is added to dq_sums [B*H,Tq,D].
template <int D, bool with_dq>
__global__ void __launch_bounds__(kThreads, 2)
    backward_kv_kernel(Shape s, Heads<const bf> q, Heads<const bf> k, Heads<const bf> v, Heads<const bf> d_o,
                       const float* lse2, const float* delta, int pitch, Heads<bf> dk, Heads<bf> dv, float* dq_sums) {
  using Sizes = BackwardTiles<D>;
  constexpr int LD = D + 8, BN = Sizes::rows, BM = Sizes::walked, MT = Sizes::MT, NT = BM / 8;
  extern __shared__ __align__(16) bf shared[];
  bf* k_tile = shared;                                      // [BN][LD]
  bf* v_tile = shared + BN * LD;                            // [BN][LD]
  bf* stages = v_tile + BN * LD;                            // two stages of Q [BM][LD], dO [BM][LD]
  [[maybe_unused]] bf* ds_tile = stages + 2 * 2 * BM * LD;  // dS^T [BN][BM + 8]
  const int kv_heads = s.n_heads / s.group, b = blockIdx.x / kv_heads, kv = blockIdx.x % kv_heads;
  const int lane = threadIdx.x % 32, warp = threadIdx.x / 32, k0 = blockIdx.y * BN, first = k0 + warp * 16 * MT;
  const int begin = s.first_query(k0) / BM * BM, end = s.queries_until(min(k0 + BN, s.tk));

  const auto copy_stage = [&](int stage, int h, int q0) {
    bf* to = stages + stage * 2 * BM * LD;
    copy_tile<D, BM>(to, q.head(b, h, D), q.row, q0, s.tq);
    copy_tile<D, BM>(to + BM * LD, d_o.head(b, h, D), d_o.row, q0, s.tq);
    copies_commit();
  };
  copy_tile<D, BN>(k_tile, k.head(b, kv, D), k.row, k0, s.tk);
  copy_tile<D, BN>(v_tile, v.head(b, kv, D), v.row, k0, s.tk);
  copy_stage(0, kv * s.group, begin);

  Tile<MT, D / 8> dk_acc, dv_acc;
  dk_acc.zero();
  dv_acc.zero();
  const Scores scores(s);
  const float c = scores.factor;
  int h = begin < end ? kv * s.group : (kv + 1) * s.group, q0 = begin;  // a window may leave keys that nobody sees
  for (int stage = 0; h < (kv + 1) * s.group; stage ^= 1) {
    const bf *q_tile = stages + stage * 2 * BM * LD, *do_tile = q_tile + BM * LD;
    const int next_q0 = q0 + BM < end ? q0 + BM : begin, next_h = q0 + BM < end ? h : h + 1;
    copies_wait();
    __syncthreads();
    if (next_h < (kv + 1) * s.group) copy_stage(stage ^ 1, next_h, next_q0);

    const int64_t row = (int64_t(b) * s.n_heads + h) * pitch + q0 + lane % 4 * 2;
    Tile<MT, NT> p, ds;
    dot_rows<D>(p, k_tile + warp * 16 * MT * LD, q_tile);
    if (scores.capped()) cap_scores(p, scores);
    const bool mask = s.needs_hiding(q0, q0 + BM, first, first + 16 * MT);
#pragma unroll
    for (int j = 0; j < NT; ++j) {
      const float2 l = *reinterpret_cast<const float2*>(lse2 + row + 8 * j);
#pragma unroll
      for (int i = 0; i < MT; ++i)
#pragma unroll
        for (int e = 0; e < 4; ++e) {
          p.at[i][j][e] = probability(p.at[i][j][e], c, e % 2 ? l.y : l.x);
          if (mask && s.hidden(q0 + 8 * j + lane % 4 * 2 + e % 2, first + 16 * i + lane / 4 + e / 2 * 8))
            p.at[i][j][e] = 0.f;
        }
    }
    add_rows<D>(dv_acc, p, do_tile);
    dot_rows<D>(ds, v_tile + warp * 16 * MT * LD, do_tile);
#pragma unroll
    for (int j = 0; j < NT; ++j) {
      const float2 dl = *reinterpret_cast<const float2*>(delta + row + 8 * j);
#pragma unroll
      for (int i = 0; i < MT; ++i)
#pragma unroll
        for (int e = 0; e < 4; ++e) ds.at[i][j][e] = p.at[i][j][e] * (ds.at[i][j][e] - (e % 2 ? dl.y : dl.x));
      if (scores.capped()) {
        const float2 l = *reinterpret_cast<const float2*>(lse2 + row + 8 * j);
#pragma unroll
        for (int i = 0; i < MT; ++i)
#pragma unroll
          for (int e = 0; e < 4; ++e) ds.at[i][j][e] *= scores.slope(p.at[i][j][e], e % 2 ? l.y : l.x);
      }
    }
    add_rows<D>(dk_acc, ds, q_tile);
    if constexpr (with_dq) {
      store_ds(ds_tile + warp * 16 * MT * (BM + 8), ds);
      __syncthreads();  // and before the next dS the one at the top of the loop
      add_dq<D, BM, BN>(dq_sums + (int64_t(b) * s.n_heads + h) * s.tq * D, q0, s.tq, ds_tile, k_tile);
    }
    h = next_h;
    q0 = next_q0;
  }
  write_rows(dk.head(b, kv, D), dk.row, first, s.tk, dk_acc, [&](int, int) { return s.scale; });
  write_rows(dv.head(b, kv, D), dv.row, first, s.tk, dv_acc, [](int, int) { return 1.f; });
}

/// dQ of a block's queries, over the keys they see.
template <int D>
__global__ void __launch_bounds__(kThreads, 2)
    backward_q_kernel(Shape s, Heads<const bf> q, Heads<const bf> k, Heads<const bf> v, Heads<const bf> d_o,
                      const float* lse2, const float* delta, int pitch, Heads<bf> dq) {
  using Sizes = BackwardTiles<D>;
  constexpr int LD = D + 8, BM = Sizes::rows, BN = Sizes::walked, MT = Sizes::MT, NT = BN / 8;
  extern __shared__ __align__(16) bf shared[];
  bf* q_tile = shared;             // [BM][LD]
  bf* do_tile = shared + BM * LD;  // [BM][LD]
  bf* stages = do_tile + BM * LD;  // two stages of K [BN][LD], V [BN][LD]
  const int bh = blockIdx.x, b = bh / s.n_heads, h = bh % s.n_heads, lane = threadIdx.x % 32, warp = threadIdx.x / 32;
  const int q0 = (gridDim.y - 1 - blockIdx.y) * BM, first = q0 + warp * 16 * MT;
  const int keys = s.keys_until(min(q0 + BM, s.tq)), first_key = s.first_key(q0) / BN * BN;

  const auto copy_stage = [&](int stage, int k0) {
    bf* to = stages + stage * 2 * BN * LD;
    copy_tile<D, BN>(to, k.head(b, h / s.group, D), k.row, k0, s.tk);
    copy_tile<D, BN>(to + BN * LD, v.head(b, h / s.group, D), v.row, k0, s.tk);
    copies_commit();
  };
  copy_tile<D, BM>(q_tile, q.head(b, h, D), q.row, q0, s.tq);
  copy_tile<D, BM>(do_tile, d_o.head(b, h, D), d_o.row, q0, s.tq);
  copy_stage(0, first_key);

  Tile<MT, D / 8> acc;
  acc.zero();
  const Scores scores(s);
  const float c = scores.factor;
  float l[MT][2], dl[MT][2];
#pragma unroll
  for (int i = 0; i < MT; ++i)
#pragma unroll
    for (int half = 0; half < 2; ++half) {
      const int64_t row = int64_t(bh) * pitch + first + 16 * i + 8 * half + lane / 4;
      l[i][half] = lse2[row];
      dl[i][half] = delta[row];
    }
  for (int k0 = first_key, stage = 0; k0 < keys; k0 += BN, stage ^= 1) {
    const bf *k_tile = stages + stage * 2 * BN * LD, *v_tile = k_tile + BN * LD;
    copies_wait();
    __syncthreads();
    if (k0 + BN < keys) copy_stage(stage ^ 1, k0 + BN);
    Tile<MT, NT> p, ds;
    dot_rows<D>(p, q_tile + warp * 16 * MT * LD, k_tile);
    dot_rows<D>(ds, do_tile + warp * 16 * MT * LD, v_tile);
    if (scores.capped()) cap_scores(p, scores);
    const bool mask = s.needs_hiding(first, first + 16 * MT, k0, k0 + BN);
#pragma unroll
    for (int i = 0; i < MT; ++i)
#pragma unroll
      for (int j = 0; j < NT; ++j)
#pragma unroll
        for (int e = 0; e < 4; ++e) {
          const float x = probability(p.at[i][j][e], c, l[i][e / 2]);
          const bool hidden =
              mask && s.hidden(first + 16 * i + lane / 4 + e / 2 * 8, k0 + 8 * j + lane % 4 * 2 + e % 2);
          ds.at[i][j][e] = hidden ? 0.f : x * (ds.at[i][j][e] - dl[i][e / 2]);
        }
    if (scores.capped()) {
#pragma unroll
      for (int i = 0; i < MT; ++i)
#pragma unroll
        for (int j = 0; j < NT; ++j)
#pragma unroll
          for (int e = 0; e < 4; ++e) ds.at[i][j][e] *= 1.f - p.at[i][j][e] * p.at[i][j][e];  // p is tanh still
    }
    add_rows<D>(acc, ds, k_tile);
  }
  write_rows(dq.head(b, h, D), dq.row, first, s.tq, acc, [&](int, int) { return s.scale; });
}

}  // namespace

/// 14 B H Tq Tk D FLOPs (half if causal); by atomics 10, and 4 bytes of dQ's workspace are added to per 64 or 128 keys.
void mma_backward(const AttentionShape& shape, const HeadView& q, const HeadView& k, const HeadView& v,
                  const RowVectors& rows, const HeadView& d_o, const HeadView& dq, const HeadView& dk,
                  const HeadView& dv) {
  const Shape s(shape);
  const float *lse2 = rows.lse2.data<float>(), *delta = rows.delta.data<float>();
  with_head_dim(shape.head_dim, [&](auto head_dim) {
    constexpr int D = head_dim, bytes = BackwardTiles<D>::shared_bytes, tile = BackwardTiles<D>::rows;
    const auto keys = [&](const Label& label, auto kernel, int shared_bytes, float* dq_sums) {
      check_shared(shared_bytes);
      launch(label, kernel, Grid(s.batch * (s.n_heads / s.group), ceil_div(s.tk, tile)), kThreads, shared_bytes, s,
             Heads<const bf>(q), Heads<const bf>(k), Heads<const bf>(v), Heads<const bf>(d_o), lse2, delta, rows.pitch,
             Heads<bf>(dk), Heads<bf>(dv), dq_sums);
    };
    if (shape.paths.fast_atomics) {
      const Tensor sums = dq_workspace(shape, q.owner->device());
      keys({"attention backward (mma, atomics)", work_of(shape, 5, 3, 4, 2)}, backward_kv_kernel<D, true>,
           bytes + BackwardTiles<D>::ds_bytes, sums.data<float>());
      return finish_dq(shape, sums, dq);
    }
    keys({"attention backward dk, dv (mma)", work_of(shape, 4, 2, 4, 2)}, backward_kv_kernel<D, false>, bytes, nullptr);
    launch({"attention backward dq (mma)", work_of(shape, 3, 3, 2, 2)}, backward_q_kernel<D>,
           Grid(s.batch * s.n_heads, ceil_div(s.tq, tile)), kThreads, bytes, s, Heads<const bf>(q), Heads<const bf>(k),
           Heads<const bf>(v), Heads<const bf>(d_o), lse2, delta, rows.pitch, Heads<bf>(dq));
  });
}

}  // namespace rw::cuda::attn
