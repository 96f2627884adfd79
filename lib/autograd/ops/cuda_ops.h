// Internal: the GPU entry points of every op family, one per CPU loop in ops/*.cpp with the same arguments. Implemented
// in ops/*.cu; cuda_ops_stub.cpp stands in for them in a build without CUDA. Arguments were checked by the caller.
//
// Shapes as in the family's header. Kernels run on the compute stream (tensor/launch.cuh) and never synchronise.
#pragma once
#include "autograd/ops/activation.h"
#include "autograd/ops/attention_paths.h"
#include "autograd/ops/norm.h"
#include "autograd/ops/rope.h"
#include "tensor/tensor.h"

namespace rw::cuda {

/// Where a gradient goes: written, or added to if `add`. The tensor is undefined where no gradient is wanted.
struct GradTarget {
  Tensor tensor;
  bool add = false;
};

// --- elementwise (f32, bf16)
enum class Binary { add, sub, mul };
enum class Unary { exp, log, tanh, silu };
void binary(Binary op, const Tensor& a, const Tensor& b, const Tensor& y);
void unary(Unary op, const Tensor& x, const Tensor& y);
/// dx = dy * f'(x); `y` = f(x)
void unary_backward(Unary op, const Tensor& x, const Tensor& y, const Tensor& dy, const Tensor& dx);
void scale(const Tensor& x, double factor, const Tensor& y);
/// to += factor * scalar[0] * from; scalar may be undefined (1)
void add_scaled(const Tensor& to, const Tensor& from, double factor, const Tensor& scalar);
/// y may be x
void add_bias(const Tensor& x, const Tensor& bias, const Tensor& y);
/// y = cap tanh(x / cap); dx = dy (1 - (y / cap)^2)
void soft_cap(const Tensor& x, double cap, const Tensor& y);
void soft_cap_backward(const Tensor& y, double cap, const Tensor& dy, const Tensor& dx);
/// out [C] (f32 or x's dtype) (+)= column sums of x [N,C], in two deterministic stages
void column_sums(const Tensor& x, const Tensor& out, bool add);
/// Its first half: x [R,C] summed over slabs of its rows, [P,C] f32 (GradSlot::slab_sums).
Tensor slab_sums(const Tensor& x);
/// Its second half: out [C] (f32 or bf16) = or += the sum over p of partial [P,C] (f32), in a fixed order.
void add_partial_rows(const Tensor& partial, const Tensor& out, bool add);

// --- reduce
void sum_all(const Tensor& x, double factor, const Tensor& y);             // y [1]
void sum_last(const Tensor& x, const Tensor& y);                           // x [N,C] -> y [N]
void broadcast_scalar(const Tensor& dy, double factor, const Tensor& dx);  // dx[:] = factor * dy[0]
void broadcast_last(const Tensor& dy, const Tensor& dx);                   // dx [N,C] = dy [N]

// `largest`, here and below: f32 [kMaximumParts] of zeros on the GPU, for absolute_max()
// (tensor/quantize.h) of y, or in a backward of dx; or undefined.

// --- norm. x, residual, h, y [N,C]; rstd f32 [N]. residual and h may be undefined (plain RMSNorm of x).
void rms_norm_forward(const Tensor& x, const Tensor& residual, const Tensor& weight, double eps, double weight_offset,
                      const Tensor& h, const Tensor& y, const Tensor& rstd, const Tensor& largest = {});
/// dx = d/dh of both outputs; dh may be undefined. dweight (f32 or the weight's dtype) is added to if `add`.
void rms_norm_backward(const Tensor& h, const Tensor& weight, double weight_offset, const Tensor& rstd,
                       const Tensor& dy, const Tensor& dh, const Tensor& dx, const Tensor& dweight, bool add,
                       const Tensor& largest = {});

struct NormOutputs {
  Tensor h, y;  // [N,C]; h undefined without a residual
};
struct NormStatistics {
  Tensor mean, rstd;  // f32 [N]
};
struct SavedLayerNorm {
  Tensor h, weight, mean, rstd;
};
/// residual and bias may be undefined.
void layer_norm_forward(const Tensor& x, const Tensor& residual, const Tensor& weight, const Tensor& bias, double eps,
                        const NormOutputs& out, const NormStatistics& statistics);
/// dx = d/dh of both outputs; dh may be undefined.
void layer_norm_backward(const SavedLayerNorm& saved, const Tensor& dy, const Tensor& dh, const Tensor& dx,
                         const GradTarget& dweight, const GradTarget& dbias);

struct SavedQkNorm {
  Tensor qkv, q_weight, k_weight, rstd;
};
/// qkv, y [B,T,H+2K,D]; y may be qkv. rstd f32 [B*T, H+K], or [B*T, 2] across heads.
void qk_norm_forward(const QkNormOptions& options, const Tensor& qkv, const Tensor& q_weight, const Tensor& k_weight,
                     const Tensor& y, const Tensor& rstd);
/// dx may be dy.
void qk_norm_backward(const QkNormOptions& options, const SavedQkNorm& saved, const Tensor& dy, const Tensor& dx,
                      const GradTarget& dq_weight, const GradTarget& dk_weight);

// --- a linear layer and the op after it in one kernel, on Hopper, all bf16 (linear_sm90.cuh). The bits are those of
// gemm() and the op, one after the other.
/// Whether it takes a product of [R,K] and [K,N] (N: F for SwiGLU): large enough, K short enough, N a multiple of 64, K
/// of 8.
bool linear_fuses(int64_t rows, int64_t n, int64_t k);
/// gate_up [R,2F] = x [R,K] W^T, W [2F,K]; y [R,F] = silu(gate) * up. gate_up may be undefined: it is not kept then.
void linear_swiglu(const Tensor& x, const Tensor& weight, const Tensor& gate_up, const Tensor& y);
/// dgate_up [R,2F] from dy [R,C], the gradient of silu(gate) * up times W^T, W [C,F], and gate_up [R,2F].
void linear_swiglu_backward(const Tensor& dy, const Tensor& weight, const Tensor& gate_up, const Tensor& dgate_up);
/// y [B,T,H,D] = x [B T,K] W^T, W [H D,K], of which the first `heads` heads turn (rotate-half, whole heads of D = 64 or
/// 128); cos and sin as rope_apply has them.
void linear_rope(const Tensor& x, const Tensor& weight, const Tensor& cos, const Tensor& sin, double scale,
                 int64_t heads, const Tensor& y);

// --- swiglu. gate/up have row strides (packed: 2F, up = gate + F).
void swiglu_forward(const Tensor& gate, const Tensor& up, const Tensor& y);
void swiglu_backward(const Tensor& gate, const Tensor& up, const Tensor& dy, const Tensor& dgate, const Tensor& dup);
void swiglu_packed_forward(const Tensor& gate_up, const Tensor& y, const Tensor& largest = {});
void swiglu_packed_backward(const Tensor& gate_up, const Tensor& dy, const Tensor& dgate_up,
                            const Tensor& largest = {});

// --- activation (gelu and gelu_tanh; silu has kernels of its own). gate_up [N,2F], y [N,F]
void activate(Activation activation, const Tensor& x, const Tensor& y);
/// Gives dx [R,C] summed over slabs of its rows (GradSlot::slab_sums) if `sums`, else nothing.
Tensor activate_backward(Activation activation, const Tensor& x, const Tensor& dy, const Tensor& dx, bool sums);
void gated_packed_forward(Activation activation, const Tensor& gate_up, const Tensor& y, const Tensor& largest = {});
void gated_packed_backward(Activation activation, const Tensor& gate_up, const Tensor& dy, const Tensor& dgate_up,
                           const Tensor& largest = {});

// --- embedding. ids i32 [N], weight [V,C], out [N,C]
void embedding_forward(const Tensor& ids, const Tensor& weight, const Tensor& out);
/// dweight [V,C] (f32 or bf16) += rows of dy, ids in a fixed order; with fast_atomics (f32 only) in any order
void embedding_backward(const Tensor& ids, const Tensor& dy, const Tensor& dweight, bool fast_atomics);

// --- rope. x, y [B,T,H,D]; cos, sin f32 [B or 1,T,R/2]
/// positions f32 [Bp,T], inv_freq f32 or f64 [R/2] or [B,R/2] -> cos, sin. Angles in f64.
void rope_tables(const Tensor& positions, const Tensor& inv_freq, const Tensor& cos, const Tensor& sin);
/// direction +1 forward, -1 backward (rotates by minus the angle); heads beyond `heads` are copied. y may be x.
void rope_apply(const Tensor& x, const Tensor& cos, const Tensor& sin, double scale, RopeLayout layout, int64_t heads,
                int direction, const Tensor& y);
/// dinv_freq f32 or f64 [R/2] or [B,R/2] += sum positions * (g2 y1 - g1 y2), in two deterministic stages
void rope_inv_freq_backward(const Tensor& y, const Tensor& dy, const Tensor& positions, RopeLayout layout,
                            int64_t heads, const Tensor& dinv_freq);

// --- attention. A strided view of [B,T,heads,D]: element (b,t,h,d) at data + b*batch + t*row + h*D + d
struct HeadView {
  const Tensor* owner = nullptr;  // for dtype and device
  void* data = nullptr;
  int64_t batch = 0, row = 0;  // strides in elements
};
struct AttentionShape {
  int64_t batch, n_heads, n_kv_heads, q_length, k_length, head_dim;
  bool causal;
  double scale;
  int64_t window = 0;   // 0: none; else query i (of the last Tq of Tk tokens) sees keys j with i - window < j <= i
  double soft_cap = 0;  // 0: none; else scores become soft_cap tanh(score / soft_cap) before the mask
  attn::PathOptions paths = {};
};
/// o [B,Tq,H,D]; lse f32 [B,H,Tq] (may have a null owner when no gradient is wanted)
void attention_forward(const AttentionShape& s, const HeadView& q, const HeadView& k, const HeadView& v,
                       const HeadView& o, const Tensor& lse);
void attention_backward(const AttentionShape& s, const HeadView& q, const HeadView& k, const HeadView& v,
                        const HeadView& o, const Tensor& lse, const HeadView& d_o, const HeadView& dq,
                        const HeadView& dk, const HeadView& dv);

// --- loss. logits [N,V], targets i32 [N]; nll f32 [N]
/// nll per row (0 where ignored); if `gradient`, logits become softmax - onehot (0 where ignored) in place.
/// stats f32 [N,2], if given, gets each row's maximum and sum of exp(x - maximum); not
/// together with `gradient`. soft_cap, if not 0: the loss is that of soft_cap tanh(logits /
/// soft_cap), and the gradient is with respect to logits.
void cross_entropy_rows(const Tensor& logits, const Tensor& targets, bool gradient, const Tensor& nll,
                        const Tensor& stats = {}, double soft_cap = 0);
/// dlogits [N,V] = factor * dnll * (softmax - onehot), 0 where ignored; dnll f32 [1] or [N], stats as above.
void cross_entropy_gradient(const Tensor& logits, const Tensor& targets, const Tensor& stats, const Tensor& dnll,
                            double factor, const Tensor& dlogits);
/// x [N,C] rows times s [N]
void scale_rows(const Tensor& x, const Tensor& s, const Tensor& y);

// --- concat / cast
/// Copies a [outer, width] block between strided places: to + i*to_stride <- from + i*from_stride (elements)
void copy_block(const Tensor& from, int64_t from_offset, int64_t from_stride, const Tensor& to, int64_t to_offset,
                int64_t to_stride, int64_t outer, int64_t width);

}  // namespace rw::cuda
