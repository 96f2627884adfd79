// What the attention kernels share. Four implementations of one contract (cuda_ops.h), from
// plain to fast, between which attention.cu chooses:
//
//   attention_general.cu    f32 and bf16, any head dim up to 256: f32 FMA on tiles in shared memory
//   attention_mma*.cu       bf16, head dim 16, 32, 48, 64, 80, 96 or 128: mma.sync tensor cores, cp.async (sm_80 on)
//   attention_sm90_*.cu     bf16, head dim a multiple of 8 up to 128, padded to 64 or 128 (sm90_pads says which are
//                           worth it): wgmma fed by TMA, warp-specialised (sm_90a only)
//   attention_split_kv.cu   forward of few queries over many keys: the keys split, a block each
//
// All of them compute, per (batch, head), with i over queries and j over keys:
//
//   S = scale Q K^T, S = cap tanh(S / cap) with a soft cap; masked where j > i + (Tk - Tq) if causal, and where
//   j <= i + (Tk - Tq) - window with a window
//   lse_i = log sum_j exp S_ij,   P = exp(S - lse),   O = P V
//   dV = P^T dO,   dP = dO V^T,   delta_i = sum_d dO_id O_id
//   dS = P (dP - delta), with a soft cap also times 1 - tanh^2
//   dQ = scale dS K,   dK = scale dS^T Q
//
// The backward runs as three kernels: delta; dK and dV (a block owns keys and walks the queries of every head of its
// group); dQ (a block owns queries and walks the keys). S and dP are computed twice, 7 matrix products instead of 5:
// the price of sums in a fixed order without atomics. With fast_atomics the kernel of dK and dV adds
// its part of dQ to an f32 workspace, too: 5 products, and one more kernel that rounds the workspace to dQ. On Hopper
// long walks without a window do so in a fixed order (attention_sm90_fused.cu).
#pragma once
#include <cuda_bf16.h>
#include <cuda_runtime.h>

#include <algorithm>
#include <cmath>

#include "autograd/ops/attention_paths.h"
#include "autograd/ops/attention_shape.cuh"
#include "autograd/ops/cuda_ops.h"
#include "tensor/launch.cuh"
#include "tensor/tensor.h"

