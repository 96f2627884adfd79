// What the three ladders share: a problem, its levels from naive to fast, and the table that compares them.
// The ideas are explained in docs/kernels.md.
#pragma once
#include <functional>
#include <string>
#include <vector>

#include "tensor/launch.cuh"

namespace ladder {

using rw::DType;
using rw::Shape;
using rw::Tensor;
using rw::cuda::b16;
using rw::cuda::ceil_div;
using rw::cuda::Grid;
using rw::cuda::kAllLanes;
using rw::cuda::kWarp;
using rw::cuda::launch;
using rw::cuda::load;
using rw::cuda::store;
using rw::cuda::to_float;
using rw::cuda::Vec;

inline constexpr rw::Device kGpu{rw::DeviceType::cuda, 0};

/// Rates of this card, as its own copy and matrix product reach them: bytes and FLOPs per second.
struct Ceilings {
  double copy = 0, gemm = 0;
};

struct Problem {
  std::string title;
  double bytes = 0, flops = 0;  // least bytes for a problem bound by memory, else FLOPs; the other is 0
  Tensor output;                // filled with NaN before each level is checked
  /// Largest error of `host` (the output on the CPU, f32) against f64, relative to the largest value looked at.
  std::function<double(const Tensor& host)> error;
  double tolerance = 1e-2;  // bf16 keeps 8 bits
};

struct Level {
  std::string name;
  std::function<void()> run;
};

/// Checks and times each level; prints a line for each. Returns how many were wrong.
int climb(const Problem& problem, const std::vector<Level>& levels, const Ceilings& ceilings);

/// N(0, std^2) in bf16.
Tensor normal(Shape shape, uint64_t seed, double std = 1);

int climb_rms_norm(const Ceilings& ceilings);
int climb_gemm(const Ceilings& ceilings);
int climb_attention(const Ceilings& ceilings);

// --- tensor cores, for the levels that use mma.sync -----------------------------------------------------------------
//
// mma.m16n8k16: D[16 x 8] += A[16 x 16] B[16 x 8] by one warp, bf16 with f32 sums. Lane l holds
//   A  rows l/4 and l/4 + 8, columns 2 (l%4) + {0, 1} and the same + 8: four registers of two bf16
//   B  rows 2 (l%4) + {0, 1} and the same + 8, column l/4: two registers
//   D  rows l/4 and l/4 + 8, columns 2 (l%4) + {0, 1}: four f32

__device__ __forceinline__ void mma(float (&d)[4], const uint32_t (&a)[4], uint32_t b0, uint32_t b1) {
  asm volatile(
      "mma.sync.aligned.m16n8k16.row.col.f32.bf16.bf16.f32 {%0,%1,%2,%3}, {%4,%5,%6,%7}, {%8,%9}, {%0,%1,%2,%3};"
      : "+f"(d[0]), "+f"(d[1]), "+f"(d[2]), "+f"(d[3])
      : "r"(a[0]), "r"(a[1]), "r"(a[2]), "r"(a[3]), "r"(b0), "r"(b1));
}

/// A tile in shared memory with rows of 64 bf16 = 128 bytes = 8 chunks of 16 bytes. Chunk c of
/// row r lies at c ^ (r % 8): then the 8 rows that ldmatrix reads at a time lie in 8 different
/// groups of banks, though they are 128 bytes apart.
__device__ __forceinline__ b16* chunk_of(b16* tile, int row, int chunk) {
  return tile + row * 64 + (chunk ^ (row % 8)) * 8;
}

/// Four 8 x 8 blocks of bf16 from shared memory into the registers of a warp; lane l gives the address of row l % 8 of
/// block l / 8. Each lane gets two neighbours of row l / 4 of each block; transposed: of column l / 4.
__device__ __forceinline__ void ldmatrix(uint32_t (&r)[4], const b16* row) {
  asm volatile("ldmatrix.sync.aligned.m8n8.x4.shared.b16 {%0,%1,%2,%3}, [%4];"
               : "=r"(r[0]), "=r"(r[1]), "=r"(r[2]), "=r"(r[3])
               : "r"(static_cast<uint32_t>(__cvta_generic_to_shared(row)))
               : "memory");
}
__device__ __forceinline__ void ldmatrix_transposed(uint32_t (&r)[4], const b16* row) {
  asm volatile("ldmatrix.sync.aligned.m8n8.x4.trans.shared.b16 {%0,%1,%2,%3}, [%4];"
               : "=r"(r[0]), "=r"(r[1]), "=r"(r[2]), "=r"(r[3])
               : "r"(static_cast<uint32_t>(__cvta_generic_to_shared(row)))
               : "memory");
}

/// 16 bytes from global to shared memory without passing through registers and without waiting.
__device__ __forceinline__ void copy_async(b16* shared, const b16* global) {
  asm volatile(
      "cp.async.cg.shared.global [%0], [%1], 16;" ::"r"(static_cast<uint32_t>(__cvta_generic_to_shared(shared))),
      "l"(global)
      : "memory");
}
__device__ __forceinline__ void commit_copies() { asm volatile("cp.async.commit_group;" ::: "memory"); }
/// Waits until at most N committed groups of this thread are in flight.
template <int N>
__device__ __forceinline__ void wait_copies() {
  asm volatile("cp.async.wait_group %0;" ::"n"(N) : "memory");
}

__device__ __forceinline__ uint32_t pack(float low, float high) {
  const __nv_bfloat162 two = __floats2bfloat162_rn(low, high);
  return *reinterpret_cast<const uint32_t*>(&two);
}

}  // namespace ladder
