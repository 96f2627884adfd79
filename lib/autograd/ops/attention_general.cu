// Attention on the GPU: the general path.
//
// It takes f32 and bf16, any head dim up to 256 and any length. It is the one to read first: attention.cuh has the
// formulas, and each kernel below is a loop over 32 x 32 tiles in shared memory with f32 FMA. A block has 16 x 16
// threads; thread (ty, tx) owns rows ty, ty + 16 of the tile and columns tx, tx + 16 of the scores or 4 tx .. 4 tx + 3
// (+ 64 n) of the head dim. Sums run in a fixed order, so a second run gives the same bits, unless fast_atomics
// gives that up for dQ.
#include <cmath>

#include "autograd/ops/atomic_add.cuh"
#include "autograd/ops/attention.cuh"
#include "tensor/error.h"

namespace rw::cuda::attn {
namespace {

constexpr int kThreads = 256;

/// Row length of a tile in floats: the head dim in whole 8s plus 4, so that rows
/// start in different banks for float4 reads.
__host__ __device__ constexpr int padded(int head_dim) { return (head_dim + 7) / 8 * 8 + 4; }

/// tile[r][d] <- token `begin + r` of one head, as f32; 0 beyond `end` and beyond the head dim.
template <class T>
__device__ void load_tile(float* tile, int rows, const T* head, int64_t row_stride, int begin, int end, int head_dim) {
  const int ld = padded(head_dim);
  for (int i = threadIdx.x; i < rows * ld; i += kThreads) {
    const int r = i / ld, d = i % ld;
    tile[i] = begin + r < end && d < head_dim ? to_float(head[(begin + r) * row_stride + d]) : 0.f;
  }
}

/// out[i][j] = a[ty + 16 i] . b[tx + 16 j], rows of two tiles.
template <int RA, int RB>
__device__ void dot_rows(float (&out)[RA][RB], const float* a, const float* b, int ld, int ty, int tx) {
  for (int i = 0; i < RA; ++i)
    for (int j = 0; j < RB; ++j) out[i][j] = 0.f;
  for (int d = 0; d < ld - 4; d += 4) {
    float4 x[RA], y[RB];
#pragma unroll
    for (int i = 0; i < RA; ++i) x[i] = *reinterpret_cast<const float4*>(a + (ty + 16 * i) * ld + d);
#pragma unroll
    for (int j = 0; j < RB; ++j) y[j] = *reinterpret_cast<const float4*>(b + (tx + 16 * j) * ld + d);
#pragma unroll
    for (int i = 0; i < RA; ++i)
#pragma unroll
      for (int j = 0; j < RB; ++j) {
        out[i][j] = fmaf(x[i].x, y[j].x, out[i][j]);
        out[i][j] = fmaf(x[i].y, y[j].y, out[i][j]);
        out[i][j] = fmaf(x[i].z, y[j].z, out[i][j]);
        out[i][j] = fmaf(x[i].w, y[j].w, out[i][j]);
      }
  }
}

/// acc[i][n] += sum_k weight(row ty + 16 i, k) tile[k][4 tx + 64 n ..], weight(r, k) = w[r * w_row + k * w_col]
template <int R, int N>
__device__ void add_rows(float4 (&acc)[R][N], const float* w, int w_row, int w_col, const float* tile, int ld,
                         int count, int ty, int tx) {
  for (int k = 0; k < count; ++k) {
    float weight[R];
#pragma unroll
    for (int i = 0; i < R; ++i) weight[i] = w[(ty + 16 * i) * w_row + k * w_col];
#pragma unroll
    for (int n = 0; n < N; ++n) {
      const int c = 4 * tx + 64 * n;
      if (c >= ld - 4) continue;
      const float4 x = *reinterpret_cast<const float4*>(tile + k * ld + c);
#pragma unroll
      for (int i = 0; i < R; ++i) {
        acc[i][n].x = fmaf(weight[i], x.x, acc[i][n].x);
        acc[i][n].y = fmaf(weight[i], x.y, acc[i][n].y);
        acc[i][n].z = fmaf(weight[i], x.z, acc[i][n].z);
        acc[i][n].w = fmaf(weight[i], x.w, acc[i][n].w);
      }
    }
  }
}

/// The same with the tile's own sum made first: sums over thousands of tokens in two levels keep their last digits.
template <int R, int N>
__device__ void add_tile(float4 (&acc)[R][N], const float* w, int w_row, int w_col, const float* tile, int ld,
                         int count, int ty, int tx) {
  float4 part[R][N] = {};
  add_rows(part, w, w_row, w_col, tile, ld, count, ty, tx);
#pragma unroll
  for (int i = 0; i < R; ++i) {
#pragma unroll
    for (int n = 0; n < N; ++n) {
      acc[i][n].x += part[i][n].x;
      acc[i][n].y += part[i][n].y;
      acc[i][n].z += part[i][n].z;
      acc[i][n].w += part[i][n].w;
    }
  }
}

template <int R, int N>
__device__ void scale_row(float4 (&acc)[R][N], int i, float factor) {
#pragma unroll
  for (int n = 0; n < N; ++n) {
    acc[i][n].x *= factor;
    acc[i][n].y *= factor;
    acc[i][n].z *= factor;
    acc[i][n].w *= factor;
  }
}

template <class T, int R, int N>
__device__ void write_rows(T* head, int64_t row_stride, int begin, int end, int head_dim, const float4 (&acc)[R][N],
                           int ty, int tx) {
#pragma unroll
  for (int i = 0; i < R; ++i) {
    const int t = begin + ty + 16 * i;
    if (t >= end) continue;
#pragma unroll
    for (int n = 0; n < N; ++n) {
      const float x[4] = {acc[i][n].x, acc[i][n].y, acc[i][n].z, acc[i][n].w};
#pragma unroll
      for (int e = 0; e < 4; ++e) {
        const int c = 4 * tx + 64 * n + e;
        if (c < head_dim) head[t * row_stride + c] = from_float<T>(x[e]);
      }
    }
  }
}

/// Adds rows [begin, end) of one head to f32 rows of `head_dim`, in no fixed order.
template <int R, int N>
__device__ void add_to_rows(float* head, int begin, int end, int head_dim, const float4 (&acc)[R][N], int ty, int tx) {
#pragma unroll
  for (int i = 0; i < R; ++i) {
    const int t = begin + ty + 16 * i;
    if (t >= end) continue;
#pragma unroll
    for (int n = 0; n < N; ++n) {
      const int c = 4 * tx + 64 * n;
      const Vec<float, 4> x{acc[i][n].x, acc[i][n].y, acc[i][n].z, acc[i][n].w};
      float* to = head + static_cast<int64_t>(t) * head_dim + c;
      if (head_dim % 4 == 0) {
        if (c < head_dim) atomic_add(to, x);
      } else {
        for (int e = 0; e < 4; ++e)
          if (c + e < head_dim) atomicAdd(to + e, x.at[e]);
      }
    }
  }
}

/// Over the 16 threads of one ty.
__device__ float max16(float x) {
  for (int s = 8; s > 0; s /= 2) x = fmaxf(x, __shfl_xor_sync(~0u, x, s));
  return x;
}
__device__ float sum16(float x) {
  for (int s = 8; s > 0; s /= 2) x += __shfl_xor_sync(~0u, x, s);
  return x;
}

/// A score from the product of its rows, and the soft cap's slope there: 1 - tanh^2, or 1 without a cap.
struct Score {
  float value, slope;
};
__device__ Score score_of(const Shape& s, float product) {
  if (s.cap <= 0) return {product * s.scale, 1.f};
  const float t = tanhf(product * (s.scale / s.cap));
  return {s.cap * t, (1.f - t) * (1.f + t)};
}

/// O and lse of BM queries of one head, by the online softmax over tiles of BN keys: with m the largest score so far
/// and l the sum of exp(S - m), a tile that raises m to m' first shrinks l and O by exp(m - m').
template <class T, int DMAX, int BM, int BN>
__global__ void __launch_bounds__(kThreads)
    forward_kernel(Shape s, Heads<const T> q, Heads<const T> k, Heads<const T> v, Heads<T> o, float* lse) {
  extern __shared__ float4 shared[];
  const int ld = padded(s.head_dim), tx = threadIdx.x % 16, ty = threadIdx.x / 16;
  float* q_tile = reinterpret_cast<float*>(shared);  // [BM][ld]
  float* k_tile = q_tile + BM * ld;                  // [BN][ld]
  float* v_tile = k_tile + BN * ld;                  // [BN][ld]
  float* p_tile = v_tile + BN * ld;                  // [BM][BN + 1]
  constexpr int RM = BM / 16, RN = BN / 16, N = DMAX / 64;

  const int q0 = (gridDim.x - 1 - blockIdx.x) * BM, h = blockIdx.y, b = blockIdx.z;
  load_tile(q_tile, BM, q.head(b, h, s.head_dim), q.row, q0, s.tq, s.head_dim);

  float4 acc[RM][N] = {};
  float m[RM], l[RM];
  for (int i = 0; i < RM; ++i) m[i] = -INFINITY, l[i] = 0.f;

  const int keys = s.keys_until(min(q0 + BM, s.tq));
  for (int k0 = s.first_key(q0) / BN * BN; k0 < keys; k0 += BN) {
    __syncthreads();
    load_tile(k_tile, BN, k.head(b, h / s.group, s.head_dim), k.row, k0, s.tk, s.head_dim);
    load_tile(v_tile, BN, v.head(b, h / s.group, s.head_dim), v.row, k0, s.tk, s.head_dim);
    __syncthreads();
    float x[RM][RN];
    dot_rows(x, q_tile, k_tile, ld, ty, tx);
#pragma unroll
    for (int i = 0; i < RM; ++i) {
      const int query = q0 + ty + 16 * i;
      float top = m[i];
#pragma unroll
      for (int j = 0; j < RN; ++j) {
        x[i][j] = s.hidden(query, k0 + tx + 16 * j) ? -INFINITY : score_of(s, x[i][j]).value;
        top = fmaxf(top, x[i][j]);
      }
      top = max16(top);
      const float base = top == -INFINITY ? 0.f : top;  // with a window a row may not have seen a key yet
      const float shrink = expf(m[i] - base);
      float sum = 0.f;
#pragma unroll
      for (int j = 0; j < RN; ++j) {
        const float p = expf(x[i][j] - base);
        p_tile[(ty + 16 * i) * (BN + 1) + tx + 16 * j] = p;
        sum += p;
      }
      l[i] = l[i] * shrink + sum16(sum);
      m[i] = top;
      scale_row(acc, i, shrink);
    }
    __syncthreads();
    add_rows(acc, p_tile, BN + 1, 1, v_tile, ld, BN, ty, tx);
  }
#pragma unroll
  for (int i = 0; i < RM; ++i) {
    scale_row(acc, i, 1.f / l[i]);
    const int query = q0 + ty + 16 * i;
    if (lse && tx == 0 && query < s.tq) lse[(int64_t(b) * s.n_heads + h) * s.tq + query] = m[i] + logf(l[i]);
  }
  write_rows(o.head(b, h, s.head_dim), o.row, q0, s.tq, s.head_dim, acc, ty, tx);
}

/// P and dS = P (dP - delta) (1 - tanh^2) of one tile, left in shared memory for the
/// products that sum over one of their sides.
template <int BM, int BN>
__device__ void backward_tile(const Shape& s, const float* q_tile, const float* k_tile, const float* v_tile,
                              const float* do_tile, const float* lse, const float* delta, int q0, int k0, float* p_tile,
                              float* ds_tile, int ty, int tx) {
  constexpr int RM = BM / 16, RN = BN / 16;
  const int ld = padded(s.head_dim);
  float x[RM][RN], dp[RM][RN];
  dot_rows(x, q_tile, k_tile, ld, ty, tx);
  dot_rows(dp, do_tile, v_tile, ld, ty, tx);
#pragma unroll
  for (int i = 0; i < RM; ++i) {
    const int query = q0 + ty + 16 * i;
    const float row_lse = query < s.tq ? lse[query] : INFINITY, row_delta = query < s.tq ? delta[query] : 0.f;
#pragma unroll
    for (int j = 0; j < RN; ++j) {
      // At huge scores the rounding of lse can leave S - lse above 0; P never exceeds 1.
      const Score score = score_of(s, x[i][j]);
      const float p = s.hidden(query, k0 + tx + 16 * j) ? 0.f : expf(fminf(score.value - row_lse, 0.f));
      const int at = (ty + 16 * i) * (BN + 1) + tx + 16 * j;
      p_tile[at] = p;
      ds_tile[at] = p * (dp[i][j] - row_delta) * score.slope;
    }
  }
}

/// dK and dV of BN keys of one kv head, summed over the queries of the heads of its group in order. with_dq: also adds
/// what these keys give to dQ / scale to dq_sums [B*H,Tq,D].
template <class T, int DMAX, int BM, int BN, bool with_dq>
__global__ void __launch_bounds__(kThreads)
    backward_kv_kernel(Shape s, Heads<const T> q, Heads<const T> k, Heads<const T> v, Heads<const T> d_o,
                       const float* lse, const float* delta, int delta_pitch, Heads<T> dk, Heads<T> dv,
                       float* dq_sums) {
  extern __shared__ float4 shared[];
  const int ld = padded(s.head_dim), tx = threadIdx.x % 16, ty = threadIdx.x / 16;
  float* k_tile = reinterpret_cast<float*>(shared);  // [BN][ld]
  float* v_tile = k_tile + BN * ld;
  float* q_tile = v_tile + BN * ld;  // [BM][ld]
  float* do_tile = q_tile + BM * ld;
  float* p_tile = do_tile + BM * ld;  // [BM][BN + 1]
  float* ds_tile = p_tile + BM * (BN + 1);
  constexpr int RN = BN / 16, N = DMAX / 64;

  const int k0 = blockIdx.x * BN, kv = blockIdx.y, b = blockIdx.z;
  load_tile(k_tile, BN, k.head(b, kv, s.head_dim), k.row, k0, s.tk, s.head_dim);
  load_tile(v_tile, BN, v.head(b, kv, s.head_dim), v.row, k0, s.tk, s.head_dim);
  float4 dk_acc[RN][N] = {}, dv_acc[RN][N] = {};
  for (int h = kv * s.group; h < (kv + 1) * s.group; ++h) {
    const int64_t bh = int64_t(b) * s.n_heads + h;
    for (int q0 = s.first_query(k0) / BM * BM; q0 < s.queries_until(min(k0 + BN, s.tk)); q0 += BM) {
      __syncthreads();
      load_tile(q_tile, BM, q.head(b, h, s.head_dim), q.row, q0, s.tq, s.head_dim);
      load_tile(do_tile, BM, d_o.head(b, h, s.head_dim), d_o.row, q0, s.tq, s.head_dim);
      __syncthreads();
      backward_tile<BM, BN>(s, q_tile, k_tile, v_tile, do_tile, lse + bh * s.tq, delta + bh * delta_pitch, q0, k0,
                            p_tile, ds_tile, ty, tx);
      __syncthreads();
      add_tile(dv_acc, p_tile, 1, BN + 1, do_tile, ld, BM, ty, tx);
      add_tile(dk_acc, ds_tile, 1, BN + 1, q_tile, ld, BM, ty, tx);
      if constexpr (with_dq) {
        float4 dq_part[BM / 16][N] = {};
        add_rows(dq_part, ds_tile, BN + 1, 1, k_tile, ld, BN, ty, tx);
        add_to_rows(dq_sums + bh * s.tq * s.head_dim, q0, s.tq, s.head_dim, dq_part, ty, tx);
      }
    }
  }
  for (int i = 0; i < RN; ++i) scale_row(dk_acc, i, s.scale);
  write_rows(dk.head(b, kv, s.head_dim), dk.row, k0, s.tk, s.head_dim, dk_acc, ty, tx);
  write_rows(dv.head(b, kv, s.head_dim), dv.row, k0, s.tk, s.head_dim, dv_acc, ty, tx);
}

/// dQ of BM queries of one head.
template <class T, int DMAX, int BM, int BN>
__global__ void __launch_bounds__(kThreads)
    backward_q_kernel(Shape s, Heads<const T> q, Heads<const T> k, Heads<const T> v, Heads<const T> d_o,
                      const float* lse, const float* delta, int delta_pitch, Heads<T> dq) {
  extern __shared__ float4 shared[];
  const int ld = padded(s.head_dim), tx = threadIdx.x % 16, ty = threadIdx.x / 16;
  float* k_tile = reinterpret_cast<float*>(shared);
  float* v_tile = k_tile + BN * ld;
  float* q_tile = v_tile + BN * ld;
  float* do_tile = q_tile + BM * ld;
  float* p_tile = do_tile + BM * ld;
  float* ds_tile = p_tile + BM * (BN + 1);
  constexpr int RM = BM / 16, N = DMAX / 64;

  const int q0 = (gridDim.x - 1 - blockIdx.x) * BM, h = blockIdx.y, b = blockIdx.z;
  const int64_t bh = int64_t(b) * s.n_heads + h;
  load_tile(q_tile, BM, q.head(b, h, s.head_dim), q.row, q0, s.tq, s.head_dim);
  load_tile(do_tile, BM, d_o.head(b, h, s.head_dim), d_o.row, q0, s.tq, s.head_dim);
  float4 acc[RM][N] = {};
  const int keys = s.keys_until(min(q0 + BM, s.tq));
  for (int k0 = s.first_key(q0) / BN * BN; k0 < keys; k0 += BN) {
    __syncthreads();
    load_tile(k_tile, BN, k.head(b, h / s.group, s.head_dim), k.row, k0, s.tk, s.head_dim);
    load_tile(v_tile, BN, v.head(b, h / s.group, s.head_dim), v.row, k0, s.tk, s.head_dim);
    __syncthreads();
    backward_tile<BM, BN>(s, q_tile, k_tile, v_tile, do_tile, lse + bh * s.tq, delta + bh * delta_pitch, q0, k0, p_tile,
                          ds_tile, ty, tx);
    __syncthreads();
    add_tile(acc, ds_tile, BN + 1, 1, k_tile, ld, BN, ty, tx);
  }
  for (int i = 0; i < RM; ++i) scale_row(acc, i, s.scale);
  write_rows(dq.head(b, h, s.head_dim), dq.row, q0, s.tq, s.head_dim, acc, ty, tx);
}

/// 4 B H Tq Tk D FLOPs (half if causal) on the FMA units; reads K and V once per tile of queries.
template <class T, int DMAX, int BM, int BN>
void launch_forward(const AttentionShape& shape, const HeadView& q, const HeadView& k, const HeadView& v,
                    const HeadView& o, float* lse) {
  const Shape s(shape);
  const int bytes = 4 * ((BM + 2 * BN) * padded(s.head_dim) + BM * (BN + 1));
  check_shared(bytes);
  launch({"attention forward (general)", work_of(shape, 2, 2, 2, sizeof(T))}, forward_kernel<T, DMAX, BM, BN>,
         Grid(ceil_div(s.tq, BM), s.n_heads, s.batch), kThreads, bytes, s, Heads<const T>(q), Heads<const T>(k),
         Heads<const T>(v), Heads<T>(o), lse);
}

/// 14 B H Tq Tk D FLOPs (half if causal); by atomics 10.
template <class T, int DMAX, int BM, int BN>
void launch_backward(const AttentionShape& shape, const HeadView& q, const HeadView& k, const HeadView& v,
                     const Tensor& lse, const RowVectors& rows, const HeadView& d_o, const HeadView& dq,
                     const HeadView& dk, const HeadView& dv) {
  const Shape s(shape);
  const int bytes = 4 * (2 * (BM + BN) * padded(s.head_dim) + 2 * BM * (BN + 1));
  const float *l = lse.data<float>(), *delta = rows.delta.data<float>();
  check_shared(bytes);
  const auto keys = [&](const Label& label, auto kernel, float* dq_sums) {
    launch(label, kernel, Grid(ceil_div(s.tk, BN), s.n_heads / s.group, s.batch), kThreads, bytes, s, Heads<const T>(q),
           Heads<const T>(k), Heads<const T>(v), Heads<const T>(d_o), l, delta, rows.pitch, Heads<T>(dk), Heads<T>(dv),
           dq_sums);
  };
  if (shape.paths.fast_atomics) {
    const Tensor sums = dq_workspace(shape, q.owner->device());
    keys({"attention backward (general, atomics)", work_of(shape, 5, 3, 4, sizeof(T))},
         backward_kv_kernel<T, DMAX, BM, BN, true>, sums.data<float>());
    return finish_dq(shape, sums, dq);
  }
  keys({"attention backward dk, dv (general)", work_of(shape, 4, 2, 4, sizeof(T))},
       backward_kv_kernel<T, DMAX, BM, BN, false>, nullptr);
  launch({"attention backward dq (general)", work_of(shape, 3, 3, 2, sizeof(T))}, backward_q_kernel<T, DMAX, BM, BN>,
         Grid(ceil_div(s.tq, BM), s.n_heads, s.batch), kThreads, bytes, s, Heads<const T>(q), Heads<const T>(k),
         Heads<const T>(v), Heads<const T>(d_o), l, delta, rows.pitch, Heads<T>(dq));
}

template <class T>
void forward_in(const AttentionShape& s, const HeadView& q, const HeadView& k, const HeadView& v, const HeadView& o,
                float* lse) {
  if (s.head_dim <= 64) return launch_forward<T, 64, 32, 32>(s, q, k, v, o, lse);
  if (s.head_dim <= 128) return launch_forward<T, 128, 32, 32>(s, q, k, v, o, lse);
  launch_forward<T, 256, 32, 16>(s, q, k, v, o, lse);
}

template <class T>
void backward_in(const AttentionShape& s, const HeadView& q, const HeadView& k, const HeadView& v, const Tensor& lse,
                 const RowVectors& rows, const HeadView& d_o, const HeadView& dq, const HeadView& dk,
                 const HeadView& dv) {
  if (s.head_dim <= 64) return launch_backward<T, 64, 32, 32>(s, q, k, v, lse, rows, d_o, dq, dk, dv);
  if (s.head_dim <= 128) return launch_backward<T, 128, 32, 32>(s, q, k, v, lse, rows, d_o, dq, dk, dv);
  launch_backward<T, 256, 16, 16>(s, q, k, v, lse, rows, d_o, dq, dk, dv);
}

}  // namespace

void general_forward(const AttentionShape& s, const HeadView& q, const HeadView& k, const HeadView& v,
                     const HeadView& o, float* lse) {
  if (q.owner->dtype() == DType::f32) return forward_in<float>(s, q, k, v, o, lse);
  forward_in<__nv_bfloat16>(s, q, k, v, o, lse);
}

void general_backward(const AttentionShape& s, const HeadView& q, const HeadView& k, const HeadView& v,
                      const Tensor& lse, const RowVectors& rows, const HeadView& d_o, const HeadView& dq,
                      const HeadView& dk, const HeadView& dv) {
  if (q.owner->dtype() == DType::f32) return backward_in<float>(s, q, k, v, lse, rows, d_o, dq, dk, dv);
  backward_in<__nv_bfloat16>(s, q, k, v, lse, rows, d_o, dq, dk, dv);
}

}  // namespace rw::cuda::attn
