// Elementwise ops on the CPU: the loops, the recorded ops, and the bias that other ops share (detail/bias.h).
#include "autograd/ops/elementwise.h"

#include <cmath>

#include "autograd/ops/cuda_ops.h"
#include "autograd/ops/detail/bias.h"
#include "autograd/tape.h"
#include "tensor/cpu_levels.h"
#include "tensor/math.h"
#include "tensor/parallel_for.h"

namespace rw {
namespace {

constexpr int64_t kGrain = 1 << 15;

using cuda::Binary;
using cuda::Unary;

template <class F>
void binary_cpu(const Tensor& a, const Tensor& b, const Tensor& y, F f) {
  dispatch_float(y.dtype(), "elementwise", [&](auto zero) {
    using T = decltype(zero);
    const T *pa = a.data<T>(), *pb = b.data<T>();
    T* py = y.data<T>();
    parallel_for(y.numel(), kGrain, [=](int64_t begin, int64_t end) RW_CPU_LEVELS {
      for (int64_t i = begin; i < end; ++i)
        py[i] = static_cast<T>(f(static_cast<Acc<T>>(pa[i]), static_cast<Acc<T>>(pb[i])));
    });
  });
}

Tensor binary(Binary op, const char* name, const Tensor& a, const Tensor& b) {
  check_same(name, "a", a, "b", b);
  check(a.shape() == b.shape(), name, "a has shape ", a.shape(), " but b has ", b.shape());
  const Tensor y = Tensor::empty_like(a);
  if (a.is_cuda()) {
    cuda::binary(op, a, b, y);
  } else if (op == Binary::add) {
    binary_cpu(a, b, y, [](auto p, auto q) { return p + q; });
  } else if (op == Binary::sub) {
    binary_cpu(a, b, y, [](auto p, auto q) { return p - q; });
  } else {
    binary_cpu(a, b, y, [](auto p, auto q) { return p * q; });
  }
  return y;
}

Tensor scaled(const Tensor& x, double factor) {
  const Tensor y = Tensor::empty_like(x);
  if (x.is_cuda()) {
    cuda::scale(x, factor, y);
  } else {
    binary_cpu(x, x, y, [factor](auto p, auto) { return static_cast<decltype(p)>(factor) * p; });
  }
  return y;
}

struct AddNode : Node {
  double sign = 1;
  const char* name() const override { return sign > 0 ? "add" : "sub"; }
  void backward() override {
    const bool plus = sign > 0;
    const Tensor sums = plus && both_want_slab_sums() ? cuda::slab_sums(grad_out()) : Tensor();
    add_grad(0, grad_out(), {}, sums);
    if (wants(1)) add_grad(1, plus ? grad_out() : scaled(grad_out(), -1), {}, sums);
  }

