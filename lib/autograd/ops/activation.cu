// GELU and its tanh approximation, alone and as the gate of a gated linear unit:
//
//   gelu(x) = x Phi(x),             slope Phi(x) + x phi(x),           Phi(x) = (1 + erf(x / sqrt 2)) / 2
//   gelu_tanh(x) = x sigmoid(2u),   slope s + x s (1 - s) d(2u)/dx,    2u = x (a + b x^2), s = sigmoid(2u)
#include "autograd/ops/column_sums.cuh"
#include "autograd/ops/cuda_ops.h"
#include "autograd/ops/detail/gated.cuh"
#include "autograd/ops/detail/map.cuh"

namespace rw::cuda {
namespace {

/// bf16 results need no more than the fast exponential and erf; f32 results get erfc, whose tail keeps its digits.
template <class T>
struct Gelu {
  __device__ __forceinline__ static float phi(float x) {  // Phi
    if constexpr (std::is_same_v<T, b16>) return fmaf(0.5f, erff(x * 0.70710678f), 0.5f);
    return 0.5f * erfcf(-x * 0.70710678f);
  }
  __device__ __forceinline__ static float value(float x) { return x * phi(x); }
  __device__ __forceinline__ static float slope(float x) {
    const float density = std::is_same_v<T, b16> ? __expf(-0.5f * x * x) : expf(-0.5f * x * x);
    return phi(x) + x * 0.39894228f * density;
  }
};

template <class T>
struct GeluTanh {
  static constexpr float kA = 1.59576912f, kB = 1.59576912f * 0.044715f;
  __device__ __forceinline__ static float sigmoid(float x) {
    if constexpr (std::is_same_v<T, b16>) return __fdividef(1.f, 1.f + __expf(-x));
    return 1.f / (1.f + expf(-x));
  }
  /// Beyond |x| = 12 the sigmoid is 0 or 1; the square of a larger x could overflow. NaN stays NaN.
  __device__ __forceinline__ static float clamped(float x) { return x > 12.f ? 12.f : (x < -12.f ? -12.f : x); }
  __device__ __forceinline__ static float value(float x) {
    const float c = clamped(x);
    return x * sigmoid(c * fmaf(kB, c * c, kA));
  }
  __device__ __forceinline__ static float slope(float x) {
    const float c = clamped(x), s = sigmoid(c * fmaf(kB, c * c, kA));
    return s + c * s * (1.f - s) * fmaf(3.f * kB, c * c, kA);
  }
};

template <class M>
struct Value {
  __device__ float operator()(int64_t, float x) const { return M::value(x); }
};
template <class M>
struct Slope {
  __device__ float operator()(int64_t, float x, float dy) const { return dy * M::slope(x); }
};
/// Makes N elements of dx and gives them as they were stored.
template <class M, int N, class T>
struct SlopeRows {
  const T *x, *dy;
  T* dx;
  __device__ Vec<float, N> operator()(int64_t at) const {
    const Vec<float, N> value = load_float<N>(x + at), grad = load_float<N>(dy + at);
    Vec<float, N> exact;
#pragma unroll
    for (int i = 0; i < N; ++i) exact.at[i] = grad.at[i] * M::slope(value.at[i]);
    const Vec<T, N> stored = narrow<T, N>(exact);
    store<N>(dx + at, stored);
    return widen<N>(stored);
  }
};
template <class M>
struct Gate {
  __device__ __forceinline__ static float value(float gate, float up) { return M::value(gate) * up; }
  __device__ __forceinline__ static void gradient(float gate, float up, float dy, float& dgate, float& dup) {
    dgate = dy * up * M::slope(gate);
    dup = dy * M::value(gate);
  }
};

/// Calls f(math, T{}) with the functions of the activation for the dtype.
template <class F>
void with_math(const char* op, Activation activation, DType dtype, F&& f) {
  check(activation != Activation::silu, op, "SiLU has kernels of its own");
  dispatch(dtype, op, [&](auto zero) {
    using T = decltype(zero);
    if (activation == Activation::gelu) return f(Gelu<T>{}, zero);
    f(GeluTanh<T>{}, zero);
  });
}

}  // namespace

void activate(Activation activation, const Tensor& x, const Tensor& y) {
  with_math("activate", activation, x.dtype(), [&](auto math, auto zero) {
    using T = decltype(zero);
    map("gelu", y.numel(), Value<decltype(math)>{}, as<T>(y), as<const T>(x));
  });
}

Tensor activate_backward(Activation activation, const Tensor& x, const Tensor& dy, const Tensor& dx, bool sums) {
  Tensor slab_sums;
  with_math("activate", activation, x.dtype(), [&](auto math, auto zero) {
    using T = decltype(zero);
    using M = decltype(math);
    const T *px = as<const T>(x), *pdy = as<const T>(dy);
    T* pdx = as<T>(dx);
    if (!sums || dx.numel() == 0) return map("gelu_backward", dx.numel(), Slope<M>{}, pdx, px, pdy);
    const int64_t columns = dx.size(-1);
    dispatch_width(columns % 8 == 0 && aligned16(px, pdy, pdx), [&](auto width) {
      slab_sums = column_partials<width()>({"gelu_backward, sums", 3 * dx.bytes()}, dx.numel() / columns, columns,
                                           SlopeRows<M, width(), T>{px, pdy, pdx}, dx.device());
    });
  });
  return slab_sums;
}

void gated_packed_forward(Activation activation, const Tensor& gate_up, const Tensor& y, const Tensor& largest) {
  with_math("gated_packed", activation, y.dtype(), [&](auto math, auto zero) {
    using T = decltype(zero);
    const int64_t width = y.size(-1);
    gated_forward<Gate<decltype(math)>, T>("gated_gelu", gated_rows(y), width, 2 * width, as<T>(gate_up),
                                           as<T>(gate_up) + width, as<T>(y), as<float>(largest));
  });
}

void gated_packed_backward(Activation activation, const Tensor& gate_up, const Tensor& dy, const Tensor& dgate_up,
                           const Tensor& largest) {
  with_math("gated_packed", activation, dy.dtype(), [&](auto math, auto zero) {
    using T = decltype(zero);
    const int64_t width = dy.size(-1);
    gated_backward<Gate<decltype(math)>, T>("gated_gelu_backward", gated_rows(dy), width, 2 * width, as<T>(gate_up),
                                            as<T>(gate_up) + width, as<T>(dy), as<T>(dgate_up), as<T>(dgate_up) + width,
                                            as<float>(largest));
  });
}

}  // namespace rw::cuda
