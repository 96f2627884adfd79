// Kernels of gated activations: y = act(gate) * up, over rows whose gate and up may be strided (packed: 2F apart, up =
// gate + F). Internal: only .cu files include it.
//
// `largest`: null, or where the largest |value| written goes (tensor/largest.cuh).
//
// `Gate` has the formula:
//   float value(float gate, float up)
//   void gradient(float gate, float up, float dy, float& dgate, float& dup)
#pragma once
#include "tensor/largest.cuh"
#include "tensor/launch.cuh"

namespace rw::cuda {

constexpr int kGatedThreads = 256;

/// Where a thread's N neighbours of one row are: in gate and up (rows stride apart) and in y (width apart). The
/// division is in 32 bits: in 64 it would cost as much as the whole formula.
template <int N>
struct GatedPlace {
  int64_t in, out;
  bool inside;
  __device__ GatedPlace(int64_t rows, uint32_t width, int64_t stride) {
    const uint32_t vector = blockIdx.x * kGatedThreads + threadIdx.x, per_row = width / N;
    const uint32_t row = vector / per_row;
    inside = row < rows;
    in = row * stride + (vector - row * per_row) * N;
    out = static_cast<int64_t>(vector) * N;
  }
};

// Bytes: 3 values per output (gate, up, y).
template <class Gate, int N, class T>
__global__ void __launch_bounds__(kGatedThreads)
    gated_kernel(int64_t rows, uint32_t width, int64_t stride, const T* __restrict__ gate, const T* __restrict__ up,
                 T* __restrict__ y, float* largest) {
  const GatedPlace<N> at(rows, width, stride);
  if (!at.inside) return;
  const Vec<T, N> g = load<N>(gate + at.in), u = load<N>(up + at.in);
  Vec<T, N> out;
#pragma unroll
  for (int i = 0; i < N; ++i) out.at[i] = from_float<T>(Gate::value(to_float(g.at[i]), to_float(u.at[i])));
  store<N>(y + at.out, out);
  if (!largest) return;
  Largest most;
  most.see(out);
  most.join(largest);
}

// Bytes: 5 values per output (gate, up, dy, dgate, dup).
template <class Gate, int N, class T>
__global__ void __launch_bounds__(kGatedThreads)
    gated_backward_kernel(int64_t rows, uint32_t width, int64_t stride, const T* __restrict__ gate,
                          const T* __restrict__ up, const T* __restrict__ dy, T* __restrict__ dgate,
                          T* __restrict__ dup, float* largest) {
  const GatedPlace<N> at(rows, width, stride);
  if (!at.inside) return;
  const Vec<T, N> g = load<N>(gate + at.in), u = load<N>(up + at.in), d = load<N>(dy + at.out);
  Vec<T, N> dg, du;
#pragma unroll
  for (int i = 0; i < N; ++i) {
    float dgate_i, dup_i;
    Gate::gradient(to_float(g.at[i]), to_float(u.at[i]), to_float(d.at[i]), dgate_i, dup_i);
    dg.at[i] = from_float<T>(dgate_i);
    du.at[i] = from_float<T>(dup_i);
  }
  store<N>(dgate + at.in, dg);
  store<N>(dup + at.in, du);
  if (!largest) return;
  Largest most;
  most.see(dg);
  most.see(du);
  most.join(largest);
}

/// Threads are numbered in 32 bits.
inline int64_t gated_blocks(const char* name, int64_t vectors) {
  check(vectors <= int64_t{UINT32_MAX} - kGatedThreads, name, vectors, " vectors in one call");
  return ceil_div(vectors, kGatedThreads);
}

template <class Gate, class T>
void gated_forward(const char* name, int64_t rows, int64_t width, int64_t stride, const T* gate, const T* up, T* y,
                   float* largest = nullptr) {
  dispatch_width(width % 8 == 0 && stride % 8 == 0 && aligned16(gate, up, y), [&](auto n) {
    launch({name, 3 * rows * width * int64_t{sizeof(T)}}, gated_kernel<Gate, n(), T>,
           gated_blocks(name, rows * width / n()), kGatedThreads, 0, rows, width, stride, gate, up, y, largest);
  });
}

template <class Gate, class T>
void gated_backward(const char* name, int64_t rows, int64_t width, int64_t stride, const T* gate, const T* up,
                    const T* dy, T* dgate, T* dup, float* largest = nullptr) {
  dispatch_width(width % 8 == 0 && stride % 8 == 0 && aligned16(gate, up, dy, dgate, dup), [&](auto n) {
    launch({name, 5 * rows * width * int64_t{sizeof(T)}}, gated_backward_kernel<Gate, n(), T>,
           gated_blocks(name, rows * width / n()), kGatedThreads, 0, rows, width, stride, gate, up, dy, dgate, dup,
           largest);
  });
}

/// Rows of y [..., width].
inline int64_t gated_rows(const Tensor& y) { return y.size(-1) ? y.numel() / y.size(-1) : 0; }

}  // namespace rw::cuda