 private:
  /// Linear layers with biases side by side, as in parallel blocks, get one gradient: its rows are summed once for both.
  bool both_want_slab_sums() const {
    return grad_out().is_cuda() && wants(0) && wants(1) && inputs[0]->wants_slab_sums && inputs[1]->wants_slab_sums;
  }
};

struct MulNode : Node {  // saved: a, b
  const char* name() const override { return "mul"; }
  void backward() override {
    if (wants(0)) add_grad(0, binary(Binary::mul, "mul", grad_out(), saved[1]));
    if (wants(1)) add_grad(1, binary(Binary::mul, "mul", grad_out(), saved[0]));
  }
};

struct ScaleNode : Node {
  double factor = 1;
  const char* name() const override { return "scale"; }
  void backward() override { add_grad(0, scaled(grad_out(), factor)); }
};

struct AddBiasNode : Node {
  Shape bias_shape;
  DType bias_dtype = DType::f32;
  const char* name() const override { return "add_bias"; }
  void backward() override {
    add_grad(0, grad_out());
    if (!wants(1)) return;
    const Tensor& dy = grad_out();
    const Target db = grad_target(1, bias_shape, bias_dtype, dy.device());
    detail::sum_columns(dy, db.tensor, db.beta != 0);
  }
};

struct SoftCapNode : Node {  // saved: y
  double cap = 1;
  const char* name() const override { return "soft_cap"; }
  void backward() override {
    const Tensor &y = saved[0], &dy = grad_out();
    const Tensor dx = Tensor::empty_like(y);
    if (y.is_cuda()) {
      cuda::soft_cap_backward(y, cap, dy, dx);
    } else {
      binary_cpu(y, dy, dx, [cap = cap](auto value, auto grad) {
        const auto t = value / static_cast<decltype(value)>(cap);
        return grad * (decltype(t)(1) - t * t);
      });
    }
    add_grad(0, dx);
  }
};

/// f(x) and f'(x) given x and y = f(x).
template <class A>
A unary_value(Unary op, A x) {
  switch (op) {
    case Unary::exp:
      return fast_exp(x);
    case Unary::log:
      return std::log(x);
    case Unary::tanh:
      return std::tanh(x);
    case Unary::silu:
      return x * sigmoid(x);
  }
  return x;
}
template <class A>
A unary_slope(Unary op, A x, A y) {
  switch (op) {
    case Unary::exp:
      return y;
    case Unary::log:
      return A(1) / x;
    case Unary::tanh:
      return A(1) - y * y;
    case Unary::silu: {
      const A s = sigmoid(x);
      return s * (A(1) + x * (A(1) - s));
    }
  }
  return x;
}

struct UnaryNode : Node {  // saved: x, y
  Unary op = Unary::exp;
  const char* name() const override {
    constexpr const char* names[] = {"exp", "log", "tanh", "silu"};
    return names[static_cast<int>(op)];
  }
  void backward() override {
    const Tensor &x = saved[0], &y = saved[1], &dy = grad_out();
    const Tensor dx = Tensor::empty_like(x);
    if (x.is_cuda()) {
      cuda::unary_backward(op, x, y, dy, dx);
    } else {
      dispatch_float(x.dtype(), name(), [&](auto zero) {
        using T = decltype(zero);
        const T *px = x.data<T>(), *py = y.data<T>(), *pg = dy.data<T>();
        T* pd = dx.data<T>();
        parallel_for(x.numel(), kGrain, [&, px, py, pg, pd](int64_t begin, int64_t end) RW_CPU_LEVELS {
          for (int64_t i = begin; i < end; ++i) {
            pd[i] = static_cast<T>(static_cast<Acc<T>>(pg[i]) *
                                   unary_slope(op, static_cast<Acc<T>>(px[i]), static_cast<Acc<T>>(py[i])));
          }
        });
      });
    }
    add_grad(0, dx);
  }
};

Var unary(Unary op, const Var& x) {
  const Tensor y = Tensor::empty_like(x.value());
  if (x.is_cuda()) {
    cuda::unary(op, x.value(), y);
  } else {
    binary_cpu(x.value(), x.value(), y, [op](auto p, auto) { return unary_value(op, p); });
  }
  Var out(y);
  if (records(x)) {
    auto node = std::make_unique<UnaryNode>();
    node->op = op;
    node->saved = {x.value(), y};
    Tape::current().record(std::move(node), {x}, {&out});
  }
  return out;
}

Var add_or_sub(const Var& a, const Var& b, double sign) {
  Var out(binary(sign > 0 ? Binary::add : Binary::sub, sign > 0 ? "add" : "sub", a.value(), b.value()));
  if (records(a, b)) {
    auto node = std::make_unique<AddNode>();
    node->sign = sign;
    Tape::current().record(std::move(node), {a, b}, {&out});
  }
  return out;
}

/// Row r of x [R,C], r = b*T + t, times factor[t].
Tensor scaled_tokens(const Tensor& x, const Tensor& factor) {
  const int64_t length = factor.numel(), rows = x.size(0) * length, columns = rows ? x.numel() / rows : 0;
  const Tensor y = Tensor::empty_like(x);
  const Tensor host = factor.to(kCpu);
  if (x.is_cuda()) {
    const Tensor per_row = Tensor::empty({rows});
    for (int64_t r = 0; r < rows; ++r) per_row.data<float>()[r] = host.data<float>()[r % length];
    cuda::scale_rows(x.view({rows, columns}), per_row.to(x.device()), y.view({rows, columns}));
    return y;
  }
  dispatch_float(x.dtype(), "scale_tokens", [&](auto zero) {
    using T = decltype(zero);
    const T* px = x.data<T>();
    T* py = y.data<T>();
    const float* f = host.data<float>();
    parallel_for(rows, 64, [=](int64_t begin, int64_t end) RW_CPU_LEVELS {
      for (int64_t i = begin * columns; i < end * columns; ++i) {
        py[i] = static_cast<T>(static_cast<Acc<T>>(px[i]) * static_cast<Acc<T>>(f[i / columns % length]));
      }
    });
  });
  return y;
}

struct ScaleTokensNode : Node {  // saved: factor
  const char* name() const override { return "scale_tokens"; }
  void backward() override { add_grad(0, scaled_tokens(grad_out(), saved[0])); }
};

struct ReshapeNode : Node {
  Shape shape;  // of the input
  const char* name() const override { return "reshape"; }
  void backward() override { add_grad(0, grad_out().view(shape)); }
};

}  // namespace

namespace detail {

void add_bias_rows(const Tensor& x, const Tensor& bias, const Tensor& y) {
  if (x.numel() == 0) return;
  if (x.is_cuda()) return cuda::add_bias(x, bias, y);
  const int64_t columns = x.size(-1);
  dispatch_float(x.dtype(), "add_bias", [&](auto zero) {
    using T = decltype(zero);
    const T *px = x.data<T>(), *pb = bias.data<T>();
    T* py = y.data<T>();
    parallel_for(x.numel() / columns, 64, [=](int64_t begin, int64_t end) RW_CPU_LEVELS {
      for (int64_t r = begin; r < end; ++r) {
        for (int64_t c = 0; c < columns; ++c) {
          py[r * columns + c] = static_cast<T>(static_cast<Acc<T>>(px[r * columns + c]) + static_cast<Acc<T>>(pb[c]));
        }
      }
    });
  });
}

void sum_columns(const Tensor& x, const Tensor& out, bool add, const Tensor& slab_sums) {
  if (slab_sums.defined()) return cuda::add_partial_rows(slab_sums, out, add);
  const int64_t columns = out.numel(), rows = columns ? x.numel() / columns : 0;
  if (x.is_cuda()) return cuda::column_sums(x.view({rows, columns}), out, add);
  const Tensor sums = Tensor::zeros(out.shape(), DType::f64);
  dispatch_float(x.dtype(), "column_sums", [&](auto zero) {
    using T = decltype(zero);
    const T* p = x.data<T>();
    double* s = sums.data<double>();
    parallel_for(columns, 64, [=](int64_t begin, int64_t end) RW_CPU_LEVELS {  // every column in the order of its rows
      for (int64_t r = 0; r < rows; ++r) {
        for (int64_t c = begin; c < end; ++c) s[c] += static_cast<double>(p[r * columns + c]);
      }
    });
  });
  if (!add) out.zero();
  accumulate(out, sums.to(out.dtype()));
}

}  // namespace detail

Var add(const Var& a, const Var& b) { return add_or_sub(a, b, 1); }
Var sub(const Var& a, const Var& b) { return add_or_sub(a, b, -1); }

Var mul(const Var& a, const Var& b) {
  Var out(binary(Binary::mul, "mul", a.value(), b.value()));
  if (records(a, b)) {
    auto node = std::make_unique<MulNode>();
    node->saved = {a.value(), b.value()};
    Tape::current().record(std::move(node), {a, b}, {&out});
  }
  return out;
}

Var scale(const Var& x, double factor) {
  Var out(scaled(x.value(), factor));
  if (records(x)) {
    auto node = std::make_unique<ScaleNode>();
    node->factor = factor;
    Tape::current().record(std::move(node), {x}, {&out});
  }
  return out;
}

Var add_bias(const Var& x, const Var& bias) {
  check_same("add_bias", "x", x.value(), "bias", bias.value());
  check_shape("add_bias", "bias", bias.value(), {x.size(-1)});
  const Tensor y = Tensor::empty_like(x.value());
  detail::add_bias_rows(x.value(), bias.value(), y);
  Var out(y);
  if (records(x, bias)) {
    auto node = std::make_unique<AddBiasNode>();
    node->bias_shape = bias.shape();
    node->bias_dtype = bias.dtype();
    Tape::current().record(std::move(node), {x, bias}, {&out});
  }
  return out;
}

Var scale_tokens(const Var& x, const Tensor& factor) {
  check(x.rank() >= 2, "scale_tokens", "x must have shape [B, T, ...], got ", x.shape());
  check_shape("scale_tokens", "factor", factor, {x.size(1)});
  Var out(scaled_tokens(x.value(), factor));
  if (records(x)) {
    auto node = std::make_unique<ScaleTokensNode>();
    node->saved = {factor};
    Tape::current().record(std::move(node), {x}, {&out});
  }
  return out;
}

Var exp(const Var& x) { return unary(Unary::exp, x); }
Var log(const Var& x) { return unary(Unary::log, x); }
Var tanh(const Var& x) { return unary(Unary::tanh, x); }
Var silu(const Var& x) { return unary(Unary::silu, x); }

Var soft_cap(const Var& x, double cap) {
  check(cap > 0 && std::isfinite(cap), "soft_cap", "cap must be positive and finite, got ", cap);
  const Tensor y = Tensor::empty_like(x.value());
  if (x.is_cuda()) {
    cuda::soft_cap(x.value(), cap, y);
  } else {
    binary_cpu(x.value(), x.value(), y, [cap](auto p, auto) {
      const auto c = static_cast<decltype(p)>(cap);
      return c * fast_tanh(p / c);
    });
  }
  Var out(y);
  if (records(x)) {
    auto node = std::make_unique<SoftCapNode>();
    node->cap = cap;
    node->saved = {y};
    Tape::current().record(std::move(node), {x}, {&out});
  }
  return out;
}

Var reshape(const Var& x, const Shape& shape) {
  Var out(x.value().view(shape));
  out.set_largest(x.largest());
  if (x.recomputation())
    out.set_recomputation([x_of = x.recomputation(), shape = out.shape()] { return (*x_of)().view(shape); });
  if (records(x)) {
    auto node = std::make_unique<ReshapeNode>();
    node->shape = x.shape();
    Tape::current().record(std::move(node), {x}, {&out});
  }
  return out;
}

}  // namespace rw
