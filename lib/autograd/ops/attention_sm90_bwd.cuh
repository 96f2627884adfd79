// Phases that both of Hopper's backward kernels have in common: what happens to a tile of scores in registers.
//
// A warpgroup holds a tile [64 x W] as wgmma's accumulators (attention_sm90.cuh): a thread has two rows (half 0 and 1),
// of each the columns 8 j + 2 (lane % 4) + {0, 1}: element 4 j + 2 half + e.
#pragma once
#include "autograd/ops/attention_sm90.cuh"

#ifdef ROPEWALK_SM90A
namespace rw::cuda::attn {

/// P = exp2(c S - lse2). Rounding can leave the exponent above 0 at huge scores; P never exceeds 1.
__device__ __forceinline__ float probability(float score, float c, float lse2) {
  return exp2_fast(fminf(fmaf(score, c, -lse2), 0.f));
}

/// S -> P, in place and packed for the next product; lse2 in shared memory, a value
/// for each column from the thread's first on.
template <int n>
__device__ __forceinline__ void probabilities_by_column(float (&scores)[n], unsigned (&packed)[n / 2], float c,
                                                        const float* lse2) {
#pragma unroll
  for (int j = 0; j < n / 4; ++j) {
    const float2 l = load_shared_pair(lse2 + 8 * j);
#pragma unroll
    for (int e = 0; e < 4; ++e) scores[4 * j + e] = probability(scores[4 * j + e], c, e % 2 ? l.y : l.x);
    packed[2 * j] = pack(scores[4 * j], scores[4 * j + 1]);
    packed[2 * j + 1] = pack(scores[4 * j + 2], scores[4 * j + 3]);
  }
}

/// The same with a value of lse2 for each row; P stays f32.
template <int n>
__device__ __forceinline__ void probabilities_by_row(float (&scores)[n], float c, const float (&lse2)[2]) {
#pragma unroll
  for (int i = 0; i < n; ++i) scores[i] = probability(scores[i], c, lse2[i % 4 / 2]);
}

/// Two neighbours of P as they were rounded.
__device__ __forceinline__ float2 unpack(unsigned pair) {
  return {__uint_as_float(pair << 16), __uint_as_float(pair & 0xffff0000u)};
}

/// dS = P (dP - delta), packed; delta in shared memory, a value for each column. `p_of(i)`: elements i and i + 1 of P.
template <int n, class P>
__device__ __forceinline__ void gradients_by_column(unsigned (&packed)[n / 2], const float (&dp)[n], const float* delta,
                                                    const P& p_of) {
#pragma unroll
  for (int j = 0; j < n / 4; ++j) {
    const float2 d = load_shared_pair(delta + 8 * j);
#pragma unroll
    for (int half = 0; half < 2; ++half) {
      const int i = 4 * j + 2 * half;
      const float2 p = p_of(i);
      packed[2 * j + half] = pack(p.x * (dp[i] - d.x), p.y * (dp[i + 1] - d.y));
    }
  }
}

/// The same with a value of delta for each row.
template <int n, class P>
__device__ __forceinline__ void gradients_by_row(unsigned (&packed)[n / 2], const float (&dp)[n],
                                                 const float (&delta)[2], const P& p_of) {
#pragma unroll
  for (int i = 0; i < n; i += 2) {
    const float2 p = p_of(i);
    packed[i / 2] = pack(p.x * (dp[i] - delta[i % 4 / 2]), p.y * (dp[i + 1] - delta[i % 4 / 2]));
  }
}

}  // namespace rw::cuda::attn
#endif  // ROPEWALK_SM90A
