// Matrix products as recorded ops.
#include "autograd/ops/matmul.h"

#include "autograd/ops/detail/bias.h"
#include "autograd/ops/detail/linear_fp8.h"
#include "autograd/ops/elementwise.h"
#include "autograd/tape.h"
#include "tensor/gemm.h"

namespace rw {
namespace {

/// The gradient of a weight is made in f32 for bf16 work (the arena's), in the weight's dtype otherwise.
DType grad_dtype(DType t) { return t == DType::bf16 ? DType::f32 : t; }

struct MatmulNode : Node {  // saved: a [M,K], b [K,N]
  const char* name() const override { return "matmul"; }
  void backward() override {
    const Tensor &a = saved[0], &b = saved[1], &dy = grad_out();
    if (wants(0)) {
      const Target da = grad_target(0, a.shape(), a.dtype(), a.device());
      gemm(dy, transposed(b), da.tensor, {.beta = da.beta});
    }
    if (wants(1)) {
      const Target db = grad_target(1, b.shape(), b.dtype(), b.device());
      gemm(transposed(a), dy, db.tensor, {.beta = db.beta});
    }
  }
};

/// saved: x [R,K] if the weight is trained and x is not recomputed, weight [N,K]. inputs: x, weight (and bias)
struct LinearNode : Node {
  Shape x_shape;
  Var::Recomputation recomputation;  // of x, or null
  const char* name() const override { return "linear"; }
  void backward() override {
    const Tensor& w = saved[1];
    const Tensor dy = grad_out().view({-1, w.size(0)});  // [R,N]
    if (wants(0)) {
      const Target dx = grad_target(0, x_shape, w.dtype(), w.device());
      gemm(dy, w, dx.tensor.view({dy.size(0), w.size(1)}), {.beta = dx.beta});
    }
    if (wants(1)) {
      const Target dw = grad_target(1, w.shape(), grad_dtype(w.dtype()), w.device());
      const Tensor x = recomputation ? (*recomputation)().view({-1, w.size(1)}) : saved[0];
      gemm(transposed(dy), x, dw.tensor, {.beta = dw.beta});
    }
    if (inputs.size() > 2 && wants(2)) {
      const Target db = grad_target(2, {w.size(0)}, grad_dtype(w.dtype()), w.device());
      detail::sum_columns(dy, db.tensor, db.beta != 0, grad_out_slab_sums());
    }
  }
};

}  // namespace

Var matmul(const Var& a, const Var& b) {
  check(a.rank() == 2 && b.rank() == 2, "matmul", "expected matrices, got ", a.shape(), " and ", b.shape());
  Tensor y = Tensor::empty({a.size(0), b.size(1)}, a.dtype(), a.device());
  gemm(a.value(), b.value(), y);
  Var out(y);
  if (records(a, b)) {
    auto node = std::make_unique<MatmulNode>();
    node->saved = {a.value(), b.value()};
    Tape::current().record(std::move(node), {a, b}, {&out});
  }
  return out;
}

namespace {
bool takes_fp8(Matmul matmul, int64_t rows, int64_t n, int64_t k) {
  return matmul == Matmul::fp8_wherever ? fp8_fits(rows, n, k) : fp8_pays(rows, n, k);
}
}  // namespace

Var linear(const Var& x, const Var& weight, const Var& bias, const LinearOptions& options) {
  check(weight.rank() == 2, "linear", "weight must have shape [N, K], got ", weight.shape());
  check(x.rank() >= 1 && x.size(-1) == weight.size(1), "linear", "x must have shape [..., ", weight.size(1), "], got ",
        x.shape());
  check_same("linear", "x", x.value(), "weight", weight.value());
  if (bias.defined()) {
    check_shape("linear", "bias", bias.value(), {weight.size(0)});
    check_same("linear", "x", x.value(), "bias", bias.value());
  }
  if (options.matmul != Matmul::native) {
    check(x.dtype() == DType::bf16, "linear", "8-bit products are for bf16, got ", x.dtype());
    if (takes_fp8(options.matmul, x.numel() / x.size(-1), weight.size(0), weight.size(1))) {
      const Var y = linear_fp8(x, weight, options.recompute_input, options.unread && !bias.defined());
      return bias.defined() ? add_bias(y, bias) : y;
    }
  }
  Shape shape = x.shape();
  shape.set(-1, weight.size(0));
  const Tensor rows = x.value().view({-1, weight.size(1)});  // [R,K]
  Tensor y = Tensor::empty(shape, x.dtype(), x.device());
  const bool recorded = records(x, weight, bias);
  if (rows.size(0) == 1 && weight.bf16_copy().defined() && !recorded) {  // decoding: half the bytes
    cpu::matvec(weight.size(0), weight.size(1), weight.bf16_copy().data<bf16>(), rows.data<float>(), y.data<float>());
    if (bias.defined()) detail::add_bias_rows(y, bias.value(), y);
  } else if (!options.unread) {
    gemm(rows, transposed(weight.value()), y.view({rows.size(0), weight.size(0)}), {.bias = bias.value()});
  }
  Var out(y);
  if (recorded) {
    auto node = std::make_unique<LinearNode>();
    node->x_shape = x.shape();
    if (options.recompute_input && weight.requires_grad()) node->recomputation = x.recomputation();
    node->saved = {weight.requires_grad() && !node->recomputation ? rows : Tensor(), weight.value()};
    std::vector<Var> inputs = {x, weight};
    if (bias.defined()) inputs.push_back(bias);
    Tape::current().record(std::move(node), inputs, {&out});
    out.slot()->wants_slab_sums = bias.requires_grad();
  }
  return out;
}

}  // namespace rw
