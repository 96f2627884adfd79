// Activations on the CPU: the loops, the recorded ops, and the choice between CPU and GPU.
#include "autograd/ops/activation.h"

#include "autograd/ops/cuda_ops.h"
#include "autograd/ops/detail/activation_math.h"
#include "autograd/ops/detail/gated_output.h"
#include "autograd/ops/detail/largest.h"
#include "autograd/ops/elementwise.h"
#include "autograd/ops/swiglu.h"
#include "autograd/tape.h"
#include "tensor/cpu_levels.h"
#include "tensor/parallel_for.h"

namespace rw {
namespace {

constexpr int64_t kGrain = 1 << 14;

/// Calls f with the functions of one activation; SiLU has ops of its own.
template <class F>
void with_math(Activation activation, F&& f) {
  if (activation == Activation::gelu) return f(detail::GeluMath{});
  check(activation == Activation::gelu_tanh, "activate", "unknown activation ", static_cast<int>(activation));
  f(detail::GeluTanhMath{});
}

template <class T, class M>
void value_cpu(const T* x, T* y, int64_t n) {
  parallel_for(n, kGrain, [=](int64_t begin, int64_t end) RW_CPU_LEVELS {
    for (int64_t i = begin; i < end; ++i) y[i] = static_cast<T>(M::value(static_cast<Acc<T>>(x[i])));
  });
}

template <class T, class M>
void slope_cpu(const T* x, const T* dy, T* dx, int64_t n) {
  parallel_for(n, kGrain, [=](int64_t begin, int64_t end) RW_CPU_LEVELS {
    for (int64_t i = begin; i < end; ++i)
      dx[i] = static_cast<T>(static_cast<Acc<T>>(dy[i]) * M::slope(static_cast<Acc<T>>(x[i])));
  });
}

/// gate_up [rows, 2 width] -> y [rows, width]
template <class T, class M>
void gated_cpu(const T* gate_up, T* y, int64_t rows, int64_t width) {
  parallel_for(rows, 8, [=](int64_t begin, int64_t end) RW_CPU_LEVELS {
    for (int64_t r = begin; r < end; ++r) {
      const T *g = gate_up + 2 * r * width, *u = g + width;
      T* out = y + r * width;
      for (int64_t c = 0; c < width; ++c)
        out[c] = static_cast<T>(M::value(static_cast<Acc<T>>(g[c])) * static_cast<Acc<T>>(u[c]));
    }
  });
}

template <class T, class M>
void gated_backward_cpu(const T* gate_up, const T* dy, T* d, int64_t rows, int64_t width) {
  parallel_for(rows, 8, [=](int64_t begin, int64_t end) RW_CPU_LEVELS {
    for (int64_t r = begin; r < end; ++r) {
      const T *g = gate_up + 2 * r * width, *u = g + width, *grad = dy + r * width;
      T *dg = d + 2 * r * width, *du = dg + width;
      for (int64_t c = 0; c < width; ++c) {
        const Acc<T> x = static_cast<Acc<T>>(g[c]), gr = static_cast<Acc<T>>(grad[c]);
        dg[c] = static_cast<T>(gr * static_cast<Acc<T>>(u[c]) * M::slope(x));
        du[c] = static_cast<T>(gr * M::value(x));
      }
    }
  });
}

struct ActivateNode : Node {  // saved: x
  Activation activation = Activation::gelu;
  const char* name() const override { return "activate"; }
  void backward() override {
    const Tensor &x = saved[0], &dy = grad_out();
    const Tensor dx = Tensor::empty_like(x);
    Tensor slab_sums;
    if (x.is_cuda()) {
      slab_sums = cuda::activate_backward(activation, x, dy, dx, wants(0) && inputs[0]->wants_slab_sums);
    } else {
      with_math(activation, [&](auto math) {
        dispatch_float(x.dtype(), name(), [&](auto zero) {
          using T = decltype(zero);
          slope_cpu<T, decltype(math)>(x.data<T>(), dy.data<T>(), dx.data<T>(), x.numel());
        });
      });
    }
    add_grad(0, dx, {}, slab_sums);
  }
};

struct GatedPackedNode : Node {  // saved: gate_up [...,2F]
  Activation activation = Activation::gelu;
  const char* name() const override { return "gated_packed"; }
  void backward() override {
    const Tensor &packed = saved[0], &dy = grad_out();
    const Tensor d = Tensor::empty_like(packed);
    const Tensor largest = detail::place_for_largest(d, *this, {0});
    if (packed.is_cuda()) {
      cuda::gated_packed_backward(activation, packed, dy, d, largest);
    } else {
      const int64_t width = packed.size(-1) / 2, rows = width ? dy.numel() / width : 0;
      with_math(activation, [&](auto math) {
        dispatch_float(packed.dtype(), name(), [&](auto zero) {
          using T = decltype(zero);
          gated_backward_cpu<T, decltype(math)>(packed.data<T>(), dy.data<T>(), d.data<T>(), rows, width);
        });
      });
    }
    add_grad(0, d, largest);
  }
};

}  // namespace

Var activate(const Var& x, Activation activation) {
  if (activation == Activation::silu) return silu(x);
  const Tensor y = Tensor::empty_like(x.value());
  if (x.is_cuda()) {
    cuda::activate(activation, x.value(), y);
  } else {
    with_math(activation, [&](auto math) {
      dispatch_float(x.dtype(), "activate", [&](auto zero) {
        using T = decltype(zero);
        value_cpu<T, decltype(math)>(x.value().data<T>(), y.data<T>(), x.numel());
      });
    });
  }
  Var out(y);
  if (records(x)) {
    out.set_recomputation([x_value = x.value(), activation] { return activate(x_value, activation).value(); });
    auto node = std::make_unique<ActivateNode>();
    node->activation = activation;
    node->saved = {x.value()};
    Tape::current().record(std::move(node), {x}, {&out});
  }
  return out;
}

Var gated_packed(const Var& gate_up, Activation activation, const GatedOptions& options) {
  if (activation == Activation::silu) return swiglu_packed(gate_up, options);
  const detail::GatedOutput to = detail::gated_output("gated_packed", gate_up.value(), options.feeds_fp8);
  const Tensor& y = to.y;
  const int64_t width = to.width;
  if (gate_up.is_cuda()) {
    cuda::gated_packed_forward(activation, gate_up.value(), y, to.largest);
  } else {
    with_math(activation, [&](auto math) {
      dispatch_float(gate_up.dtype(), "gated_packed", [&](auto zero) {
        using T = decltype(zero);
        gated_cpu<T, decltype(math)>(gate_up.value().data<T>(), y.data<T>(), width ? y.numel() / width : 0, width);
      });
    });
  }
  Var out(y);
  out.set_largest(to.largest);
  if (records(gate_up)) {
    out.set_recomputation([packed = gate_up.value(), activation] { return gated_packed(packed, activation).value(); });
    auto node = std::make_unique<GatedPackedNode>();
    node->activation = activation;
    node->saved = {gate_up.value()};
    Tape::current().record(std::move(node), {gate_up}, {&out});
  }
  return out;
}

}  // namespace rw
