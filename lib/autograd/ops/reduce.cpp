// Sums on the CPU, in f64 and in a fixed order, and the recorded ops.
#include "autograd/ops/reduce.h"

#include "autograd/ops/cuda_ops.h"
#include "autograd/tape.h"

namespace rw {
namespace {

/// Sum of n values in blocks, so that f32 inputs lose nothing that matters: f64 partial sums in a fixed order.
double total(const Tensor& x) {
  double s = 0;
  dispatch_float(x.dtype(), "sum", [&](auto zero) {
    using T = decltype(zero);
    const T* p = x.data<T>();
    for (int64_t i = 0; i < x.numel(); ++i) s += static_cast<double>(p[i]);
  });
  return s;
}

struct SumNode : Node {
  Shape shape;
  double factor = 1;
  const char* name() const override { return factor == 1 ? "sum" : "mean"; }
  void backward() override {
    const Tensor& dy = grad_out();
    if (dy.is_cuda()) {
      const Tensor dx = Tensor::empty(shape, dy.dtype(), dy.device());
      cuda::broadcast_scalar(dy, factor, dx);
      return add_grad(0, dx);
    }
    add_grad(0, Tensor::full(shape, factor * dy.item(), dy.dtype()));
  }
};

Var total_times(const Var& x, double factor) {
  Tensor y = Tensor::empty({1}, x.dtype(), x.device());
  if (x.is_cuda()) {
    cuda::sum_all(x.value(), factor, y);
  } else {
    y.fill(factor * total(x.value()));
  }
  Var out(y);
  if (records(x)) {
    auto node = std::make_unique<SumNode>();
    node->shape = x.shape();
    node->factor = factor;
    Tape::current().record(std::move(node), {x}, {&out});
  }
  return out;
}

struct SumLastNode : Node {
  Shape shape;
  const char* name() const override { return "sum_last"; }
  void backward() override {
    const Tensor& dy = grad_out();
    const Tensor dx = Tensor::empty(shape, dy.dtype(), dy.device());
    const int64_t columns = shape[-1];
    if (dy.is_cuda()) {
      cuda::broadcast_last(dy, dx.view({-1, columns}));
    } else {
      dispatch_float(dy.dtype(), "sum_last", [&](auto zero) {
        using T = decltype(zero);
        for (int64_t r = 0; r < dy.numel(); ++r) std::fill_n(dx.data<T>() + r * columns, columns, dy.data<T>()[r]);
      });
    }
    add_grad(0, dx);
  }
};

}  // namespace

Var sum(const Var& x) { return total_times(x, 1); }
Var mean(const Var& x) { return total_times(x, 1.0 / static_cast<double>(x.numel())); }

Var sum_last(const Var& x) {
  check(x.rank() >= 1 && x.size(-1) > 0, "sum_last", "x must have a non-empty last dimension, got ", x.shape());
  Shape shape;
  for (int d = 0; d + 1 < x.rank(); ++d) shape.push_back(x.size(d));
  if (shape.rank() == 0) shape.push_back(1);
  const Tensor y = Tensor::empty(shape, x.dtype(), x.device());
  const int64_t columns = x.size(-1);
  if (x.is_cuda()) {
    cuda::sum_last(x.value().view({-1, columns}), y);
  } else {
    dispatch_float(x.dtype(), "sum_last", [&](auto zero) {
      using T = decltype(zero);
      const T* p = x.value().data<T>();
      for (int64_t r = 0; r < y.numel(); ++r) {
        double s = 0;
        for (int64_t c = 0; c < columns; ++c) s += static_cast<double>(p[r * columns + c]);
        y.data<T>()[r] = static_cast<T>(s);
      }
    });
  }
  Var out(y);
  if (records(x)) {
    auto node = std::make_unique<SumLastNode>();
    node->shape = x.shape();
    Tape::current().record(std::move(node), {x}, {&out});
  }
  return out;
}

}  // namespace rw
