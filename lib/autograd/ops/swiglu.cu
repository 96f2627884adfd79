// SwiGLU:  y = silu(gate) * up,  silu(x) = x s,  s = 1 / (1 + e^-x)
//
//   dgate = dy up s (1 + gate (1 - s)),   dup = dy silu(gate)
#include "autograd/ops/cuda_ops.h"
#include "tensor/launch.cuh"

namespace rw::cuda {
namespace {

constexpr int kThreads = 256;

/// e^-x overflows to infinity for very negative x, and then s = 0, as it should be. bf16 results need no more than the
/// fast exponential (2 ulp of f32); f32 results get the exact one.
template <class T>
__device__ __forceinline__ float sigmoid(float x) {
  if constexpr (std::is_same_v<T, b16>) return __fdividef(1.f, 1.f + __expf(-x));
  return 1.f / (1.f + expf(-x));
}

/// Where a thread's N neighbours of one row are: in gate and up (rows stride apart) and in y (width apart). The
/// division is in 32 bits: in 64 it would cost as much as the whole formula.
template <int N>
struct Place {
  int64_t in, out;
  bool inside;
  __device__ Place(int64_t rows, uint32_t width, int64_t stride) {
    const uint32_t vector = blockIdx.x * kThreads + threadIdx.x, per_row = width / N;
    const uint32_t row = vector / per_row;
    inside = row < rows;
    in = row * stride + (vector - row * per_row) * N;
    out = static_cast<int64_t>(vector) * N;
  }
};

// Bytes: 3 values per output (gate, up, y).
template <int N, class T>
__global__ void __launch_bounds__(kThreads)
    swiglu_kernel(int64_t rows, uint32_t width, int64_t stride, const T* __restrict__ gate, const T* __restrict__ up,
                  T* __restrict__ y) {
  const Place<N> at(rows, width, stride);
  if (!at.inside) return;
  const Vec<T, N> g = load<N>(gate + at.in), u = load<N>(up + at.in);
  Vec<T, N> out;
#pragma unroll
  for (int i = 0; i < N; ++i) {
    const float x = to_float(g.at[i]);
    out.at[i] = from_float<T>(x * sigmoid<T>(x) * to_float(u.at[i]));
  }
  store<N>(y + at.out, out);
}

// Bytes: 5 values per output (gate, up, dy, dgate, dup).
template <int N, class T>
__global__ void __launch_bounds__(kThreads)
    swiglu_backward_kernel(int64_t rows, uint32_t width, int64_t stride, const T* __restrict__ gate,
                           const T* __restrict__ up, const T* __restrict__ dy, T* __restrict__ dgate,
                           T* __restrict__ dup) {
  const Place<N> at(rows, width, stride);
  if (!at.inside) return;
  const Vec<T, N> g = load<N>(gate + at.in), u = load<N>(up + at.in), d = load<N>(dy + at.out);
  Vec<T, N> dg, du;
#pragma unroll
  for (int i = 0; i < N; ++i) {
    const float x = to_float(g.at[i]), grad = to_float(d.at[i]), s = sigmoid<T>(x);
    dg.at[i] = from_float<T>(grad * to_float(u.at[i]) * s * (1.f + x * (1.f - s)));
    du.at[i] = from_float<T>(grad * x * s);
  }
  store<N>(dgate + at.in, dg);
  store<N>(dup + at.in, du);
}

/// Threads are numbered in 32 bits.
int64_t blocks_for(int64_t vectors) {
  check(vectors <= int64_t{UINT32_MAX} - kThreads, "swiglu", vectors, " vectors in one call");
  return ceil_div(vectors, kThreads);
}

template <class T>
void forward(int64_t rows, int64_t width, int64_t stride, const T* gate, const T* up, T* y) {
  dispatch_width(width % 8 == 0 && stride % 8 == 0 && aligned16(gate, up, y), [&](auto n) {
    launch({"swiglu", 3 * rows * width * int64_t{sizeof(T)}}, swiglu_kernel<n(), T>, blocks_for(rows * width / n()),
           kThreads, 0, rows, width, stride, gate, up, y);
  });
}

template <class T>
void backward(int64_t rows, int64_t width, int64_t stride, const T* gate, const T* up, const T* dy, T* dgate, T* dup) {
  dispatch_width(width % 8 == 0 && stride % 8 == 0 && aligned16(gate, up, dy, dgate, dup), [&](auto n) {
    launch({"swiglu_backward", 5 * rows * width * int64_t{sizeof(T)}}, swiglu_backward_kernel<n(), T>,
           blocks_for(rows * width / n()), kThreads, 0, rows, width, stride, gate, up, dy, dgate, dup);
  });
}

int64_t rows_of(const Tensor& y) { return y.size(-1) ? y.numel() / y.size(-1) : 0; }

}  // namespace

void swiglu_forward(const Tensor& gate, const Tensor& up, const Tensor& y) {
  dispatch(y.dtype(), "swiglu", [&](auto zero) {
    using T = decltype(zero);
    forward<T>(rows_of(y), y.size(-1), y.size(-1), as<T>(gate), as<T>(up), as<T>(y));
  });
}

void swiglu_backward(const Tensor& gate, const Tensor& up, const Tensor& dy, const Tensor& dgate, const Tensor& dup) {
  dispatch(dy.dtype(), "swiglu", [&](auto zero) {
    using T = decltype(zero);
    backward<T>(rows_of(dy), dy.size(-1), dy.size(-1), as<T>(gate), as<T>(up), as<T>(dy), as<T>(dgate), as<T>(dup));
  });
}

void swiglu_packed_forward(const Tensor& gate_up, const Tensor& y) {
  dispatch(y.dtype(), "swiglu_packed", [&](auto zero) {
    using T = decltype(zero);
    const int64_t width = y.size(-1);
    forward<T>(rows_of(y), width, 2 * width, as<T>(gate_up), as<T>(gate_up) + width, as<T>(y));
  });
}

void swiglu_packed_backward(const Tensor& gate_up, const Tensor& dy, const Tensor& dgate_up) {
  dispatch(dy.dtype(), "swiglu_packed", [&](auto zero) {
    using T = decltype(zero);
    const int64_t width = dy.size(-1);
    backward<T>(rows_of(dy), width, 2 * width, as<T>(gate_up), as<T>(gate_up) + width, as<T>(dy), as<T>(dgate_up),
                as<T>(dgate_up) + width);
  });
}

}  // namespace rw::cuda
