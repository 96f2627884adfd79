// What the attention kernels for Hopper share (tensor/hopper.cuh has the instructions).
//
// A tile of head dim 128 is two panels, one after the other. Head dims other than the compiled 64 and 128 run in the
// next larger kernel. The tensor maps end at the true head dim: TMA fills the rest of a box with zeros, which add
// nothing to any product, and stores nothing of it, so that the next head's elements are neither read nor touched.
#pragma once
#include "autograd/ops/attention.cuh"
#include "tensor/hopper.cuh"

namespace rw::cuda::attn {

using namespace hopper;
using bf = __nv_bfloat16;

/// Head dim of the kernel that takes a head dim.
constexpr int kernel_head_dim(int64_t head_dim) { return head_dim <= 64 ? 64 : 128; }

/// Tensor map of a view [B, T, heads, D] for boxes of `rows` tokens x 64 elements of one head. Tokens beyond T and
/// elements beyond D read as zeros and are not written. A load completes its barrier by the bytes of the whole box,
/// wherever it lies, so what barriers expect does not depend on T or D. D must be a multiple of 8: strides between
/// heads are multiples of 16 bytes.
CUtensorMap tensor_map(const HeadView& view, int64_t batch, int64_t length, int64_t heads, int64_t head_dim, int rows);

/// The order in which blocks take tiles: heads in sections whose walked tensors fit in L2 together; within a section
/// the tiles with the longest walk first, so that no long tile is left for the end.
struct TileOrder {
  int tiles, heads, section;  // tiles per head (0: longest walk), heads in all, heads per section
  __host__ __device__ int count() const { return tiles * heads; }
  __device__ void locate(int item, int& tile, int& head) const {
    const int first = item / (section * tiles) * section, rest = item % (section * tiles);
    const int width = min(section, heads - first);
    tile = rest / width;
    head = first + rest % width;
  }
};

inline TileOrder tile_order(int tiles, int heads, int heads_per_walk, int64_t walked_bytes) {
  const int64_t l2 = 24 << 20;  // about half of it: the rest holds what is written
  const int64_t walks = walked_bytes > 0 && l2 / walked_bytes > 1 ? l2 / walked_bytes : 1;
  const int64_t section = walks * heads_per_walk;
  return {tiles, heads, static_cast<int>(section < heads ? section : heads)};
}

#ifdef ROPEWALK_SM90A

/// All panels of a tile of the kernel's head dim D; the last may be partly beyond the tensor's.
template <int D>
__device__ inline void tma_load_tile(char* to, int panel_bytes, const CUtensorMap& map, int h, int t, int b,
                                     Barrier* full) {
#pragma unroll
  for (int p = 0; p < D / 64; ++p) tma_load(to + p * panel_bytes, map, p * 64, h, t, b, full);
}
template <int D>
__device__ inline void tma_store_tile(const CUtensorMap& map, int h, int t, int b, const char* from, int panel_bytes) {
#pragma unroll
  for (int p = 0; p < D / 64; ++p) tma_store(map, p * 64, h, t, b, from + p * panel_bytes);
}
/// acc = A B^T over the head dim D: A 64 rows, B N rows, both stored as rows. a_panel, b_panel: bytes of one panel.
template <int D, int N>
__device__ inline void dot_rows(float (&acc)[N / 2], uint64_t a, int a_panel, uint64_t b, int b_panel) {
  wgmma_fence();
#pragma unroll
  for (int k = 0; k < D / 16; ++k)
    wgmma<N, false>(acc, advanced(a, k / 4 * a_panel + k % 4 * 32), advanced(b, k / 4 * b_panel + k % 4 * 32), k != 0);
}
/// The same as a new sum (wgmma_new).
template <int D, int N>
__device__ inline void dot_rows_new(float (&acc)[N / 2], uint64_t a, int a_panel, uint64_t b, int b_panel) {
  wgmma_fence();
  wgmma_new<N, false, false>(acc, a, b);
#pragma unroll
  for (int k = 1; k < D / 16; ++k)
    wgmma<N, false>(acc, advanced(a, k / 4 * a_panel + k % 4 * 32), advanced(b, k / 4 * b_panel + k % 4 * 32), 1);
}

/// The same with A's 64 x D in registers (load_rows).
template <int D, int N>
__device__ inline void dot_rows(float (&acc)[N / 2], const unsigned (&a)[D / 4], uint64_t b, int b_panel) {
  wgmma_fence();
#pragma unroll
  for (int k = 0; k < D / 16; ++k) wgmma<N, false>(acc, a + 4 * k, advanced(b, k / 4 * b_panel + k % 4 * 32), k != 0);
}

/// A warpgroup's 64 rows of swizzled panels as the register operand A.
template <int D>
__device__ inline void load_rows(unsigned (&a)[D / 4], const char* first_row, int panel_bytes) {
  const int lane = threadIdx.x % 32, row = threadIdx.x / 32 % 4 * 16 + lane % 16;
#pragma unroll
  for (int k = 0; k < D / 16; ++k) {
    const char* at = first_row + k / 4 * panel_bytes + row * 128 + ((k % 4 * 2 + lane / 16) ^ (row % 8)) * 16;
    asm volatile("ldmatrix.sync.aligned.m8n8.x4.shared.b16 {%0, %1, %2, %3}, [%4];"
                 : "=r"(a[4 * k]), "=r"(a[4 * k + 1]), "=r"(a[4 * k + 2]), "=r"(a[4 * k + 3])
                 : "r"(shared_address(at))
                 : "memory");
  }
}

/// acc += W B: W 64 x K as packed registers, B has K rows of the head dim D.
template <int D, int K>
__device__ inline void add_rows(float (&acc)[D / 2], const unsigned (&w)[K / 4], uint64_t b) {
  wgmma_fence();
#pragma unroll
  for (int k = 0; k < K / 16; ++k) wgmma<D, true>(acc, w + 4 * k, advanced(b, k * 16 * 128), 1);
}

/// Writes a warpgroup's accumulators [64 x D] times a factor per row half as bf16 into its 64 rows of swizzled panels.
template <int D>
__device__ inline void stage_rows(bf* first_row, int panel_bytes, const float (&acc)[D / 2], float low, float high) {
  const int lane = threadIdx.x % 32, row = threadIdx.x / 32 % 4 * 16 + lane / 4;  // row % 8 == lane / 4
  char* base = reinterpret_cast<char*>(first_row) + row * 128 + lane % 4 * 4;
#pragma unroll
  for (int j = 0; j < D / 8; ++j) {
    char* at = base + j / 8 * panel_bytes + ((j % 8) ^ (lane / 4)) * 16;
    *reinterpret_cast<unsigned*>(at) = pack(acc[4 * j] * low, acc[4 * j + 1] * low);
    *reinterpret_cast<unsigned*>(at + 8 * 128) = pack(acc[4 * j + 2] * high, acc[4 * j + 3] * high);
  }
}

/// Of a thread's row `half`, leaves the columns [low, high), counted from its first one; no others are seen.
template <int n>
__device__ __forceinline__ void keep_columns(float (&scores)[n], int half, int low, int high) {
#pragma unroll
  for (int j = 0; j < n / 4; ++j)
#pragma unroll
    for (int e = 0; e < 2; ++e)
      if (8 * j + e < low || 8 * j + e >= high) scores[4 * j + 2 * half + e] = -INFINITY;
}

/// Hands out items 0, 1, ... to the blocks of one launch and resets itself when the last block is through. One launch
/// at a time may use a counter, which the compute stream guarantees.
struct Tickets {
  unsigned taken, finished;
  __device__ int take(int total) {
    const int item = static_cast<int>(gridDim.x + atomicAdd(&taken, 1u));
    if (item < total) return item;
    if (atomicAdd(&finished, 1u) == gridDim.x - 1) {
      taken = 0;
      finished = 0;
    }
    return -1;
  }
};

#else
#pragma nv_diag_suppress 177  // in this pass the kernels are empty and what they need is unused
struct Tickets {
  unsigned taken, finished;
};
#endif                        // ROPEWALK_SM90A

}  // namespace rw::cuda::attn
