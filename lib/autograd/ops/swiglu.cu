// SwiGLU:  y = silu(gate) * up,  silu(x) = x s,  s = 1 / (1 + e^-x)
//
//   dgate = dy up s (1 + gate (1 - s)),   dup = dy silu(gate)
#include "autograd/ops/cuda_ops.h"
#include "autograd/ops/detail/gated.cuh"
#include "autograd/ops/detail/silu.cuh"

namespace rw::cuda {
namespace {

template <class T>
void forward(int64_t rows, int64_t width, int64_t stride, const T* gate, const T* up, T* y, float* largest = nullptr) {
  gated_forward<Silu<T>, T>("swiglu", rows, width, stride, gate, up, y, largest);
}

template <class T>
void backward(int64_t rows, int64_t width, int64_t stride, const T* gate, const T* up, const T* dy, T* dgate, T* dup,
              float* largest = nullptr) {
  gated_backward<Silu<T>, T>("swiglu_backward", rows, width, stride, gate, up, dy, dgate, dup, largest);
}

}  // namespace

void swiglu_forward(const Tensor& gate, const Tensor& up, const Tensor& y) {
  dispatch(y.dtype(), "swiglu", [&](auto zero) {
    using T = decltype(zero);
    forward<T>(gated_rows(y), y.size(-1), y.size(-1), as<T>(gate), as<T>(up), as<T>(y));
  });
}

void swiglu_backward(const Tensor& gate, const Tensor& up, const Tensor& dy, const Tensor& dgate, const Tensor& dup) {
  dispatch(dy.dtype(), "swiglu", [&](auto zero) {
    using T = decltype(zero);
    backward<T>(gated_rows(dy), dy.size(-1), dy.size(-1), as<T>(gate), as<T>(up), as<T>(dy), as<T>(dgate), as<T>(dup));
  });
}

void swiglu_packed_forward(const Tensor& gate_up, const Tensor& y, const Tensor& largest) {
  dispatch(y.dtype(), "swiglu_packed", [&](auto zero) {
    using T = decltype(zero);
    const int64_t width = y.size(-1);
    forward<T>(gated_rows(y), width, 2 * width, as<T>(gate_up), as<T>(gate_up) + width, as<T>(y), as<float>(largest));
  });
}

void swiglu_packed_backward(const Tensor& gate_up, const Tensor& dy, const Tensor& dgate_up, const Tensor& largest) {
  dispatch(dy.dtype(), "swiglu_packed", [&](auto zero) {
    using T = decltype(zero);
    const int64_t width = dy.size(-1);
    backward<T>(gated_rows(dy), width, 2 * width, as<T>(gate_up), as<T>(gate_up) + width, as<T>(dy), as<T>(dgate_up),
                as<T>(dgate_up) + width, as<float>(largest));
  });
}

}  // namespace rw::cuda
