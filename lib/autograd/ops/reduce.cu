// Sums on the GPU, in f64 and in a fixed order: terms may cancel, and beside the reading f64 costs little. No atomics.
#include "autograd/ops/cuda_ops.h"
#include "tensor/launch.cuh"

namespace rw::cuda {
namespace {

constexpr int kThreads = 256;
constexpr int kMaxBlocks = 1024;  // independent of the card, so that the order of additions is too

// --- sum of everything: x is read once ------------------------------------------------------------------------------

template <int N, class X>
__global__ void __launch_bounds__(kThreads)
    sum_partials_kernel(int64_t n, const X* __restrict__ x, double* __restrict__ partial) {
  __shared__ double scratch[kThreads / kWarp];
  const int64_t step = static_cast<int64_t>(gridDim.x) * kThreads * N;
  double sum = 0;
  int64_t i = (static_cast<int64_t>(blockIdx.x) * kThreads + threadIdx.x) * N;
  for (; i + N <= n; i += step) {
    const Vec<float, N> v = load_float<N>(x + i);
#pragma unroll
    for (int j = 0; j < N; ++j) sum += static_cast<double>(v.at[j]);
  }
  for (; i < n; ++i)
    sum += static_cast<double>(to_float(x[i]));  // only the thread that holds the tail gets here with i < n
  sum = block_reduce<kThreads>(sum, Sum{}, scratch);
  if (threadIdx.x == 0) partial[blockIdx.x] = sum;
}

template <class Y>
__global__ void __launch_bounds__(kThreads)
    sum_total_kernel(int blocks, double factor, const double* __restrict__ partial, Y* y) {
  __shared__ double scratch[kThreads / kWarp];
  double sum = 0;
  for (int i = threadIdx.x; i < blocks; i += kThreads) sum += partial[i];
  sum = block_reduce<kThreads>(sum, Sum{}, scratch);
  if (threadIdx.x == 0) y[0] = from_float<Y>(static_cast<float>(factor * sum));
}

// --- sum over the last dimension: a warp per row --------------------------------------------------------------------

template <int N, class X>
__global__ void __launch_bounds__(kThreads)
    sum_last_kernel(int64_t rows, int64_t columns, const X* __restrict__ x, X* __restrict__ y) {
  const int64_t row = static_cast<int64_t>(blockIdx.x) * (kThreads / kWarp) + threadIdx.x / kWarp;
  if (row >= rows) return;  // a whole warp leaves
  double sum = 0;
#pragma unroll 4
  for (int64_t c = threadIdx.x % kWarp * N; c < columns; c += kWarp * N) {
    const Vec<float, N> v = load_float<N>(x + row * columns + c);
#pragma unroll
    for (int j = 0; j < N; ++j) sum += static_cast<double>(v.at[j]);
  }
  sum = warp_reduce(sum, Sum{});
  if (threadIdx.x % kWarp == 0) y[row] = from_float<X>(static_cast<float>(sum));
}

// --- their gradients ------------------------------------------------------------------------------------------------

template <class D>
__global__ void __launch_bounds__(kThreads)
    broadcast_kernel(int64_t n, int64_t columns, float factor, const D* __restrict__ dy, D* __restrict__ dx) {
  const int64_t i = static_cast<int64_t>(blockIdx.x) * kThreads + threadIdx.x;
  if (i < n) dx[i] = from_float<D>(factor * to_float(dy[i / columns]));
}

void broadcast(const char* name, const Tensor& dy, int64_t columns, double factor, const Tensor& dx) {
  dispatch(dx.dtype(), name, [&](auto zero) {
    using D = decltype(zero);
    launch({name, dx.bytes()}, broadcast_kernel<D>, ceil_div(dx.numel(), kThreads), kThreads, 0, dx.numel(), columns,
           factor, as<const D>(dy), as<D>(dx));
  });
}

}  // namespace

void sum_all(const Tensor& x, double factor, const Tensor& y) {
  const int64_t n = x.numel();
  dispatch(x.dtype(), "sum_all", [&](auto zero) {
    using X = decltype(zero);
    dispatch_width(aligned16(as<X>(x)), [&](auto width) {
      const int64_t blocks = std::min<int64_t>(kMaxBlocks, ceil_div(n, kThreads * width()));
      const Tensor partial = Tensor::empty({blocks}, DType::f64, x.device());
      launch({"sum_partials", x.bytes()}, sum_partials_kernel<width(), X>, blocks, kThreads, 0, n, as<const X>(x),
             as<double>(partial));
      dispatch(y.dtype(), "sum_all", [&](auto y_zero) {
        using Y = decltype(y_zero);
        launch("sum_total", sum_total_kernel<Y>, 1, kThreads, 0, blocks, factor, as<const double>(partial), as<Y>(y));
      });
    });
  });
}

void sum_last(const Tensor& x, const Tensor& y) {
  const int64_t rows = y.numel(), columns = rows ? x.numel() / rows : 0;
  dispatch(x.dtype(), "sum_last", [&](auto zero) {
    using X = decltype(zero);
    dispatch_width(columns % 8 == 0 && aligned16(as<X>(x)), [&](auto width) {
      launch({"sum_last", x.bytes()}, sum_last_kernel<width(), X>, ceil_div(rows, kThreads / kWarp), kThreads, 0, rows,
             columns, as<const X>(x), as<X>(y));
    });
  });
}

void broadcast_scalar(const Tensor& dy, double factor, const Tensor& dx) {
  broadcast("broadcast_scalar", dy, std::max<int64_t>(1, dx.numel()), factor, dx);
}

void broadcast_last(const Tensor& dy, const Tensor& dx) {
  broadcast("broadcast_last", dy, dy.numel() ? dx.numel() / dy.numel() : 1, 1.0, dx);
}

}  // namespace rw::cuda
