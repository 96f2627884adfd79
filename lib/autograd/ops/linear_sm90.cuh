// A linear layer's product whose result goes through an elementwise op on its way to memory, for Hopper:
//
//   C [R,N] = A [R,K] B^T (B stored [N,K]), or A B (B stored [K,N]), in bf16; memory gets epilogue(C)
//
// A block makes tiles of 128 x 256 of C. Its warps have three jobs:
//   copying      one thread asks for tiles of A and B, 64 of K at a time, in a ring of three stages. The two blocks of
//                a cluster have the same columns of C, so each copies half of B for both;
//   multiplying  two warpgroups, 64 rows each; a finished tile goes to shared memory, rounded to bf16;
//   epilogue     the other warps take it from there, four rows at a time, while the next tile is multiplied.
//
// Every element of C is summed over K in steps of 16 in one accumulator, as cuBLASLt's kernels do it here, and is
// rounded to bf16 before the epilogue. So the bits are those of the product and the op one after the other
// (tests/gpu/test_linear_gpu.cpp). What bounds it stands in docs/kernels-log.md.
#pragma once
#include "tensor/hopper.cuh"

namespace rw::cuda::fused {

using namespace hopper;

constexpr int kRows = 128, kColumns = 256, kDepth = 64;  // of a tile
constexpr int kStages = 3, kCluster = 2;
constexpr int kPanel = kRows * 128;  // bytes of 64 columns of a tile of C
constexpr int kBytesA = kRows * kDepth * 2, kBytesB = kColumns * kDepth * 2, kBytesC = kRows * kColumns * 2;

/// Warps: 0 copies, 4 to 11 multiply, the other seven do the epilogue. Each kind takes the registers that it needs.
constexpr int kThreads = 512, kEpilogueWarps = 7, kMultiplyRegisters = 168, kOtherRegisters = 88;

/// The tiles of a product, numbered so that blocks at work at one time share rows of A and columns of C.
struct Tiles {
  int rows;     // R
  int sets;     // of kCluster tiles, one above the other
  int columns;  // tiles side by side
  int steps;    // of kDepth
  int section;  // sets that are walked together
  int stride,
      half;  // rows of B (columns, if B is stored [K,N]) from tile to tile, and from a tile's first half to its second

