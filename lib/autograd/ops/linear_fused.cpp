// Linear layers with SwiGLU or RoPE in the product's epilogue.
#include "autograd/ops/linear_fused.h"

#include "autograd/ops/cuda_ops.h"
#include "autograd/ops/elementwise.h"
#include "autograd/ops/swiglu.h"
#include "autograd/tape.h"
#include "tensor/gemm.h"

namespace rw {
namespace {

bool in_sixteens(const Tensor& t) { return reinterpret_cast<uintptr_t>(t.raw()) % 16 == 0; }

/// Whether the kernels may read `t` beside x.
bool goes_with(const Var& x, const Tensor& t) { return t.device() == x.device() && in_sixteens(t); }

/// Whether the kernels take x [...,K] times a weight, with N columns that count (cuda::linear_fuses).
bool fuses(const Var& x, const Var& weight, int64_t n, const LinearOptions& options) {
  return x.is_cuda() && x.dtype() == DType::bf16 && weight.dtype() == DType::bf16 && x.rank() > 0 &&
         weight.rank() == 2 && weight.size(1) > 0 && x.size(-1) == weight.size(1) && options.matmul == Matmul::native &&
         in_sixteens(x.value()) && goes_with(x, weight.value()) &&
         cuda::linear_fuses(x.numel() / x.size(-1), n, weight.size(1));
}

/// swiglu_packed and the layer after it. saved: gate_up [R,2F], weight [C,F], h [R,F] unless it is computed again.
/// inputs: gate_up, weight
struct SwigluLinearNode : Node {
  Shape gate_up_shape;
  const char* name() const override { return "swiglu + linear"; }
  void backward() override {
    const Tensor &gate_up = saved[0], &w = saved[1];
    check_same("linear", "the gradient", grad_out(), "weight", w);
    const Tensor dy = (in_sixteens(grad_out()) ? grad_out() : grad_out().clone()).view({-1, w.size(0)});  // [R,C]
    if (wants(1)) {
      const Target dw = grad_target(1, w.shape(), DType::f32, w.device());
      const Tensor h = saved[2].defined() ? saved[2] : swiglu_packed(gate_up).value();
      gemm(transposed(dy), h, dw.tensor, {.beta = dw.beta});
    }
    saved[2] = Tensor();
    if (!wants(0)) return;
    const Tensor d = Tensor::empty(gate_up_shape, gate_up.dtype(), gate_up.device());
    cuda::linear_swiglu_backward(dy, w, gate_up, d);
    add_grad(0, d);
  }
};

Shape with_last(Shape shape, int64_t n) {
  shape.set(-1, n);
  return shape;
}

}  // namespace

Var swiglu_mlp(const Var& x, const Var& up, const Var& down, const LinearOptions& options) {
  const LinearOptions first{.matmul = options.matmul, .recompute_input = options.recompute_input};
  const int64_t f = down.rank() == 2 ? down.size(1) : 0;
  const bool one_kernel = fuses(x, up, f, options) && up.size(0) == 2 * f && down.dtype() == DType::bf16 &&
                          goes_with(x, down.value()) && cuda::linear_fuses(x.numel() / x.size(-1), f, down.size(0));
  if (!one_kernel) return linear(swiglu_packed(linear(x, up, {}, first)), down, {}, options);
  const int64_t rows = x.numel() / x.size(-1);
  const Tensor h = Tensor::empty({rows, f}, x.dtype(), x.device());
  if (!records(x, up, down)) {
    cuda::linear_swiglu(x.value(), up.value(), {}, h);
    return linear(Var(h.view(with_last(x.shape(), f))), down, {}, options);
  }
  const Var gate_up = linear(x, up, {}, {.recompute_input = options.recompute_input, .unread = true});
  cuda::linear_swiglu(x.value(), up.value(), gate_up.value(), h);
  const Tensor y = Tensor::empty(with_last(x.shape(), down.size(0)), x.dtype(), x.device());
  if (!options.unread) gemm(h, transposed(down.value()), y.view({rows, down.size(0)}));
  auto node = std::make_unique<SwigluLinearNode>();
  node->gate_up_shape = gate_up.shape();
  const bool keeps = down.requires_grad() && !options.recompute_input;
  node->saved = {gate_up.value().view({rows, 2 * f}), down.value(), keeps ? h : Tensor()};
  Var out(y);
  Tape::current().record(std::move(node), {gate_up, down}, {&out});
  return out;
}

Var linear_rope(const Var& x, const Var& weight, int64_t head_dim, const RopeAngles& angles, RopeOptions rope_options,
                const LinearOptions& options) {
  rope_options.in_place = true;
  check(x.rank() == 3 && weight.rank() == 2 && head_dim > 0 && weight.size(0) % head_dim == 0, "linear_rope",
        "x must have shape [B, T, K] and weight [H D, K] with D = ", head_dim, ", got ", x.shape(), " and ",
        weight.shape());
  const Shape heads{x.size(0), x.size(1), weight.size(0) / head_dim, head_dim};
  const bool turns_whole = rope_options.layout == RopeLayout::half && 2 * angles.cos.size(2) == head_dim &&
                           (head_dim == 64 || head_dim == 128) && angles.cos.dtype() == DType::f32 &&
                           angles.cos.size(1) == x.size(1) && goes_with(x, angles.cos) && goes_with(x, angles.sin) &&
                           (angles.cos.size(0) == 1 || angles.cos.size(0) == x.size(0));
  if (!turns_whole || !fuses(x, weight, weight.size(0), options))
    return rope(reshape(linear(x, weight, {}, options), heads), angles, rope_options);
  const Var y = reshape(linear(x, weight, {}, {.recompute_input = options.recompute_input, .unread = true}), heads);
  cuda::linear_rope(x.value(), weight.value(), angles.cos, angles.sin, angles.scale,
                    rope_options.heads < 0 ? heads[2] : rope_options.heads, y.value());
  rope_options.turned = true;
  return rope(y, angles, rope_options);
}

}  // namespace rw
