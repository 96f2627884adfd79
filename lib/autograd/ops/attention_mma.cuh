// Attention on tensor cores through mma.sync: bf16, head dim a multiple of 16 up to 128, f32 sums (sm_80 and later).
//
// The formulas are in attention.cuh. The kernels are made of two products of a warp's tile,
//
//   dot_rows   acc[m][n] += sum_k A[m][k] B[n][k]     A and B stored as rows of the head dim: S, dP and their
//   transposes add_rows   acc[m][n] += sum_k W[m][k] B[k][n]     W in registers (P or dS just computed): O, dQ, dK, dV
//
// The accumulator of m16n8k16 has the layout of its A operand, so P goes from the first product into the second
// without leaving its thread. That is why the kernel for dK and dV computes S transposed, keys as rows: both its
// sums then take P^T and dS^T as the register operand. Tiles arrive by cp.async, one step ahead of their use;
// rows are padded by 16 bytes, which makes their length an odd number of 16-byte chunks, so the 8 rows that
// ldmatrix reads at once lie in different banks.
#pragma once
#include "autograd/ops/attention.cuh"

namespace rw::cuda::attn {
namespace mma_sync {

using bf = __nv_bfloat16;
constexpr int kWarps = 4, kThreads = 32 * kWarps;

__device__ inline unsigned shared_address(const void* p) { return static_cast<unsigned>(__cvta_generic_to_shared(p)); }

/// 16 bytes to shared memory; zeros if not `valid`.
__device__ inline void copy16(void* to, const void* from, bool valid) {
  asm volatile("cp.async.cg.shared.global [%0], [%1], 16, %2;" ::"r"(shared_address(to)), "l"(from), "r"(valid ? 16 : 0)
               : "memory");
}
__device__ inline void copies_commit() { asm volatile("cp.async.commit_group;" ::: "memory"); }
__device__ inline void copies_wait() { asm volatile("cp.async.wait_group 0;" ::: "memory"); }

__device__ inline void load4(unsigned (&r)[4], const bf* p) {
  asm volatile("ldmatrix.sync.aligned.m8n8.x4.shared.b16 {%0,%1,%2,%3}, [%4];"
               : "=r"(r[0]), "=r"(r[1]), "=r"(r[2]), "=r"(r[3])
               : "r"(shared_address(p))
               : "memory");
}
__device__ inline void load4_transposed(unsigned (&r)[4], const bf* p) {
  asm volatile("ldmatrix.sync.aligned.m8n8.x4.trans.shared.b16 {%0,%1,%2,%3}, [%4];"
               : "=r"(r[0]), "=r"(r[1]), "=r"(r[2]), "=r"(r[3])
               : "r"(shared_address(p))
               : "memory");
}
__device__ inline void mma(float (&c)[4], const unsigned (&a)[4], unsigned b0, unsigned b1) {
  asm volatile(
      "mma.sync.aligned.m16n8k16.row.col.f32.bf16.bf16.f32 {%0,%1,%2,%3}, {%4,%5,%6,%7}, {%8,%9}, {%0,%1,%2,%3};"
      : "+f"(c[0]), "+f"(c[1]), "+f"(c[2]), "+f"(c[3])
      : "r"(a[0]), "r"(a[1]), "r"(a[2]), "r"(a[3]), "r"(b0), "r"(b1));
}
__device__ inline unsigned pack(float low, float high) {
  const __nv_bfloat162 x = __floats2bfloat162_rn(low, high);
  return *reinterpret_cast<const unsigned*>(&x);
}
using cuda::exp2_fast;

/// 1 - 2 / (e^2x + 1): within 2e-7 absolutely, and right at infinities and NaN.
__device__ inline float tanh_fast(float x) { return 1.f - __fdividef(2.f, exp2_fast(2.f * kLog2e * x) + 1.f); }
/// Scores as kernels compute them: unscaled, or with a soft cap tanh(scale S / cap); times `factor` they are in units
/// of log 2, times `natural` in natural ones.
struct Scores {
  float factor, natural, inner;
  __device__ explicit Scores(const Shape& s)
      : factor((s.cap > 0 ? s.cap : s.scale) * kLog2e),
        natural(s.cap > 0 ? s.cap : s.scale),
        inner(s.cap > 0 ? s.scale / s.cap : 0.f) {}
  __device__ bool capped() const { return inner > 0; }
  __device__ float operator()(float product) const { return tanh_fast(product * inner); }
  /// The cap's slope 1 - tanh^2 from P = exp2(factor tanh - lse2); a P that has underflown gives 0.
  __device__ float slope(float p, float lse2) const {
    const float t = (__log2f(p) + lse2) / factor;
    return p > 0 ? 1.f - t * t : 0.f;
  }
};

/// ROWS tokens of one head into rows of D + 8 elements; zeros beyond `end`.
template <int D, int ROWS>
__device__ inline void copy_tile(bf* tile, const bf* head, int64_t row_stride, int begin, int end) {
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

template <int MT, int NT>
__device__ inline void cap_scores(Tile<MT, NT>& p, const Scores& scores) {
#pragma unroll
  for (int i = 0; i < MT; ++i)
#pragma unroll
    for (int j = 0; j < NT; ++j)
#pragma unroll
      for (int e = 0; e < 4; ++e) p.at[i][j][e] = scores(p.at[i][j][e]);
}

/// acc = A B^T: A has 16 MT rows at `a`, B has 8 NT rows at `b`, both of D elements with row length D + 8.
template <int D, int MT, int NT>
__device__ inline void dot_rows(Tile<MT, NT>& acc, const bf* a, const bf* b) {
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
__device__ inline void add_rows(Tile<MT, D / 8>& acc, const Tile<MT, KT>& w, const bf* b) {
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
__device__ inline void write_rows(bf* head, int64_t row_stride, int first, int end, const Tile<MT, NT>& acc,
                                  Factor factor) {
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

}  // namespace mma_sync
}  // namespace rw::cuda::attn