  __host__ __device__ int count() const { return sets * columns; }
  __device__ void locate(int item, int& set, int& column) const {
    const int first = item / (section * columns) * section, rest = item % (section * columns);
    const int width = min(section, sets - first);
    column = rest / width;
    set = first + rest % width;
  }
};

/// Four rows of a tile.
struct Place {
  int row, column;  // of C: the first of each
  int line;         // the first row within the tile
};
constexpr int kUnit = 4;

#ifdef ROPEWALK_SM90A

struct Shared {
  alignas(1024) char a[kStages][kBytesA];
  alignas(1024) char b[kStages][kBytesB];
  alignas(1024) char c[kBytesC];  // four panels of 128 rows
  Barrier full[kStages], empty[kStages];
  Barrier made[2], read[2];  // of each half of C's rows
};

/// Eight columns from 8 chunk on of a row of C.
__device__ inline Eight<b16> load_chunk(const char* c, int row, int chunk) {
  const unsigned at = shared_address(c + chunk / 8 * kPanel + row * 128 + ((chunk % 8) ^ (row % 8)) * 16);
  Eight<b16> v;
  asm volatile("ld.shared.v4.u32 {%0, %1, %2, %3}, [%4];"
               : "=r"(v.pair[0]), "=r"(v.pair[1]), "=r"(v.pair[2]), "=r"(v.pair[3])
               : "r"(at));
  return v;
}

/// One thread's: asks for all tiles of A and B.
template <class Epilogue>
__device__ __forceinline__ void copy_tiles(const Tiles& tiles, const CUtensorMap& a, const CUtensorMap& b, Shared& s,
                                           int rank) {
  Ring<kStages> ring;
  for (int item = blockIdx.x / kCluster; item < tiles.count(); item += gridDim.x / kCluster) {
    int set, column;
    tiles.locate(item, set, column);
    const int row = (set * kCluster + rank) * kRows, b_row = column * tiles.stride + rank * tiles.half;
    for (int k = 0; k < tiles.steps; ++k, ring.next()) {
      barrier_wait(&s.empty[ring.stage], ring.parity ^ 1);
      Barrier* full = &s.full[ring.stage];
      barrier_arrive_expect(full, kBytesA + kBytesB);
      load_box(s.a[ring.stage], a, k * kDepth, row, full);
      char* to = s.b[ring.stage] + rank * (kBytesB / kCluster);
      if constexpr (Epilogue::across) {  // two panels [64 of K][64 columns]
        load_box_everywhere<kCluster>(to, b, b_row, k * kDepth, full);
        load_box_everywhere<kCluster>(to + kBytesB / 4, b, b_row + 64, k * kDepth, full);
      } else {
        load_box_everywhere<kCluster>(to, b, k * kDepth, b_row, full);
      }
    }
  }
}

/// This warp has read the stage: tells both blocks, since both write to it.
__device__ __forceinline__ void release(Barrier* empty) {
  __syncwarp();
  if (threadIdx.x % 32 < kCluster) barrier_arrive_at(empty, threadIdx.x % 32);
}

/// Warpgroup `w`'s half of the rows of all tiles.
template <class Epilogue>
__device__ __forceinline__ void multiply_tiles(const Tiles& tiles, Shared& s, int w) {
  constexpr bool across = Epilogue::across;
  Ring<kStages> ring;
  float left[64], right[64];  // sums of 64 x 128 columns each
  int parity = 1;
  for (int item = blockIdx.x / kCluster; item < tiles.count(); item += gridDim.x / kCluster, parity ^= 1) {
    int last = 0;
    for (int k = 0; k < tiles.steps; ++k) {
      barrier_wait(&s.full[ring.stage], ring.parity);
      const uint64_t a = descriptor(s.a[ring.stage] + w * 64 * 128, 0);
      const uint64_t b = descriptor(s.b[ring.stage], across ? kBytesB / 4 : 0);
      wgmma_fence();
#pragma unroll
      for (int i = 0; i < kDepth / 16; ++i) {
        const uint64_t ai = advanced(a, i * 32), bi = advanced(b, across ? i * 16 * 128 : i * 32);
        wgmma<128, across>(left, ai, bi, (k | i) != 0);
        wgmma<128, across>(right, ai, advanced(bi, kBytesB / 2), (k | i) != 0);
      }
      wgmma_commit();
      if (k > 0) {
        wgmma_wait<1>();
        release(&s.empty[last]);
      }
      last = ring.stage;
      ring.next();
    }
    wgmma_wait<0>();
    arrived(left);
    arrived(right);
    release(&s.empty[last]);
    barrier_wait(&s.read[w], parity);
    unsigned packed[32];
    pack_all(packed, left);
    store_packed(s.c + w * 64 * 128, kPanel, packed);
    pack_all(packed, right);
    store_packed(s.c + 2 * kPanel + w * 64 * 128, kPanel, packed);
    if (Epilogue::stores) fence_async();
    warp_arrive(&s.made[w]);
  }
}

/// A block's tiles four rows at a time, of which a warp takes every kEpilogueWarps-th.
struct Walk {
  static constexpr int units = kRows / kUnit;
  int item, unit, parity = 0, row, column;
  __device__ Walk(const Tiles& tiles, int first, int rank) : item(blockIdx.x / kCluster), unit(first) {
    locate(tiles, rank);
  }
  __device__ void locate(const Tiles& tiles, int rank) {
    int set;
    tiles.locate(item, set, column);
    row = (set * kCluster + rank) * kRows;
    column *= kColumns;
  }
  __device__ void next(const Tiles& tiles, int rank) {
    unit += kEpilogueWarps;
    if (unit < units) return;
    unit -= units;
    item += gridDim.x / kCluster;
    parity ^= 1;
    if (item < tiles.count()) locate(tiles, rank);
  }
  __device__ Place place() const { return {row + unit * kUnit, column, unit * kUnit}; }
};

template <class Epilogue>
__device__ __forceinline__ void finish_tiles(const Tiles& tiles, const Epilogue& f, const CUtensorMap& c, Shared& s,
                                             int rank, int warp) {
  constexpr int kHalf = Walk::units / 2;
  typename Epilogue::Inputs inputs;
  for (Walk walk(tiles, warp, rank); walk.item < tiles.count(); walk.next(tiles, rank)) {
    f.load(inputs, walk.place(), tiles.rows);
    const int half = walk.unit / kHalf, within = walk.unit % kHalf;
    if (within < kEpilogueWarps) {  // this warp's first rows of the half
      barrier_wait(&s.made[half], walk.parity);
      if constexpr (Epilogue::stores)
        if (within == 0 && threadIdx.x % 32 == 0) f.store(c, walk.row + half * 64, walk.column, s.c + half * 64 * 128);
    }
    f.finish(inputs, walk.place(), tiles.rows, s.c);
    if (within + kEpilogueWarps >= kHalf) {  // its last
      if (Epilogue::stores) tma_store_wait();
      warp_arrive(&s.read[half]);
    }
  }
}

#endif  // ROPEWALK_SM90A

/// `a`, `b`: boxes of kDepth x kRows of A and of B (kDepth x 128 rows, or 64 x 64 if B is stored [K,N]); `c`: boxes of
/// 64 x 64, if the epilogue stores C.
template <class Epilogue>
__global__ void __cluster_dims__(kCluster, 1, 1) __launch_bounds__(kThreads, 1)
    linear_kernel(Tiles tiles, Epilogue f, const __grid_constant__ CUtensorMap a, const __grid_constant__ CUtensorMap b,
                  const __grid_constant__ CUtensorMap c) {
#ifdef ROPEWALK_SM90A
  extern __shared__ __align__(1024) char memory[];
  Shared& s = *reinterpret_cast<Shared*>(memory);
  const int rank = rank_in_cluster(), group = uniform(threadIdx.x / 128), warp = threadIdx.x / 32;
  if (threadIdx.x == 0) {
    for (int i = 0; i < kStages; ++i) {
      barrier_init(&s.full[i], 1);
      barrier_init(&s.empty[i], kCluster * 8);  // the warps that multiply
    }
    for (int i = 0; i < 2; ++i) {
      barrier_init(&s.made[i], 4 * kArrivals);
      barrier_init(&s.read[i], kEpilogueWarps * kArrivals);
    }
    barrier_init_done();
  }
  __syncthreads();
  cluster_sync();
  if (group == 1 || group == 2) {
    registers_take<kMultiplyRegisters>();
    multiply_tiles<Epilogue>(tiles, s, group - 1);
  } else {
    registers_keep<kOtherRegisters>();
    if (threadIdx.x == 0) copy_tiles<Epilogue>(tiles, a, b, s, rank);
    else if (warp > 0) finish_tiles<Epilogue>(tiles, f, c, s, rank, group == 0 ? warp - 1 : warp - 9);
  }
  cluster_sync();  // the other block may still write here
#endif
}

}  // namespace rw::cuda::fused
