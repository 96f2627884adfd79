// Attention on tensor cores through mma.sync: bf16, head dim a multiple of 16 up to 128, f32 sums (sm_80 and later).
//
// The formulas are in attention.cuh. Everything below is two products of a warp's tile,
//
//   dot_rows   acc[m][n] += sum_k A[m][k] B[n][k]     both operands stored as rows of the head dim: S, dP and their
//   transposes add_rows   acc[m][n] += sum_k W[m][k] B[k][n]     W in registers (P or dS just computed): O, dQ, dK, dV
//
// The accumulator of m16n8k16 has the layout of its A operand, so P goes from the first product into the second without
// leaving its thread. That is why the kernel for dK and dV computes S transposed, keys as rows: both its sums then take
// P^T and dS^T as the register operand. Tiles arrive by cp.async, one step ahead of their use; rows are padded by 16
// bytes, which makes their length an odd number of 16-byte chunks, so the 8 rows that ldmatrix reads at once lie in
// different banks.
#include <cmath>

#include "autograd/ops/attention.cuh"
#include "tensor/error.h"

namespace rw::cuda::attn {
namespace {

using bf = __nv_bfloat16;
constexpr int kWarps = 4, kThreads = 32 * kWarps;

__device__ unsigned shared_address(const void* p) { return static_cast<unsigned>(__cvta_generic_to_shared(p)); }

/// 16 bytes to shared memory; zeros if not `valid`.
__device__ void copy16(void* to, const void* from, bool valid) {
  asm volatile("cp.async.cg.shared.global [%0], [%1], 16, %2;" ::"r"(shared_address(to)), "l"(from), "r"(valid ? 16 : 0)
               : "memory");
}
__device__ void copies_commit() { asm volatile("cp.async.commit_group;" ::: "memory"); }
__device__ void copies_wait() { asm volatile("cp.async.wait_group 0;" ::: "memory"); }

__device__ void load4(unsigned (&r)[4], const bf* p) {
  asm volatile("ldmatrix.sync.aligned.m8n8.x4.shared.b16 {%0,%1,%2,%3}, [%4];"
               : "=r"(r[0]), "=r"(r[1]), "=r"(r[2]), "=r"(r[3])
               : "r"(shared_address(p))
               : "memory");
}
__device__ void load4_transposed(unsigned (&r)[4], const bf* p) {
  asm volatile("ldmatrix.sync.aligned.m8n8.x4.trans.shared.b16 {%0,%1,%2,%3}, [%4];"
               : "=r"(r[0]), "=r"(r[1]), "=r"(r[2]), "=r"(r[3])
               : "r"(shared_address(p))
               : "memory");
}
__device__ void mma(float (&c)[4], const unsigned (&a)[4], unsigned b0, unsigned b1) {
  asm volatile(
      "mma.sync.aligned.m16n8k16.row.col.f32.bf16.bf16.f32 {%0,%1,%2,%3}, {%4,%5,%6,%7}, {%8,%9}, {%0,%1,%2,%3};"
      : "+f"(c[0]), "+f"(c[1]), "+f"(c[2]), "+f"(c[3])
      : "r"(a[0]), "r"(a[1]), "r"(a[2]), "r"(a[3]), "r"(b0), "r"(b1));
}
__device__ unsigned pack(float low, float high) {
  const __nv_bfloat162 x = __floats2bfloat162_rn(low, high);
  return *reinterpret_cast<const unsigned*>(&x);
}
__device__ float exp2_fast(float x) {
  float y;
  asm("ex2.approx.ftz.f32 %0, %1;" : "=f"(y) : "f"(x));
  return y;
}

/// ROWS tokens of one head into rows of D + 8 elements; zeros beyond `end`.
template <int D, int ROWS>
__device__ void copy_tile(bf* tile, const bf* head, int64_t row_stride, int begin, int end) {
  constexpr int chunks = D / 8;
  for (int i = threadIdx.x; i < ROWS * chunks; i += kThreads) {
    const int r = i / chunks, c = i % chunks * 8, t = begin + r;
    copy16(tile + r * (D + 8) + c, head + (t < end ? t : 0) * row_stride + c, t < end);
  }
}

/// A warp's accumulators: MT x NT tiles of 16 x 8. In tile (i, j) a lane holds rows 16 i + lane/4 (+ 8 for elements 2,
/// 3) and columns 8 j + 2 (lane % 4) + (element & 1).
template <int MT, int NT>
struct Tile {
  float at[MT][NT][4];
  __device__ void zero() {
#pragma unroll
    for (int i = 0; i < MT; ++i)
#pragma unroll
      for (int j = 0; j < NT; ++j)
#pragma unroll
        for (int e = 0; e < 4; ++e) at[i][j][e] = 0.f;
  }
};

/// acc = A B^T: A has 16 MT rows at `a`, B has 8 NT rows at `b`, both of D elements with row length D + 8.
template <int D, int MT, int NT>
__device__ void dot_rows(Tile<MT, NT>& acc, const bf* a, const bf* b) {
  constexpr int LD = D + 8;
  const int lane = threadIdx.x % 32;
  const bf* pa = a + lane % 16 * LD + lane / 16 * 8;
  const bf* pb = b + (lane % 8 + lane / 16 * 8) * LD + lane / 8 % 2 * 8;
  acc.zero();
#pragma unroll
  for (int k = 0; k < D; k += 16) {
    unsigned x[MT][4];
#pragma unroll
    for (int i = 0; i < MT; ++i) load4(x[i], pa + i * 16 * LD + k);
#pragma unroll
    for (int j = 0; j < NT; j += 2) {
      unsigned y[4];
      load4(y, pb + j * 8 * LD + k);
#pragma unroll
      for (int i = 0; i < MT; ++i) {
        mma(acc.at[i][j], x[i], y[0], y[1]);
        mma(acc.at[i][j + 1], x[i], y[2], y[3]);
      }
    }
  }
}

/// acc += W B: W [16 MT, 8 KT] in registers, B has 8 KT rows of D elements at `b`.
template <int D, int MT, int KT>
__device__ void add_rows(Tile<MT, D / 8>& acc, const Tile<MT, KT>& w, const bf* b) {
  constexpr int LD = D + 8;
  const int lane = threadIdx.x % 32;
  const bf* pb = b + lane % 16 * LD + lane / 16 * 8;
#pragma unroll
  for (int k = 0; k < KT; k += 2) {
    unsigned x[MT][4];
#pragma unroll
    for (int i = 0; i < MT; ++i) {
      x[i][0] = pack(w.at[i][k][0], w.at[i][k][1]);
      x[i][1] = pack(w.at[i][k][2], w.at[i][k][3]);
      x[i][2] = pack(w.at[i][k + 1][0], w.at[i][k + 1][1]);
      x[i][3] = pack(w.at[i][k + 1][2], w.at[i][k + 1][3]);
    }
#pragma unroll
    for (int j = 0; j < D / 8; j += 2) {
      unsigned y[4];
      load4_transposed(y, pb + k * 8 * LD + j * 8);
#pragma unroll
      for (int i = 0; i < MT; ++i) {
        mma(acc.at[i][j], x[i], y[0], y[1]);
        mma(acc.at[i][j + 1], x[i], y[2], y[3]);
      }
    }
  }
}

/// Writes rows [first, first + 16 MT) of one head, each times its factor(i, upper half).
template <int MT, int NT, class Factor>
__device__ void write_rows(bf* head, int64_t row_stride, int first, int end, const Tile<MT, NT>& acc, Factor factor) {
  const int lane = threadIdx.x % 32;
#pragma unroll
  for (int i = 0; i < MT; ++i)
#pragma unroll
    for (int half = 0; half < 2; ++half) {
      const int t = first + 16 * i + 8 * half + lane / 4;
      if (t >= end) continue;
      const float f = factor(i, half);
      bf* row = head + t * row_stride + lane % 4 * 2;
#pragma unroll
      for (int j = 0; j < NT; ++j)
        *reinterpret_cast<unsigned*>(row + 8 * j) = pack(acc.at[i][j][2 * half] * f, acc.at[i][j][2 * half + 1] * f);
    }
}

__device__ float max4(float x) {  // over the 4 lanes of a row
  x = fmaxf(x, __shfl_xor_sync(~0u, x, 1));
  return fmaxf(x, __shfl_xor_sync(~0u, x, 2));
}
__device__ float sum4(float x) {
  x += __shfl_xor_sync(~0u, x, 1);
  return x + __shfl_xor_sync(~0u, x, 2);
}

constexpr int kForwardM = 128, kForwardN = 64;

/// O and lse of 128 queries of one head; a warp owns 32 of them. Scores stay unscaled: P = exp2(c S - c max S), c =
/// scale log2 e.
template <int D>
__global__ void __launch_bounds__(kThreads, 2)
    forward_kernel(Shape s, Heads<const bf> q, Heads<const bf> k, Heads<const bf> v, Heads<bf> o, float* lse) {
  constexpr int LD = D + 8, BM = kForwardM, BN = kForwardN, MT = BM / 16 / kWarps, NT = BN / 8;
  extern __shared__ __align__(16) bf shared[];
  bf* q_tile = shared;              // [BM][LD]
  bf* kv_tiles = shared + BM * LD;  // two stages of K [BN][LD], V [BN][LD]
  const int bh = blockIdx.x, b = bh / s.n_heads, h = bh % s.n_heads, lane = threadIdx.x % 32, warp = threadIdx.x / 32;
  const int q0 = (gridDim.y - 1 - blockIdx.y) * BM;  // the longest rows first: their blocks would finish last
  const int keys = s.keys_until(min(q0 + BM, s.tq));
  const bf *k_head = k.head(b, h / s.group, D), *v_head = v.head(b, h / s.group, D);

  copy_tile<D, BM>(q_tile, q.head(b, h, D), q.row, q0, s.tq);
  copy_tile<D, BN>(kv_tiles, k_head, k.row, 0, s.tk);
  copy_tile<D, BN>(kv_tiles + BN * LD, v_head, v.row, 0, s.tk);
  copies_commit();

  Tile<MT, D / 8> acc;
  acc.zero();
  float m[MT][2], l[MT][2];
#pragma unroll
  for (int i = 0; i < MT; ++i) m[i][0] = m[i][1] = -INFINITY, l[i][0] = l[i][1] = 0.f;
  const float c = s.scale * kLog2e;
  const int first = q0 + warp * 16 * MT;  // this warp's first query

  for (int k0 = 0, stage = 0; k0 < keys; k0 += BN, stage ^= 1) {
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
    if (s.needs_mask(first, k0 + BN)) {
#pragma unroll
      for (int i = 0; i < MT; ++i)
#pragma unroll
        for (int j = 0; j < NT; ++j)
#pragma unroll
          for (int e = 0; e < 4; ++e)
            if (s.masked(first + 16 * i + lane / 4 + e / 2 * 8, k0 + 8 * j + lane % 4 * 2 + e % 2))
              p.at[i][j][e] = -INFINITY;
    }
#pragma unroll
    for (int i = 0; i < MT; ++i)
#pragma unroll
      for (int half = 0; half < 2; ++half) {
        float top = m[i][half];
#pragma unroll
        for (int j = 0; j < NT; ++j) top = fmaxf(top, fmaxf(p.at[i][j][2 * half], p.at[i][j][2 * half + 1]));
        top = max4(top);  // finite from the first tile on: every query sees key 0
        const float shrink = exp2_fast((m[i][half] - top) * c);
        float top_c = top * c;
        if (fabsf(top_c) > kHugeScore) {
#pragma unroll
          for (int j = 0; j < NT; ++j) p.at[i][j][2 * half] -= top, p.at[i][j][2 * half + 1] -= top;
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
      if (lse && lane % 4 == 0 && t < s.tq) lse[int64_t(bh) * s.tq + t] = m[i][half] * s.scale + kLn2 * log2f(total);
      l[i][half] = 1.f / total;
    }
  write_rows(o.head(b, h, D), o.row, first, s.tq, acc, [&](int i, int half) { return l[i][half]; });
}

/// P = exp2(c S - lse2), in place of S. Rounding can leave the exponent above 0 at huge scores; P never exceeds 1.
__device__ float probability(float score, float c, float lse2) { return exp2_fast(fminf(fmaf(score, c, -lse2), 0.f)); }

/// Rows a warp owns and the length of the walked tile, by head dim: what fits in 255 registers.
template <int D>
struct BackwardTiles {
  static constexpr int MT = D <= 64 ? 2 : 1;        // 16-row tiles per warp
  static constexpr int rows = 16 * MT * kWarps;     // 128 or 64 rows per block
  static constexpr int walked = D <= 64 ? 32 : 64;  // rows per step
  static constexpr int shared_bytes = 2 * (D + 8) * (2 * rows + 2 * 2 * walked);
};

/// dK and dV of a block's keys, over the queries of every head of the group. Scores are transposed: rows are keys.
template <int D>
__global__ void __launch_bounds__(kThreads, 2)
    backward_kv_kernel(Shape s, Heads<const bf> q, Heads<const bf> k, Heads<const bf> v, Heads<const bf> d_o,
                       const float* lse2, const float* delta, int pitch, Heads<bf> dk, Heads<bf> dv) {
  using Sizes = BackwardTiles<D>;
  constexpr int LD = D + 8, BN = Sizes::rows, BM = Sizes::walked, MT = Sizes::MT, NT = BM / 8;
  extern __shared__ __align__(16) bf shared[];
  bf* k_tile = shared;            // [BN][LD]
  bf* v_tile = shared + BN * LD;  // [BN][LD]
  bf* stages = v_tile + BN * LD;  // two stages of Q [BM][LD], dO [BM][LD]
  const int kv_heads = s.n_heads / s.group, b = blockIdx.x / kv_heads, kv = blockIdx.x % kv_heads;
  const int lane = threadIdx.x % 32, warp = threadIdx.x / 32, k0 = blockIdx.y * BN, first = k0 + warp * 16 * MT;
  const int begin = s.first_query(k0) / BM * BM;

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
  const float c = s.scale * kLog2e;
  int h = kv * s.group, q0 = begin;
  for (int stage = 0; h < (kv + 1) * s.group; stage ^= 1) {
    const bf *q_tile = stages + stage * 2 * BM * LD, *do_tile = q_tile + BM * LD;
    const int next_q0 = q0 + BM < s.tq ? q0 + BM : begin, next_h = q0 + BM < s.tq ? h : h + 1;
    copies_wait();
    __syncthreads();
    if (next_h < (kv + 1) * s.group) copy_stage(stage ^ 1, next_h, next_q0);

    const int64_t row = (int64_t(b) * s.n_heads + h) * pitch + q0 + lane % 4 * 2;
    Tile<MT, NT> p, ds;
    dot_rows<D>(p, k_tile + warp * 16 * MT * LD, q_tile);
    const bool mask = s.needs_mask(q0, first + 16 * MT);
#pragma unroll
    for (int j = 0; j < NT; ++j) {
      const float2 l = *reinterpret_cast<const float2*>(lse2 + row + 8 * j);
#pragma unroll
      for (int i = 0; i < MT; ++i)
#pragma unroll
        for (int e = 0; e < 4; ++e) {
          p.at[i][j][e] = probability(p.at[i][j][e], c, e % 2 ? l.y : l.x);
          if (mask && s.masked(q0 + 8 * j + lane % 4 * 2 + e % 2, first + 16 * i + lane / 4 + e / 2 * 8))
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
    }
    add_rows<D>(dk_acc, ds, q_tile);
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
  const int keys = s.keys_until(min(q0 + BM, s.tq));

  const auto copy_stage = [&](int stage, int k0) {
    bf* to = stages + stage * 2 * BN * LD;
    copy_tile<D, BN>(to, k.head(b, h / s.group, D), k.row, k0, s.tk);
    copy_tile<D, BN>(to + BN * LD, v.head(b, h / s.group, D), v.row, k0, s.tk);
    copies_commit();
  };
  copy_tile<D, BM>(q_tile, q.head(b, h, D), q.row, q0, s.tq);
  copy_tile<D, BM>(do_tile, d_o.head(b, h, D), d_o.row, q0, s.tq);
  copy_stage(0, 0);

  Tile<MT, D / 8> acc;
  acc.zero();
  const float c = s.scale * kLog2e;
  float l[MT][2], dl[MT][2];
#pragma unroll
  for (int i = 0; i < MT; ++i)
#pragma unroll
    for (int half = 0; half < 2; ++half) {
      const int64_t row = int64_t(bh) * pitch + first + 16 * i + 8 * half + lane / 4;
      l[i][half] = lse2[row];
      dl[i][half] = delta[row];
    }
  for (int k0 = 0, stage = 0; k0 < keys; k0 += BN, stage ^= 1) {
    const bf *k_tile = stages + stage * 2 * BN * LD, *v_tile = k_tile + BN * LD;
    copies_wait();
    __syncthreads();
    if (k0 + BN < keys) copy_stage(stage ^ 1, k0 + BN);
    Tile<MT, NT> p, ds;
    dot_rows<D>(p, q_tile + warp * 16 * MT * LD, k_tile);
    dot_rows<D>(ds, do_tile + warp * 16 * MT * LD, v_tile);
    const bool mask = s.needs_mask(first, k0 + BN);
#pragma unroll
    for (int i = 0; i < MT; ++i)
#pragma unroll
      for (int j = 0; j < NT; ++j)
#pragma unroll
        for (int e = 0; e < 4; ++e) {
          const float x = probability(p.at[i][j][e], c, l[i][e / 2]);
          const bool hidden =
              mask && s.masked(first + 16 * i + lane / 4 + e / 2 * 8, k0 + 8 * j + lane % 4 * 2 + e % 2);
          ds.at[i][j][e] = hidden ? 0.f : x * (ds.at[i][j][e] - dl[i][e / 2]);
        }
    add_rows<D>(acc, ds, k_tile);
  }
  write_rows(dq.head(b, h, D), dq.row, first, s.tq, acc, [&](int, int) { return s.scale; });
}

/// Calls f(integral_constant<int, D>) for the head dims that this file is compiled for.
template <class F>
bool with_head_dim(int64_t d, F&& f) {
  switch (d) {
    case 16:
      f(std::integral_constant<int, 16>{});
      return true;
    case 32:
      f(std::integral_constant<int, 32>{});
      return true;
    case 48:
      f(std::integral_constant<int, 48>{});
      return true;
    case 64:
      f(std::integral_constant<int, 64>{});
      return true;
    case 80:
      f(std::integral_constant<int, 80>{});
      return true;
    case 96:
      f(std::integral_constant<int, 96>{});
      return true;
    case 128:
      f(std::integral_constant<int, 128>{});
      return true;
    default:
      return false;
  }
}

}  // namespace

bool mma_takes(const AttentionShape& s, std::initializer_list<const HeadView*> views) {
  if (s.scale <= 0 || !with_head_dim(s.head_dim, [](auto) {}))
    return false;  // the maximum of S is that of scale S only if scale > 0
  if (s.q_length > 65535 * 64 || s.k_length > 65535 * 64) return false;  // grid limits
  for (const HeadView* v : views)
    if (v->owner->dtype() != DType::bf16 || reinterpret_cast<uintptr_t>(v->data) % 16 != 0 || v->row % 8 != 0 ||
        v->batch % 8 != 0)
      return false;
  return true;
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

/// 14 B H Tq Tk D FLOPs (half if causal).
void mma_backward(const AttentionShape& shape, const HeadView& q, const HeadView& k, const HeadView& v,
                  const RowVectors& rows, const HeadView& d_o, const HeadView& dq, const HeadView& dk,
                  const HeadView& dv) {
  const Shape s(shape);
  const float *lse2 = rows.lse2.data<float>(), *delta = rows.delta.data<float>();
  with_head_dim(shape.head_dim, [&](auto head_dim) {
    constexpr int D = head_dim, bytes = BackwardTiles<D>::shared_bytes, tile = BackwardTiles<D>::rows;
    check_shared(bytes);
    launch({"attention backward dk, dv (mma)", work_of(shape, 4, 2, 4, 2)}, backward_kv_kernel<D>,
           Grid(s.batch * (s.n_heads / s.group), ceil_div(s.tk, tile)), kThreads, bytes, s, Heads<const bf>(q),
           Heads<const bf>(k), Heads<const bf>(v), Heads<const bf>(d_o), lse2, delta, rows.pitch, Heads<bf>(dk),
           Heads<bf>(dv));
    launch({"attention backward dq (mma)", work_of(shape, 3, 3, 2, 2)}, backward_q_kernel<D>,
           Grid(s.batch * s.n_heads, ceil_div(s.tq, tile)), kThreads, bytes, s, Heads<const bf>(q), Heads<const bf>(k),
           Heads<const bf>(v), Heads<const bf>(d_o), lse2, delta, rows.pitch, Heads<bf>(dq));
  });
}

}  // namespace rw::cuda::attn