namespace rw::cuda {
namespace attn {

constexpr float kLog2e = 1.4426950408889634f, kLn2 = 0.6931471805599453f;

/// The forward kernels compute exp2(c S - c max S) with one multiply-add. Beyond this |c max S| its product's rounding
/// would show, and from 2^30 on overflow exp2: there they subtract first.
constexpr float kHugeScore = 65536.f;

/// Maximum and sum over the 4 lanes that share a row of a product's fragments.
__device__ inline float max4(float x) {
  x = fmaxf(x, __shfl_xor_sync(~0u, x, 1));
  return fmaxf(x, __shfl_xor_sync(~0u, x, 2));
}
__device__ inline float sum4(float x) {
  x += __shfl_xor_sync(~0u, x, 1);
  return x + __shfl_xor_sync(~0u, x, 2);
}

/// A HeadView as kernels take it: element (b,t,h,d) at data + b*batch + t*row + h*head_dim + d.
template <class T>
struct Heads {
  T* data = nullptr;
  int64_t batch = 0, row = 0;
  Heads() = default;
  explicit Heads(const HeadView& v) : data(static_cast<T*>(v.data)), batch(v.batch), row(v.row) {}
  /// First element of token 0 of one head.
  __device__ T* head(int64_t b, int64_t h, int64_t head_dim) const { return data + b * batch + h * head_dim; }
};

__host__ __device__ constexpr int ceil_div(int a, int b) { return (a + b - 1) / b; }

/// launch() asks for the shared memory; this says what is missing.
inline void check_shared(int bytes) {
  check(bytes <= max_shared_bytes(), "attention", "this GPU has less than ", bytes,
        " bytes of shared memory per block");
}

/// What `products` matrix products of Tq x Tk x D per head cost (if causal without the masked half of the last Tq
/// keys). Bytes: the given views once, each [B, T, heads, D] in bf16 or f32.
inline Work work_of(const AttentionShape& s, int products, int q_sized, int k_sized, int64_t element_bytes) {
  const double most = s.window > 0 ? static_cast<double>(s.window) : INFINITY;
  const double rows = static_cast<double>(s.batch * s.n_heads * s.q_length), d = static_cast<double>(s.head_dim);
  const double keys = static_cast<double>(s.batch * s.n_kv_heads * s.k_length);
  const double seen =
      std::min(most, static_cast<double>(s.k_length) - (s.causal ? 0.5 * static_cast<double>(s.q_length) : 0.0));
  const double pairs = rows * seen;
  return {(q_sized * rows + k_sized * keys) * d * static_cast<double>(element_bytes), 2.0 * products * pairs * d};
}

/// Whether the rows of a view can be read eight elements at a time, as far as the head dim allows.
inline bool by_eights(const HeadView& v) { return aligned16(v.data) && v.row % 8 == 0 && v.batch % 8 == 0; }
/// What the tensor cores' paths ask of their views.
inline bool bf16_by_eights(std::initializer_list<const HeadView*> views) {
  for (const HeadView* v : views)
    if (v->owner->dtype() != DType::bf16 || !by_eights(*v)) return false;
  return true;
}

/// announce_write for a view [B, T, heads, D]: of what leaves by the copy engine.
void announce_view(const HeadView& view, int64_t batch, int64_t length, int64_t heads, int64_t head_dim);

/// Largest multiple that the row vectors of the backward are padded to (the tile of any kernel).
constexpr int kRowPad = 128;

/// f32 [B*H, pitch] each: delta, and lse in units of log 2. Padding rows hold delta 0 and lse2 +inf, so that P = exp2(S
/// - lse2) is exactly 0 there and no kernel of the backward has to mask queries.
struct RowVectors {
  Tensor delta, lse2;
  int pitch = 0;
};
RowVectors prepare_backward(const AttentionShape& s, const HeadView& o, const Tensor& lse, const HeadView& d_o);

/// f32 [B*H,Tq,D] of zeros: what blocks of keys add their parts of dQ / scale to.
Tensor dq_workspace(const AttentionShape& s, Device device);
/// dq = scale * sums.
void finish_dq(const AttentionShape& s, const Tensor& sums, const HeadView& dq);

// Each path: can it take these arguments, and the two passes. The general one takes what check_arguments lets pass.
void general_forward(const AttentionShape& s, const HeadView& q, const HeadView& k, const HeadView& v,
                     const HeadView& o, float* lse);
void general_backward(const AttentionShape& s, const HeadView& q, const HeadView& k, const HeadView& v,
                      const Tensor& lse, const RowVectors& rows, const HeadView& d_o, const HeadView& dq,
                      const HeadView& dk, const HeadView& dv);

bool split_kv_takes(const AttentionShape& s, std::initializer_list<const HeadView*> views);
void split_kv_forward(const AttentionShape& s, const HeadView& q, const HeadView& k, const HeadView& v,
                      const HeadView& o, float* lse);

/// Whether there are kernels for the head dim.
bool mma_has(int64_t head_dim);
bool mma_takes(const AttentionShape& s, std::initializer_list<const HeadView*> views);
void mma_forward(const AttentionShape& s, const HeadView& q, const HeadView& k, const HeadView& v, const HeadView& o,
                 float* lse);
void mma_backward(const AttentionShape& s, const HeadView& q, const HeadView& k, const HeadView& v,
                  const RowVectors& rows, const HeadView& d_o, const HeadView& dq, const HeadView& dk,
                  const HeadView& dv);

/// Whether the kernels take the head dim, as it is or padded, and should.
bool sm90_pads(int64_t head_dim);
bool sm90_takes(const AttentionShape& s, std::initializer_list<const HeadView*> views);
void sm90_forward(const AttentionShape& s, const HeadView& q, const HeadView& k, const HeadView& v, const HeadView& o,
                  float* lse);
void sm90_backward(const AttentionShape& s, const HeadView& q, const HeadView& k, const HeadView& v,
                   const RowVectors& rows, const HeadView& d_o, const HeadView& dq, const HeadView& dk,
                   const HeadView& dv);

/// The same in one pass, and where that is faster.
bool sm90_fuses(const AttentionShape& s);
void sm90_backward_fused(const AttentionShape& s, const HeadView& q, const HeadView& k, const HeadView& v,
                         const RowVectors& rows, const HeadView& d_o, const HeadView& dq, const HeadView& dk,
                         const HeadView& dv);

}  // namespace attn
}  // namespace rw::cuda
