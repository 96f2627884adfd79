// Attention forward on tensor cores through mma.sync; attention_mma.cuh has the two products it is made of.
#include <cmath>

#include "autograd/ops/attention_mma.cuh"
#include "tensor/error.h"

namespace rw::cuda::attn {

using namespace mma_sync;

namespace {

constexpr int kForwardM = 128, kForwardN = 64;

/// O and lse of 128 queries of one head; a warp owns 32 of them. Scores stay unscaled: P = exp2(c S - c max S), c =
/// scale log2 e. Tiles of keys before the window are not visited.
template <int D>
__global__ void __launch_bounds__(kThreads, 2)
    forward_kernel(Shape s, Heads<const bf> q, Heads<const bf> k, Heads<const bf> v, Heads<bf> o, float* lse) {
  constexpr int LD = D + 8, BM = kForwardM, BN = kForwardN, MT = BM / 16 / kWarps, NT = BN / 8;
  extern __shared__ __align__(16) bf shared[];
  bf* q_tile = shared;              // [BM][LD]
  bf* kv_tiles = shared + BM * LD;  // two stages of K [BN][LD], V [BN][LD]
  const int bh = blockIdx.x, b = bh / s.n_heads, h = bh % s.n_heads, lane = threadIdx.x % 32, warp = threadIdx.x / 32;
  const int q0 = (gridDim.y - 1 - blockIdx.y) * BM;  // the longest rows first: their blocks would finish last
  const int keys = s.keys_until(min(q0 + BM, s.tq)), first_key = s.first_key(q0) / BN * BN;
  const bf *k_head = k.head(b, h / s.group, D), *v_head = v.head(b, h / s.group, D);

  copy_tile<D, BM>(q_tile, q.head(b, h, D), q.row, q0, s.tq);
  copy_tile<D, BN>(kv_tiles, k_head, k.row, first_key, s.tk);
  copy_tile<D, BN>(kv_tiles + BN * LD, v_head, v.row, first_key, s.tk);
  copies_commit();

  Tile<MT, D / 8> acc;
  acc.zero();
  float m[MT][2], l[MT][2];
#pragma unroll
  for (int i = 0; i < MT; ++i) m[i][0] = m[i][1] = -INFINITY, l[i][0] = l[i][1] = 0.f;
  const Scores scores(s);
  const float c = scores.factor;
  const int first = q0 + warp * 16 * MT;  // this warp's first query

  for (int k0 = first_key, stage = 0; k0 < keys; k0 += BN, stage ^= 1) {
    const bf* k_tile = kv_tiles + stage * 2 * BN * LD;
    copies_wait();
    __syncthreads();
    if (k0 + BN < keys) {
      bf* next = kv_tiles + (stage ^ 1) * 2 * BN * LD;
      copy_tile<D, BN>(next, k_head, k.row, k0 + BN, s.tk);
      copy_tile<D, BN>(next + BN * LD, v_head, v.row, k0 + BN, s.tk);
      copies_commit();
    }
    Tile<MT, NT> p;
    dot_rows<D>(p, q_tile + warp * 16 * MT * LD, k_tile);
    if (scores.capped()) cap_scores(p, scores);
    if (s.needs_hiding(first, first + 16 * MT, k0, k0 + BN)) {
#pragma unroll
      for (int i = 0; i < MT; ++i)
#pragma unroll
        for (int j = 0; j < NT; ++j)
#pragma unroll
          for (int e = 0; e < 4; ++e)
            if (s.hidden(first + 16 * i + lane / 4 + e / 2 * 8, k0 + 8 * j + lane % 4 * 2 + e % 2))
              p.at[i][j][e] = -INFINITY;
    }
#pragma unroll
    for (int i = 0; i < MT; ++i)
#pragma unroll
      for (int half = 0; half < 2; ++half) {
        float top = m[i][half];
#pragma unroll
        for (int j = 0; j < NT; ++j) top = fmaxf(top, fmaxf(p.at[i][j][2 * half], p.at[i][j][2 * half + 1]));
        top = max4(top);
        const float base = top == -INFINITY ? 0.f : top;  // with a window a row may not have seen a key yet
        const float shrink = exp2_fast((m[i][half] - base) * c);
        float top_c = base * c;
        if (fabsf(top_c) > kHugeScore) {
#pragma unroll
          for (int j = 0; j < NT; ++j) p.at[i][j][2 * half] -= base, p.at[i][j][2 * half + 1] -= base;
          top_c = 0.f;
        }
        m[i][half] = top;
        float sum = 0.f;
#pragma unroll
        for (int j = 0; j < NT; ++j)
#pragma unroll
          for (int e = 2 * half; e < 2 * half + 2; ++e) {
            p.at[i][j][e] = exp2_fast(fmaf(p.at[i][j][e], c, -top_c));
            sum += p.at[i][j][e];
          }
        l[i][half] = l[i][half] * shrink + sum;  // the other 3 lanes' parts join at the end
#pragma unroll
        for (int j = 0; j < D / 8; ++j) acc.at[i][j][2 * half] *= shrink, acc.at[i][j][2 * half + 1] *= shrink;
      }
    add_rows<D>(acc, p, k_tile + BN * LD);
  }
#pragma unroll
  for (int i = 0; i < MT; ++i)
#pragma unroll
    for (int half = 0; half < 2; ++half) {
      const float total = sum4(l[i][half]);
      const int t = first + 16 * i + 8 * half + lane / 4;
      if (lse && lane % 4 == 0 && t < s.tq)
        lse[int64_t(bh) * s.tq + t] = m[i][half] * scores.natural + kLn2 * log2f(total);
      l[i][half] = 1.f / total;
    }
  write_rows(o.head(b, h, D), o.row, first, s.tq, acc, [&](int i, int half) { return l[i][half]; });
}

}  // namespace

bool mma_has(int64_t head_dim) {
  return with_head_dim(head_dim, [](auto) {});
}

bool mma_takes(const AttentionShape& s, std::initializer_list<const HeadView*> views) {
  if (s.scale <= 0 || !mma_has(s.head_dim)) return false;  // the maximum of S is that of scale S only if scale > 0
  if (s.q_length > 65535 * 64 || s.k_length > 65535 * 64) return false;  // grid limits
  return bf16_by_eights(views);
}

/// 4 B H Tq Tk D FLOPs (half if causal); K and V are read once per 128 queries, mostly from L2.
void mma_forward(const AttentionShape& shape, const HeadView& q, const HeadView& k, const HeadView& v,
                 const HeadView& o, float* lse) {
  const Shape s(shape);
  with_head_dim(shape.head_dim, [&](auto head_dim) {
    constexpr int D = head_dim, bytes = 2 * (D + 8) * (kForwardM + 4 * kForwardN);
    check_shared(bytes);
    launch({"attention forward (mma)", work_of(shape, 2, 2, 2, 2)}, forward_kernel<D>,
           Grid(s.batch * s.n_heads, ceil_div(s.tq, kForwardM)), kThreads, bytes, s, Heads<const bf>(q),
           Heads<const bf>(k), Heads<const bf>(v), Heads<bf>(o), lse);
  });
}

}  // namespace rw::cuda::attn
