// LayerNorm, alone and after a residual add:
//
//   h = x (+ residual),   n = (h - mean) rstd,   rstd = 1 / sqrt(var + eps),   y = n weight (+ bias)
//
// The variance is summed around the mean, in a second pass over the row in registers. Backward, with g = dy weight:
//
//   dx = rstd (g - mean(g) - n mean(g n)) (+ dh),   dweight = sum over rows of dy n,   dbias = sum over rows of dy
//
// Rows are shared out as in norm.cu (detail/norm_rows.cuh).
#include "autograd/ops/column_sums.cuh"
#include "autograd/ops/cuda_ops.h"
#include "autograd/ops/detail/norm_rows.cuh"
#include "tensor/launch.cuh"

namespace rw::cuda {
namespace {

using namespace norm;

// --- forward: x, y (and residual, h) once each -----------------------------------------------------------------------

/// What a forward kernel reads and writes; residual, bias and h may be null.
template <class T>
struct Forward {
  const T *x, *residual, *weight, *bias;
  T *h, *y;
  float *mean, *rstd;
};

template <int WARPS, int V, class T>
__global__ void __launch_bounds__(WARPS* kWarp* kRowsPerBlock<WARPS>)
    layer_norm_kernel(int64_t rows, int columns, float eps, Forward<T> io) {
  __shared__ float scratch[2][kWarp];
  constexpr int kGroup = WARPS * kWarp;
  const int member = threadIdx.x % kGroup;
  const int64_t row = static_cast<int64_t>(blockIdx.x) * kRowsPerBlock<WARPS> + threadIdx.x / kGroup;
  if (row >= rows) return;  // a whole group leaves

  Eight<T> held[V];
  load_row<WARPS>(held, io.x, row, member, columns);
  if (io.residual) {
#pragma unroll
    for (int v = 0; v < V; ++v) {
      const int c = (v * kGroup + member) * kN;
      if (c >= columns) continue;
      const Eight<T> more = load_eight(io.residual + row * columns + c);
      Vec<float, kN> sum;
#pragma unroll
      for (int i = 0; i < kN; ++i) sum.at[i] = held[v][i] + more[i];
      held[v] = round_eight<T>(sum);  // rounded first: backward sees the same h as y does
      store_eight(io.h + row * columns + c, held[v]);
    }
  }

  const auto over_row = [&](auto term, float* place) {
    float sum = 0;
#pragma unroll
    for (int v = 0; v < V; ++v) {
      if ((v * kGroup + member) * kN >= columns) continue;
#pragma unroll
      for (int i = 0; i < kN; ++i) sum += term(held[v][i]);
    }
    return row_sum<WARPS>(sum, place) / static_cast<float>(columns);
  };
  const float mean = over_row([](float x) { return x; }, scratch[0]);
  const float variance = over_row([mean](float x) { return (x - mean) * (x - mean); }, scratch[1]);
  const float rstd = 1.f / sqrtf(variance + eps);
  if (member == 0) io.mean[row] = mean, io.rstd[row] = rstd;

#pragma unroll
  for (int v = 0; v < V; ++v) {
    const int c = (v * kGroup + member) * kN;
    if (c >= columns) continue;
    const Eight<T> w = load_eight(io.weight + c);  // stays in L1
    Vec<float, kN> out;
#pragma unroll
    for (int i = 0; i < kN; ++i) out.at[i] = (held[v][i] - mean) * rstd * w[i];
    if (io.bias) {
      const Eight<T> b = load_eight(io.bias + c);
#pragma unroll
      for (int i = 0; i < kN; ++i) out.at[i] += b[i];
    }
    store_eight(io.y + row * columns + c, round_eight<T>(out));
  }
}

/// Any number of columns, any alignment.
template <class T>
__global__ void __launch_bounds__(kAnyThreads) layer_norm_any_kernel(int64_t columns, float eps, Forward<T> io) {
  __shared__ float scratch[2][kWarp];
  const int64_t at = static_cast<int64_t>(blockIdx.x) * columns;
  const T* line = io.residual ? io.h : io.x;
  float sum = 0, square = 0;
  for (int64_t c = threadIdx.x; c < columns; c += kAnyThreads) {
    if (io.residual) io.h[at + c] = from_float<T>(to_float(io.x[at + c]) + to_float(io.residual[at + c]));
    sum += to_float(line[at + c]);  // h: read back by this thread only
  }
  const float mean = block_reduce<kAnyThreads>(sum, Sum{}, scratch[0]) / static_cast<float>(columns);
  for (int64_t c = threadIdx.x; c < columns; c += kAnyThreads) {
    const float d = to_float(line[at + c]) - mean;
    square = fmaf(d, d, square);
  }
  square = block_reduce<kAnyThreads>(square, Sum{}, scratch[1]);
  const float rstd = 1.f / sqrtf(square / static_cast<float>(columns) + eps);
  if (threadIdx.x == 0) io.mean[blockIdx.x] = mean, io.rstd[blockIdx.x] = rstd;
  for (int64_t c = threadIdx.x; c < columns; c += kAnyThreads) {
    const float n = (to_float(line[at + c]) - mean) * rstd * to_float(io.weight[c]);
    io.y[at + c] = from_float<T>(io.bias ? n + to_float(io.bias[c]) : n);
  }
}

// --- backward: h, dy, dx (and dh) once each, and a partial row of dweight and of dbias per block ---------------------

/// What a backward kernel reads and writes; dh may be null, and the partial rows [blocks, C].
template <class T>
struct Backward {
  const T *h, *weight;
  const float *mean, *rstd;
  const T *dy, *dh;
  T* dx;
  float *dweight, *dbias;
};

/// Adds the groups of a block up and writes its partial row. combine: [groups, columns] shared, if there are several.
template <int WARPS, int V>
__device__ __forceinline__ void write_partial(const Vec<float, kN> (&sums)[V], int columns, float* combine,
                                              float* partial) {
  constexpr int kGroup = WARPS * kWarp;
  const int member = threadIdx.x % kGroup, group = threadIdx.x / kGroup;
  float* row = partial + static_cast<int64_t>(blockIdx.x) * columns;
  float* to = kGroups<WARPS> > 1 ? combine + group * columns : row;
#pragma unroll
  for (int v = 0; v < V; ++v) {
    const int c = (v * kGroup + member) * kN;
    if (c < columns) store<kN>(to + c, sums[v]);
  }
  if constexpr (kGroups < WARPS >> 1) {
    __syncthreads();
    for (int c = threadIdx.x; c < columns; c += blockDim.x) {
      float sum = 0;
      for (int g = 0; g < kGroups<WARPS>; ++g) sum += combine[g * columns + c];
      row[c] = sum;
    }
    __syncthreads();  // combine is used again
  }
}

template <int WARPS, int V, class T>
__global__ void __launch_bounds__(WARPS* kWarp* kGroups<WARPS>)
    layer_norm_backward_kernel(int64_t rows, int columns, Backward<T> io) {
  constexpr int kGroup = WARPS * kWarp;
  __shared__ float scratch[2][2][kWarp];
  extern __shared__ float combine[];
  const int member = threadIdx.x % kGroup, group = threadIdx.x / kGroup;
  const int64_t step = static_cast<int64_t>(gridDim.x) * kGroups<WARPS>;
  Eight<T> w[V];
  Vec<float, kN> dweight[V], dbias[V];
#pragma unroll
  for (int v = 0; v < V; ++v) {
    const int c = (v * kGroup + member) * kN;
    dweight[v] = {}, dbias[v] = {};
    if (c < columns) w[v] = load_eight(io.weight + c);
  }
  int64_t row = static_cast<int64_t>(blockIdx.x) * kGroups<WARPS> + group;
  for (int parity = 0; row < rows; row += step, parity ^= 1) {
    const float mean = io.mean[row], rstd = io.rstd[row];
    Eight<T> h[V], dy[V];
#pragma unroll
    for (int v = 0; v < V; ++v) {
      const int c = (v * kGroup + member) * kN;
      if (c < columns) h[v] = load_eight(io.h + row * columns + c), dy[v] = load_eight(io.dy + row * columns + c);
    }
    float sum = 0, dot = 0;
#pragma unroll
    for (int v = 0; v < V; ++v) {
      if ((v * kGroup + member) * kN >= columns) continue;
#pragma unroll
      for (int i = 0; i < kN; ++i) {
        const float n = (h[v][i] - mean) * rstd, d = dy[v][i], g = d * w[v][i];
        dweight[v].at[i] = fmaf(d, n, dweight[v].at[i]);
        dbias[v].at[i] += d;
        sum += g;
        dot = fmaf(g, n, dot);
      }
    }
    const float mean_g = row_sum<WARPS>(sum, scratch[parity][0]) / static_cast<float>(columns);
    const float mean_gn = row_sum<WARPS>(dot, scratch[parity][1]) / static_cast<float>(columns);
#pragma unroll
    for (int v = 0; v < V; ++v) {
      const int c = (v * kGroup + member) * kN;
      if (c >= columns) continue;
      Vec<float, kN> out;
#pragma unroll
      for (int i = 0; i < kN; ++i) out.at[i] = rstd * (dy[v][i] * w[v][i] - mean_g - (h[v][i] - mean) * rstd * mean_gn);
      if (io.dh) {
        const Eight<T> more = load_eight(io.dh + row * columns + c);
#pragma unroll
        for (int i = 0; i < kN; ++i) out.at[i] += more[i];
      }
      store_eight(io.dx + row * columns + c, round_eight<T>(out));
    }
  }
  if (io.dweight) write_partial<WARPS, V>(dweight, columns, combine, io.dweight);
  if (io.dbias) write_partial<WARPS, V>(dbias, columns, combine, io.dbias);
}

/// Any number of columns: a block walks over its rows; its partial rows are its own, in global memory.
template <class T>
__global__ void __launch_bounds__(kAnyThreads)
    layer_norm_backward_any_kernel(int64_t rows, int64_t columns, Backward<T> io) {
  __shared__ float scratch[2][2][kWarp];
  float* dweight = io.dweight ? io.dweight + static_cast<int64_t>(blockIdx.x) * columns : nullptr;
  float* dbias = io.dbias ? io.dbias + static_cast<int64_t>(blockIdx.x) * columns : nullptr;
  int parity = 0;
  for (int64_t row = blockIdx.x; row < rows; row += gridDim.x, parity ^= 1) {
    const int64_t at = row * columns;
    const float mean = io.mean[row], rstd = io.rstd[row];
    const bool begins = row == blockIdx.x;
    float sum = 0, dot = 0;
    for (int64_t c = threadIdx.x; c < columns; c += kAnyThreads) {
      const float n = (to_float(io.h[at + c]) - mean) * rstd, d = to_float(io.dy[at + c]);
      const float g = d * to_float(io.weight[c]);
      if (dweight) dweight[c] = d * n + (begins ? 0.f : dweight[c]);
      if (dbias) dbias[c] = d + (begins ? 0.f : dbias[c]);
      sum += g;
      dot = fmaf(g, n, dot);
    }
    const float mean_g = block_reduce<kAnyThreads>(sum, Sum{}, scratch[parity][0]) / static_cast<float>(columns);
    const float mean_gn = block_reduce<kAnyThreads>(dot, Sum{}, scratch[parity][1]) / static_cast<float>(columns);
    for (int64_t c = threadIdx.x; c < columns; c += kAnyThreads) {
      const float n = (to_float(io.h[at + c]) - mean) * rstd;
      float d = rstd * (to_float(io.dy[at + c]) * to_float(io.weight[c]) - mean_g - n * mean_gn);
      if (io.dh) d += to_float(io.dh[at + c]);
      io.dx[at + c] = from_float<T>(d);
    }
  }
}

}  // namespace

void layer_norm_forward(const Tensor& x, const Tensor& residual, const Tensor& weight, const Tensor& bias, double eps,
                        const NormOutputs& out, const NormStatistics& statistics) {
  const int64_t columns = weight.numel(), rows = statistics.rstd.numel();
  const int64_t bytes = bytes_of(x, residual, out.h, out.y);
  dispatch(x.dtype(), "layer_norm", [&](auto zero) {
    using T = decltype(zero);
    const Forward<T> io{.x = as<T>(x),
                        .residual = as<T>(residual),
                        .weight = as<T>(weight),
                        .bias = as<T>(bias),
                        .h = as<T>(out.h),
                        .y = as<T>(out.y),
                        .mean = as<float>(statistics.mean),
                        .rstd = as<float>(statistics.rstd)};
    const auto arranged = [&](auto shape) {
      using S = decltype(shape);
      constexpr int kRows = kRowsPerBlock<S::WARPS>;
      launch({"layer_norm", bytes}, layer_norm_kernel<S::WARPS, S::V, T>, ceil_div(rows, kRows),
             S::WARPS * kWarp * kRows, 0, rows, columns, eps, io);
    };
    const bool wide = columns % kN == 0 && aligned16(io.x, io.residual, io.weight, io.bias, io.h, io.y);
    if (wide && fit(columns, arranged)) return;
    launch({"layer_norm_any", bytes}, layer_norm_any_kernel<T>, rows, kAnyThreads, 0, columns, eps, io);
  });
}

void layer_norm_backward(const SavedLayerNorm& saved, const Tensor& dy, const Tensor& dh, const Tensor& dx,
                         const GradTarget& dweight, const GradTarget& dbias) {
  const int64_t columns = saved.weight.numel(), rows = saved.rstd.numel();
  const int64_t bytes = bytes_of(saved.h, dy, dh, dx);
  Tensor partial_w = Tensor::empty({0, columns}, DType::f32, dy.device()), partial_b = partial_w;
  dispatch(dy.dtype(), "layer_norm_backward", [&](auto zero) {
    using T = decltype(zero);
    Backward<T> io{.h = as<T>(saved.h),
                   .weight = as<T>(saved.weight),
                   .mean = as<float>(saved.mean),
                   .rstd = as<float>(saved.rstd),
                   .dy = as<T>(dy),
                   .dh = as<T>(dh),
                   .dx = as<T>(dx),
                   .dweight = nullptr,
                   .dbias = nullptr};
    const auto make_partial_rows = [&](int64_t blocks) {
      if (dweight.tensor.defined()) partial_w = Tensor::empty({blocks, columns}, DType::f32, dy.device());
      if (dbias.tensor.defined()) partial_b = Tensor::empty({blocks, columns}, DType::f32, dy.device());
      if (dweight.tensor.defined()) io.dweight = as<float>(partial_w);
      if (dbias.tensor.defined()) io.dbias = as<float>(partial_b);
    };
    const auto arranged = [&](auto shape) {
      using S = decltype(shape);
      constexpr int kRows = kGroups<S::WARPS>, kThreads = S::WARPS * kWarp * kRows;
      const auto kernel = layer_norm_backward_kernel<S::WARPS, S::V, T>;
      const int64_t shared = kRows > 1 ? kRows * columns * 4 : 0;
      // At least four rows per group, so that the partial rows stay few.
      const int64_t blocks =
          std::min(resident_blocks("layer_norm_backward", kernel, kThreads, shared), ceil_div(rows, 4 * kRows));
      make_partial_rows(blocks);
      launch({"layer_norm_backward", bytes}, kernel, blocks, kThreads, shared, rows, columns, io);
    };
    const bool wide = columns % kN == 0 && aligned16(io.h, io.weight, io.dy, io.dh, io.dx);
    if (wide && fit(columns, arranged)) return;
    const int64_t blocks = std::min<int64_t>(4 * multiprocessors(), rows);
    make_partial_rows(blocks);
    launch({"layer_norm_backward_any", bytes}, layer_norm_backward_any_kernel<T>, blocks, kAnyThreads, 0, rows, columns,
           io);
  });
  if (dweight.tensor.defined()) add_partial_rows(partial_w, dweight.tensor, dweight.add);
  if (dbias.tensor.defined()) add_partial_rows(partial_b, dbias.tensor, dbias.add);
}

}  // namespace rw::cuda
