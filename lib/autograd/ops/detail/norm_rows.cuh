// How the kernels of RMSNorm and LayerNorm share out a row: a group of threads holds a whole row in registers, so that
// each byte crosses the memory bus once. Internal: only .cu files include it.
#pragma once
#include "tensor/launch.cuh"

namespace rw::cuda::norm {

constexpr int kN = 8;  // elements per vector

/// Sum over the WARPS warps that share a row; every thread gets it.
template <int WARPS>
__device__ __forceinline__ float row_sum(float value, float* scratch) {
  if constexpr (WARPS == 1) return warp_reduce(value, Sum{});
  return block_reduce<WARPS * kWarp>(value, Sum{}, scratch);
}

/// Forward: with one warp per row a block holds eight rows.
template <int WARPS>
constexpr int kRowsPerBlock = WARPS == 1 ? 8 : 1;

/// Backward: rows at a time in a block, each by a group of threads.
template <int WARPS>
constexpr int kGroups = WARPS == 1 ? 4 : 1;

/// This thread's V vectors of row `row` of x [rows, columns]. `member` counts the threads of its group. Vectors beyond the
/// row's end stay as they are.
template <int WARPS, int V, class T>
__device__ __forceinline__ void load_row(Eight<T> (&to)[V], const T* x, int64_t row, int member, int columns) {
#pragma unroll
  for (int v = 0; v < V; ++v) {
    const int c = (v * WARPS * kWarp + member) * kN;
    if (c < columns) to[v] = load_eight(x + row * columns + c);
  }
}

/// Any number of columns, any alignment: a block per row, which reads the row again for the second pass.
constexpr int kAnyThreads = 256;

template <int W, int V_>
struct Fit {
  static constexpr int WARPS = W, V = V_;
};

/// Calls f with the smallest arrangement that holds a row in registers; false if none does.
template <class F>
bool fit(int64_t columns, F&& f) {
  if (columns <= 256) f(Fit<1, 1>{});
  else if (columns <= 512) f(Fit<1, 2>{});
  else if (columns <= 768) f(Fit<1, 3>{});
  else if (columns <= 1024) f(Fit<4, 1>{});
  else if (columns <= 2048) f(Fit<4, 2>{});
  else if (columns <= 4096) f(Fit<8, 2>{});
  else if (columns <= 8192) f(Fit<16, 2>{});
  else return false;
  return true;
}

}  // namespace rw::cuda::norm
