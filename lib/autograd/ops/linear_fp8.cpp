// Linear layers in 8-bit products, on either device: the CPU's are the specification.
#include "autograd/ops/detail/linear_fp8.h"

#include "autograd/tape.h"
#include "tensor/gemm.h"
#include "tensor/quantize.h"

namespace rw {
namespace {

/// a b^T of 8-bit factors stored [M,K] and [N,K].
void product(const Tensor& a, const Tensor& a_scale, const Tensor& b, const Tensor& b_scale, const Tensor& c,
             const GemmOptions& options) {
  gemm({a, Trans::no, a_scale}, {b, Trans::yes, b_scale}, c, options);
}

/// absolute_max(x), unless whoever made x found it.
Tensor known_or(const Tensor& largest, const Tensor& x) { return largest.defined() ? largest : absolute_max(x); }

struct LinearFp8Node
    : Node {  // saved: weight [N,K], the largest of it and of x; x's columns [K,R] and scale, or `recomputation`
  Var::Recomputation recomputation;
  Shape x_shape;
  DType dtype = DType::bf16;
  const char* name() const override { return "linear fp8"; }
  void backward() override {
    const Tensor &weight = saved[0], &weight_largest = saved[1];
    const int64_t rows = grad_out().numel() / weight.size(0);
    const Tensor dy = grad_out().view({rows, weight.size(0)});  // [R,N]
    const Copies copies = !wants(1) ? Copies::rows : !wants(0) ? Copies::columns : Copies::both;
    const Quantized q = quantize(dy, known_or(grad_out_largest(), dy), DType::e5m2, copies);
    if (wants(0)) {
      const Target dx = grad_target(0, x_shape, dtype, dy.device());
      const Quantized w = quantize(weight, weight_largest, DType::e4m3, Copies::columns);
      product(q.rows, q.scale, w.columns, w.scale, dx.tensor.view({rows, weight.size(1)}), {.beta = dx.beta});
    }
    if (wants(1)) {
      const Target dw = grad_target(1, weight.shape(), DType::f32, dy.device());
      const Quantized x = x_copy();
      product(q.columns, q.scale, x.columns, x.scale, dw.tensor, {.beta = dw.beta});
    }
  }

  Quantized x_copy() const {
    if (!recomputation) return {Tensor(), saved[3], saved[4]};
    const Tensor x = (*recomputation)();
    return quantize(x.view({-1, saved[0].size(1)}), saved[2], DType::e4m3, Copies::columns);
  }
};

}  // namespace

bool fp8_fits(int64_t rows, int64_t n, int64_t k) {
  return rows > 0 && n > 0 && k > 0 && rows % 16 == 0 && n % 16 == 0 && k % 16 == 0;
}

bool fp8_pays(int64_t rows, int64_t n, int64_t k) {
  // Forward and backward multiply 6 R N K FLOPs, and move 6 bytes for each element of x and dy and 8 for each of W that
  // a bf16 product would not. On an H200 the products gain about 0.6 ps a FLOP and the copies cost 0.25 ps a byte.
  constexpr double kFlopsPerByte = 430;
  const double m = static_cast<double>(rows), flops = 6 * m * static_cast<double>(n) * static_cast<double>(k);
  const double bytes = 6 * m * static_cast<double>(n + k) + 8 * static_cast<double>(n) * static_cast<double>(k);
  return fp8_fits(rows, n, k) && flops >= kFlopsPerByte * bytes;
}

Var linear_fp8(const Var& x, const Var& weight, bool recompute_input, bool unread) {
  const Tensor rows = x.value().view({-1, weight.size(1)});  // [R,K]
  Shape shape = x.shape();
  shape.set(-1, weight.size(0));
  const Tensor y = Tensor::empty(shape, x.dtype(), x.device());
  recompute_input = recompute_input && x.recomputation();
  const bool keeps_x = records(weight) && !recompute_input;
  const Tensor largest = absolute_max(weight.value()), x_largest = known_or(x.largest(), rows);
  Quantized qx;
  if (keeps_x || !unread)
    qx = quantize(rows, x_largest, DType::e4m3, unread ? Copies::columns : keeps_x ? Copies::both : Copies::rows);
  if (!unread) {
    const Quantized qw = quantize(weight.value(), largest, DType::e4m3, Copies::rows);
    product(qx.rows, qx.scale, qw.rows, qw.scale, y.view({rows.size(0), weight.size(0)}), {.fast_accumulation = true});
  }
  Var out(y);
  if (records(x, weight)) {
    auto node = std::make_unique<LinearFp8Node>();
    node->x_shape = x.shape();
    node->dtype = x.dtype();
    node->saved = {weight.value(), largest, x_largest};
    if (keeps_x) node->saved.insert(node->saved.end(), {qx.columns, qx.scale});
    else if (recompute_input) node->recomputation = x.recomputation();
    Tape::current().record(std::move(node), {x, weight}, {&out});
    out.slot()->wants_largest = true;
  }
  return out;
}

}  // namespace rw
