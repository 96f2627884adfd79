// Sums over rows in two stages: kernels here give a partial row per slab of rows, add_partial_rows (cuda_ops.h) adds the
// slabs up in order: no atomics, so results repeat. Internal: only .cu files include it.
#pragma once
#include <algorithm>

#include "autograd/ops/cuda_ops.h"
#include "tensor/launch.cuh"

namespace rw::cuda {

constexpr int kLanes = 32;       // threads along the columns
constexpr int kRowsAtATime = 8;  // of a block

/// partial [P,C] = the sum over the rows of each slab of what source(first of N elements) gives as Vec<float, N>. A block
/// covers 32 N columns of a slab, kRowsAtATime rows at a time.
template <int N, class Source>
__global__ void __launch_bounds__(kLanes* kRowsAtATime)
    column_partials_kernel(int64_t rows, int64_t columns, int64_t slab, Source source, float* __restrict__ partial) {
  __shared__ float sums[kRowsAtATime][kLanes * N];
  const int lane = threadIdx.x % kLanes, first = threadIdx.x / kLanes;
  const int64_t column_blocks = (columns + kLanes * N - 1) / (kLanes * N);
  const int64_t c = (blockIdx.x % column_blocks * kLanes + lane) * N;
  const int64_t part = blockIdx.x / column_blocks, end = min(rows, (part + 1) * slab);
  Vec<float, N> sum{}, lost{};  // lost: what rounding took off the sum (Kahan), so that long columns keep their digits
  if (c < columns) {            // N divides the columns
#pragma unroll 4
    for (int64_t r = part * slab + first; r < end; r += kRowsAtATime) {
      const Vec<float, N> v = source(r * columns + c);
#pragma unroll
      for (int i = 0; i < N; ++i) {
        const float term = __fsub_rn(v.at[i], lost.at[i]), total = __fadd_rn(sum.at[i], term);
        lost.at[i] = __fsub_rn(__fsub_rn(total, sum.at[i]), term);
        sum.at[i] = total;
      }
    }
  }
#pragma unroll
  for (int i = 0; i < N; ++i) sums[first][lane * N + i] = sum.at[i];
  __syncthreads();
  const int64_t begin = blockIdx.x % column_blocks * kLanes * N;
  for (int i = threadIdx.x; i < kLanes * N && begin + i < columns; i += kLanes * kRowsAtATime) {
    float total = 0;
    for (int r = 0; r < kRowsAtATime; ++r) total += sums[r][i];
    partial[part * columns + begin + i] = total;
  }
}

/// Launches it for [R,C] and gives the partial rows [P,C], f32. Slabs of at least 64 rows, and about 1024 blocks; from
/// the shape alone, so that the order of additions is the shape's.
template <int N, class Source>
Tensor column_partials(const Label& label, int64_t rows, int64_t columns, const Source& source, Device device) {
  const int64_t column_blocks = ceil_div(columns, kLanes * N);
  const int64_t slab = std::max<int64_t>(64, ceil_div(rows, ceil_div(1024, column_blocks)));
  const Tensor partial = Tensor::empty({ceil_div(rows, slab), columns}, DType::f32, device);
  launch(label, column_partials_kernel<N, Source>, partial.size(0) * column_blocks, kLanes * kRowsAtATime, 0, rows,
         columns, slab, source, as<float>(partial));
  return partial;
}

}  // namespace rw::cuda
