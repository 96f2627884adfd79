// RMSNorm, alone and after a residual add:
//
//   h = x (+ residual),   rstd = 1 / sqrt(mean(h^2) + eps),   y = h rstd (weight + plus)
//
// Backward, with n = h rstd and g = dy (weight + plus):
//
//   dx = rstd (g - n mean(g n)) (+ dh),   dweight = sum over rows of dy n
//
// A group of threads holds a whole row in registers, so that each byte crosses the memory bus once.
#include "autograd/ops/column_sums.cuh"
#include "autograd/ops/cuda_ops.h"
#include "autograd/ops/detail/norm_rows.cuh"
#include "tensor/largest.cuh"
#include "tensor/launch.cuh"

namespace rw::cuda {
namespace {

using namespace norm;

// --- forward --------------------------------------------------------------------------------------------------------
//
// Bytes per element: x, y (and residual, h), once each. WARPS warps per row, V vectors per thread; with one warp per
// row a block holds eight rows.

template <int WARPS, int V, class T>
__global__ void __launch_bounds__(WARPS* kWarp* kRowsPerBlock<WARPS>)
    rms_norm_kernel(int64_t rows, int columns, float eps, float plus, const T* __restrict__ x,
                    const T* __restrict__ residual, const T* __restrict__ weight, T* __restrict__ h, T* __restrict__ y,
                    float* __restrict__ rstd, float* largest) {
  __shared__ float scratch[kWarp];
  constexpr int kGroup = WARPS * kWarp;
  const int member = threadIdx.x % kGroup;
  const int64_t row = static_cast<int64_t>(blockIdx.x) * kRowsPerBlock<WARPS> + threadIdx.x / kGroup;
  if (row >= rows) return;  // a whole group leaves

  Eight<T> held[V];
  load_row<WARPS>(held, x, row, member, columns);
  if (residual) {
    Eight<T> more[V];
    load_row<WARPS>(more, residual, row, member, columns);
#pragma unroll
    for (int v = 0; v < V; ++v) {
      const int c = (v * kGroup + member) * kN;
      if (c >= columns) continue;
      Vec<float, kN> sum;
#pragma unroll
      for (int i = 0; i < kN; ++i) sum.at[i] = held[v][i] + more[v][i];
      held[v] = round_eight<T>(sum);  // rounded first: backward sees the same h as y does
      store_eight(h + row * columns + c, held[v]);
    }
  }

  float square = 0;
#pragma unroll
  for (int v = 0; v < V; ++v) {
    if ((v * kGroup + member) * kN >= columns) continue;
#pragma unroll
    for (int i = 0; i < kN; ++i) square = fmaf(held[v][i], held[v][i], square);
  }
  square = row_sum<WARPS>(square, scratch);
  const float scale = 1.f / sqrtf(square / static_cast<float>(columns) + eps);
  if (member == 0) rstd[row] = scale;

  Largest most;
#pragma unroll
  for (int v = 0; v < V; ++v) {
    const int c = (v * kGroup + member) * kN;
    if (c >= columns) continue;
    const Eight<T> w = load_eight(weight + c);  // stays in L1
    Vec<float, kN> out;
#pragma unroll
    for (int i = 0; i < kN; ++i) out.at[i] = held[v][i] * scale * (w[i] + plus);
    const Eight<T> rounded = round_eight<T>(out);
    store_eight(y + row * columns + c, rounded);
    if (largest) most.see(rounded);
  }
  if (largest) most.join(largest);
}

/// Any number of columns, any alignment.
template <class T>
__global__ void __launch_bounds__(kAnyThreads)
    rms_norm_any_kernel(int64_t columns, float eps, float plus, const T* __restrict__ x, const T* __restrict__ residual,
                        const T* __restrict__ weight, T* h, T* __restrict__ y, float* __restrict__ rstd) {
  __shared__ float scratch[kWarp];
  const int64_t at = static_cast<int64_t>(blockIdx.x) * columns;
  const T* line = residual ? h : x;
  float square = 0;
  for (int64_t c = threadIdx.x; c < columns; c += kAnyThreads) {
    float value = to_float(x[at + c]);
    if (residual) {
      h[at + c] = from_float<T>(value + to_float(residual[at + c]));  // read back by this thread only
      value = to_float(h[at + c]);
    }
    square = fmaf(value, value, square);
  }
  square = block_reduce<kAnyThreads>(square, Sum{}, scratch);
  const float scale = 1.f / sqrtf(square / static_cast<float>(columns) + eps);
  if (threadIdx.x == 0) rstd[blockIdx.x] = scale;
  for (int64_t c = threadIdx.x; c < columns; c += kAnyThreads) {
    y[at + c] = from_float<T>(to_float(line[at + c]) * scale * (to_float(weight[c]) + plus));
  }
}

// --- backward -------------------------------------------------------------------------------------------------------
//
// Bytes per element: h, dy, dx (and dh), once each, and one partial row of dweight per block. Blocks
// stay on the card and walk over rows; the next row is on its way while this one is computed. The
// partial rows are added up in order by another kernel.

/// A thread's part of a row.
template <int V, bool RESIDUAL, class T>
struct Row {
  Eight<T> h[V], dy[V], dh[RESIDUAL ? V : 1];
  float rstd = 0;
};

/// Blocks that share a multiprocessor: some 512 threads with two rows each in flight
/// are enough, and more would spill registers.
template <int WARPS, int V, class T>
constexpr int kResident = [] {
  const int wanted = sizeof(T) == 2 || V == 1 ? (V <= 2 ? 512 : 384) : 256, threads = WARPS * kWarp * kGroups<WARPS>;
  return wanted > threads ? wanted / threads : 1;
}();

template <int WARPS, int V, bool RESIDUAL, class T>
__global__ void __launch_bounds__(WARPS* kWarp* kGroups<WARPS>, kResident<WARPS, V, T>)
    rms_norm_backward_kernel(int64_t rows, int columns, float plus, const T* __restrict__ h,
                             const T* __restrict__ weight, const float* __restrict__ rstd, const T* __restrict__ dy,
                             const T* __restrict__ dh, T* __restrict__ dx, float* __restrict__ partial,
                             float* largest) {
  constexpr int kGroup = WARPS * kWarp;
  constexpr bool kSeveral = (kGroups<WARPS>) > 1;
  __shared__ float scratch[2][kWarp];
  extern __shared__ float combine[];  // [kGroups, columns], if there are several groups
  const int member = threadIdx.x % kGroup, group = threadIdx.x / kGroup;
  const int64_t step = static_cast<int64_t>(gridDim.x) * kGroups<WARPS>;
  int64_t row = static_cast<int64_t>(blockIdx.x) * kGroups<WARPS> + group;

  Eight<T> w[V];
  Vec<float, kN> dweight[V];
  Row<V, RESIDUAL, T> now, next;
  const auto fetch = [&](int64_t r, Row<V, RESIDUAL, T>& to) {
#pragma unroll
    for (int v = 0; v < V; ++v) {
      const int c = (v * kGroup + member) * kN;
      if (c >= columns) continue;
      to.h[v] = load_eight(h + r * columns + c);
      to.dy[v] = load_eight(dy + r * columns + c);
      if constexpr (RESIDUAL) to.dh[v] = load_eight(dh + r * columns + c);
    }
    to.rstd = rstd[r];
  };
#pragma unroll
  for (int v = 0; v < V; ++v) {
    const int c = (v * kGroup + member) * kN;
    dweight[v] = {};
    if (c < columns) w[v] = load_eight(weight + c);
  }
  if (row < rows) fetch(row, now);
  Largest most;

  for (int parity = 0; row < rows; row += step, parity ^= 1) {
    if (row + step < rows) fetch(row + step, next);
    float dot = 0;
#pragma unroll
    for (int v = 0; v < V; ++v) {
      if ((v * kGroup + member) * kN >= columns) continue;
#pragma unroll
      for (int i = 0; i < kN; ++i) {
        const float n = now.h[v][i] * now.rstd, d = now.dy[v][i];
        dweight[v].at[i] = fmaf(d, n, dweight[v].at[i]);
        dot = fmaf(d * (w[v][i] + plus), n, dot);
      }
    }
    const float mean = row_sum<WARPS>(dot, scratch[parity]) / static_cast<float>(columns);
#pragma unroll
    for (int v = 0; v < V; ++v) {
      const int c = (v * kGroup + member) * kN;
      if (c >= columns) continue;
      Vec<float, kN> out;
#pragma unroll
      for (int i = 0; i < kN; ++i) {
        const float n = now.h[v][i] * now.rstd;
        out.at[i] = now.rstd * (now.dy[v][i] * (w[v][i] + plus) - n * mean);
        if constexpr (RESIDUAL) out.at[i] += now.dh[v][i];
      }
      const Eight<T> rounded = round_eight<T>(out);
      store_eight(dx + row * columns + c, rounded);
      if (largest) most.see(rounded);
    }
    now = next;
  }
  if (largest) most.join(largest);

  if (!partial) return;
  float* to = kSeveral ? combine + group * columns : partial + static_cast<int64_t>(blockIdx.x) * columns;
#pragma unroll
  for (int v = 0; v < V; ++v) {
    const int c = (v * kGroup + member) * kN;
    if (c < columns) store<kN>(to + c, dweight[v]);
  }
  if constexpr (kSeveral) {
    __syncthreads();
    for (int c = threadIdx.x; c < columns; c += blockDim.x) {
      float sum = 0;
      for (int g = 0; g < kGroups<WARPS>; ++g) sum += combine[g * columns + c];
      partial[static_cast<int64_t>(blockIdx.x) * columns + c] = sum;
    }
  }
}

/// Any number of columns: a block walks over its rows; its partial row of dweight is its own, in global memory.
template <class T>
__global__ void __launch_bounds__(kAnyThreads)
    rms_norm_backward_any_kernel(int64_t rows, int64_t columns, float plus, const T* __restrict__ h,
                                 const T* __restrict__ weight, const float* __restrict__ rstd, const T* __restrict__ dy,
                                 const T* __restrict__ dh, T* __restrict__ dx, float* partial) {
  __shared__ float scratch[2][kWarp];
  float* dweight = partial ? partial + static_cast<int64_t>(blockIdx.x) * columns : nullptr;
  int parity = 0;
  for (int64_t row = blockIdx.x; row < rows; row += gridDim.x, parity ^= 1) {
    const int64_t at = row * columns;
    const float scale = rstd[row];
    float dot = 0;
    for (int64_t c = threadIdx.x; c < columns; c += kAnyThreads) {
      const float n = to_float(h[at + c]) * scale, d = to_float(dy[at + c]);
      if (dweight) dweight[c] = d * n + (row == blockIdx.x ? 0.f : dweight[c]);
      dot = fmaf(d * (to_float(weight[c]) + plus), n, dot);
    }
    const float mean = block_reduce<kAnyThreads>(dot, Sum{}, scratch[parity]) / static_cast<float>(columns);
    for (int64_t c = threadIdx.x; c < columns; c += kAnyThreads) {
      const float n = to_float(h[at + c]) * scale;
      float d = scale * (to_float(dy[at + c]) * (to_float(weight[c]) + plus) - n * mean);
      if (dh) d += to_float(dh[at + c]);
      dx[at + c] = from_float<T>(d);
    }
  }
}

}  // namespace

void rms_norm_forward(const Tensor& x, const Tensor& residual, const Tensor& weight, double eps, double weight_offset,
                      const Tensor& h, const Tensor& y, const Tensor& rstd, const Tensor& largest) {
  const int64_t columns = weight.numel(), rows = rstd.numel();
  dispatch(x.dtype(), "rms_norm", [&](auto zero) {
    using T = decltype(zero);
    const bool wide = columns % kN == 0 && aligned16(as<T>(x), as<T>(residual), as<T>(weight), as<T>(h), as<T>(y));
    const auto arranged = [&](auto shape) {
      using S = decltype(shape);
      constexpr int kRows = kRowsPerBlock<S::WARPS>;
      launch({"rms_norm", bytes_of(x, residual, h, y)}, rms_norm_kernel<S::WARPS, S::V, T>, ceil_div(rows, kRows),
             S::WARPS * kWarp * kRows, 0, rows, columns, eps, weight_offset, as<T>(x), as<T>(residual), as<T>(weight),
             as<T>(h), as<T>(y), as<float>(rstd), as<float>(largest));
    };
    if (wide && fit(columns, arranged)) return;
    launch({"rms_norm_any", bytes_of(x, residual, h, y)}, rms_norm_any_kernel<T>, rows, kAnyThreads, 0, columns, eps,
           weight_offset, as<T>(x), as<T>(residual), as<T>(weight), as<T>(h), as<T>(y), as<float>(rstd));
    find_largest(y, largest);
  });
}

void rms_norm_backward(const Tensor& h, const Tensor& weight, double weight_offset, const Tensor& rstd,
                       const Tensor& dy, const Tensor& dh, const Tensor& dx, const Tensor& dweight, bool add,
                       const Tensor& largest) {
  const int64_t columns = weight.numel(), rows = rstd.numel();
  Tensor partial;
  const auto partial_rows = [&](int64_t blocks) {
    if (dweight.defined()) partial = Tensor::empty({blocks, columns}, DType::f32, h.device());
    return as<float>(partial);
  };
  dispatch(h.dtype(), "rms_norm_backward", [&](auto zero) {
    using T = decltype(zero);
    const bool wide = columns % kN == 0 && aligned16(as<T>(h), as<T>(weight), as<T>(dy), as<T>(dh), as<T>(dx));
    const auto arranged = [&](auto shape, auto residual) {
      using S = decltype(shape);
      constexpr int kRows = kGroups<S::WARPS>, kThreads = S::WARPS * kWarp * kRows;
      const auto kernel = rms_norm_backward_kernel<S::WARPS, S::V, residual(), T>;
      const int64_t shared = kRows > 1 ? kRows * columns * 4 : 0;
      // At least four rows per group, so that the partial rows stay few.
      const int64_t blocks =
          std::min(resident_blocks("rms_norm_backward", kernel, kThreads, shared), ceil_div(rows, 4 * kRows));
      launch({"rms_norm_backward", bytes_of(h, dy, dh, dx)}, kernel, blocks, kThreads, shared, rows, columns,
             weight_offset, as<T>(h), as<T>(weight), as<float>(rstd), as<T>(dy), as<T>(dh), as<T>(dx),
             partial_rows(blocks), as<float>(largest));
    };
    const bool in_registers = wide && fit(columns, [&](auto shape) {
                                if (dh.defined()) arranged(shape, std::true_type{});
                                else arranged(shape, std::false_type{});
                              });
    if (in_registers) return;
    const int64_t blocks = std::min<int64_t>(4 * multiprocessors(), rows);
    launch({"rms_norm_backward_any", bytes_of(h, dy, dh, dx)}, rms_norm_backward_any_kernel<T>, blocks, kAnyThreads, 0,
           rows, columns, weight_offset, as<T>(h), as<T>(weight), as<float>(rstd), as<T>(dy), as<T>(dh), as<T>(dx),
           partial_rows(blocks));
    find_largest(dx, largest);
  });
  if (dweight.defined())
    add_partial_rows(partial.defined() ? partial : Tensor::empty({0, columns}, DType::f32, h.device()), dweight, add);
}

}  // namespace rw::cuda
