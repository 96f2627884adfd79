// SwiGLU on the CPU: the loops and the recorded ops.
#include "autograd/ops/swiglu.h"

#include "autograd/ops/cuda_ops.h"
#include "autograd/ops/detail/gated_output.h"
#include "autograd/ops/detail/largest.h"
#include "autograd/tape.h"
#include "tensor/cpu_levels.h"
#include "tensor/math.h"
#include "tensor/parallel_for.h"

namespace rw {
namespace {

/// Rows of `width`; gate, up and their gradients may be strided (packed: stride 2F, up = gate + F).
template <class T>
void forward_rows(const T* gate, const T* up, int64_t stride, T* y, int64_t rows, int64_t width) {
  parallel_for(rows, 8, [=](int64_t begin, int64_t end) RW_CPU_LEVELS {
    for (int64_t r = begin; r < end; ++r) {
      const T *g = gate + r * stride, *u = up + r * stride;
      T* out = y + r * width;
#pragma omp simd
      for (int64_t c = 0; c < width; ++c) {
        const Acc<T> x = static_cast<Acc<T>>(g[c]);
        out[c] = static_cast<T>(x * sigmoid(x) * static_cast<Acc<T>>(u[c]));
      }
    }
  });
}

/// d silu(x)/dx = s (1 + x (1 - s)), s = sigmoid(x)
template <class T>
void backward_rows(const T* gate, const T* up, int64_t stride, const T* dy, T* dgate, T* dup, int64_t rows,
                   int64_t width) {
  parallel_for(rows, 8, [=](int64_t begin, int64_t end) RW_CPU_LEVELS {
    for (int64_t r = begin; r < end; ++r) {
      const T *g = gate + r * stride, *u = up + r * stride, *d = dy + r * width;
      T *dg = dgate + r * stride, *du = dup + r * stride;
#pragma omp simd
      for (int64_t c = 0; c < width; ++c) {
        const Acc<T> x = static_cast<Acc<T>>(g[c]), s = sigmoid(x), grad = static_cast<Acc<T>>(d[c]);
        dg[c] = static_cast<T>(grad * static_cast<Acc<T>>(u[c]) * s * (Acc<T>(1) + x * (Acc<T>(1) - s)));
        du[c] = static_cast<T>(grad * x * s);
      }
    }
  });
}

struct SwigluNode : Node {  // saved: gate, up
  const char* name() const override { return "swiglu"; }
  void backward() override {
    const Tensor &gate = saved[0], &up = saved[1], &dy = grad_out();
    const Tensor dgate = Tensor::empty_like(gate), dup = Tensor::empty_like(up);
    if (gate.is_cuda()) {
      cuda::swiglu_backward(gate, up, dy, dgate, dup);
    } else {
      const int64_t width = gate.size(-1);
      dispatch_float(gate.dtype(), name(), [&](auto zero) {
        using T = decltype(zero);
        backward_rows<T>(gate.data<T>(), up.data<T>(), width, dy.data<T>(), dgate.data<T>(), dup.data<T>(),
                         gate.numel() / width, width);
      });
    }
    add_grad(0, dgate);
    add_grad(1, dup);
  }
};

struct SwigluPackedNode : Node {  // saved: gate_up [...,2F]
  const char* name() const override { return "swiglu_packed"; }
  void backward() override {
    const Tensor &packed = saved[0], &dy = grad_out();
    const Tensor d = Tensor::empty_like(packed);
    const Tensor largest = detail::place_for_largest(d, *this, {0});
    if (packed.is_cuda()) {
      cuda::swiglu_packed_backward(packed, dy, d, largest);
    } else {
      const int64_t width = packed.size(-1) / 2;
      dispatch_float(packed.dtype(), name(), [&](auto zero) {
        using T = decltype(zero);
        backward_rows<T>(packed.data<T>(), packed.data<T>() + width, 2 * width, dy.data<T>(), d.data<T>(),
                         d.data<T>() + width, dy.numel() / width, width);
      });
    }
    add_grad(0, d, largest);
  }
};

}  // namespace

Var swiglu(const Var& gate, const Var& up) {
  check_same("swiglu", "gate", gate.value(), "up", up.value());
  check_shape("swiglu", "up", up.value(), gate.shape());
  const Tensor y = Tensor::empty_like(gate.value());
  if (gate.is_cuda()) {
    cuda::swiglu_forward(gate.value(), up.value(), y);
  } else {
    const int64_t width = gate.size(-1);
    dispatch_float(gate.dtype(), "swiglu", [&](auto zero) {
      using T = decltype(zero);
      forward_rows<T>(gate.value().data<T>(), up.value().data<T>(), width, y.data<T>(), y.numel() / width, width);
    });
  }
  Var out(y);
  if (records(gate, up)) {
    auto node = std::make_unique<SwigluNode>();
    node->saved = {gate.value(), up.value()};
    Tape::current().record(std::move(node), {gate, up}, {&out});
  }
  return out;
}

Var swiglu_packed(const Var& gate_up, const GatedOptions& options) {
  const detail::GatedOutput to = detail::gated_output("swiglu_packed", gate_up.value(), options.feeds_fp8);
  const Tensor& y = to.y;
  const int64_t width = to.width;
  if (gate_up.is_cuda()) {
    cuda::swiglu_packed_forward(gate_up.value(), y, to.largest);
  } else {
    dispatch_float(gate_up.dtype(), "swiglu_packed", [&](auto zero) {
      using T = decltype(zero);
      const T* p = gate_up.value().data<T>();
      forward_rows<T>(p, p + width, 2 * width, y.data<T>(), width ? y.numel() / width : 0, width);
    });
  }
  Var out(y);
  out.set_largest(to.largest);
  if (records(gate_up)) {
    out.set_recomputation([packed = gate_up.value()] { return swiglu_packed(packed).value(); });
    auto node = std::make_unique<SwigluPackedNode>();
    node->saved = {gate_up.value()};
    Tape::current().record(std::move(node), {gate_up}, {&out});
  }
  return out;
}

}  // namespace rw
