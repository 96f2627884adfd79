// Products with a weight in blocks: made whole, multiplied, and given back.
#include "autograd/ops/linear_blocks.h"

#include "autograd/ops/detail/bias.h"
#include "autograd/tape.h"
#include "tensor/gemm.h"

namespace rw {
namespace {

Tensor whole(const BlockMatrix& weight, DType dtype, Device device) {
  const MemoryTag tag("dequantized");
  const Tensor w = Tensor::empty({weight.rows, weight.columns}, dtype, device);
  dequantize(weight, w);
  return w;
}

struct LinearBlocksNode : Node {  // inputs: x (and bias)
  BlockMatrix weight;
  Shape x_shape;
  const char* name() const override { return "linear blocks"; }
  void backward() override {
    const Tensor dy = grad_out().view({-1, weight.rows});  // [R,N]
    if (wants(0)) {
      const Target dx = grad_target(0, x_shape, dy.dtype(), dy.device());
      gemm(dy, whole(weight, dy.dtype(), dy.device()), dx.tensor.view({dy.size(0), weight.columns}), {.beta = dx.beta});
    }
    if (inputs.size() > 1 && wants(1)) {
      const DType t = dy.dtype() == DType::bf16 ? DType::f32 : dy.dtype();
      const Target db = grad_target(1, {weight.rows}, t, dy.device());
      detail::sum_columns(dy, db.tensor, db.beta != 0);
    }
  }
};

}  // namespace

Var linear_blocks(const Var& x, const BlockMatrix& weight, const Var& bias, bool unread) {
  check(x.rank() >= 1 && x.size(-1) == weight.columns, "linear_blocks", "x must have shape [..., ", weight.columns,
        "], got ", x.shape());
  if (bias.defined()) check_shape("linear_blocks", "bias", bias.value(), {weight.rows});
  Shape shape = x.shape();
  shape.set(-1, weight.rows);
  const Tensor y = Tensor::empty(shape, x.dtype(), x.device());
  if (!unread)
    gemm(x.value().view({-1, weight.columns}), transposed(whole(weight, x.dtype(), x.device())),
         y.view({-1, weight.rows}), {.bias = bias.value()});
  Var out(y);
  if (records(x, bias)) {
    auto node = std::make_unique<LinearBlocksNode>();
    node->weight = weight;
    node->x_shape = x.shape();
    std::vector<Var> inputs = {x};
    if (bias.defined()) inputs.push_back(bias);
    Tape::current().record(std::move(node), inputs, {&out});
  }
  return out;
}

}  // namespace rw
