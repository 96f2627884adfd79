// Hopper's instructions as functions: barriers in shared memory, bulk tensor copies
// (TMA) and warpgroup matrix products (wgmma).
//
// Vocabulary of the two files that use it:
//   panel     [rows][64] bf16 in shared memory, 128 bytes a row, with TMA's 128-byte swizzle: the 16-byte chunk c of
//             row r lies at chunk c ^ (r % 8). A tile of head dim 128 is two panels, one after the other. Panels start
//             at multiples of 1024 bytes.
//   warpgroup 4 warps that issue one wgmma together: D[64 x N] += A[64 x 16] B[16 x N]. Warp w of it holds rows
//             16 w .. 16 w + 15 of D; within the warp the layout is that of mma.m16n8k16: a lane holds rows lane/4 and
//             lane/4 + 8, columns 8 j + 2 (lane % 4) + {0, 1}: element 4 j + 2 half + e of its array.
//   padding   head dims other than the compiled 64 and 128 run in the next larger kernel. The tensor maps end at the
//             true head dim: TMA fills the rest of a box with zeros, which add nothing to any product, and stores
//             nothing of it, so that the next head's elements are neither read nor touched.
//   full      a barrier that TMA completes when a tile has landed; `empty`, one that consumers complete when they
//             have read it.
#pragma once
#include <cuda.h>  // CUtensorMap only: the driver is reached through the runtime, never linked

#include "autograd/ops/attention.cuh"

#if defined(__CUDA_ARCH_FEAT_SM90_ALL)
#define ROPEWALK_SM90A \
  1  // this pass may use wgmma and setmaxnreg; in other passes the kernels are empty and never chosen
#endif

namespace rw::cuda::attn {

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

__device__ inline unsigned shared_address(const void* p) { return static_cast<unsigned>(__cvta_generic_to_shared(p)); }

/// Two neighbours in shared memory. Through a pointer that came by way of a
/// struct the compiler would use generic loads.
__device__ inline float2 load_shared_pair(const float* p) {
  float2 x;
  asm volatile("ld.shared.v2.f32 {%0, %1}, [%2];" : "=f"(x.x), "=f"(x.y) : "r"(shared_address(p)));
  return x;
}

// --- barriers in shared memory

using Barrier = uint64_t;

__device__ inline void barrier_init(Barrier* b, int arrivals) {
  asm volatile("mbarrier.init.shared::cta.b64 [%0], %1;" ::"r"(shared_address(b)), "r"(arrivals) : "memory");
}
/// Makes the inits visible to TMA; a __syncthreads must follow.
__device__ inline void barrier_init_done() {
  asm volatile("fence.mbarrier_init.release.cluster;" ::: "memory");
  asm volatile("fence.proxy.async;" ::: "memory");
}
__device__ inline void barrier_arrive(Barrier* b) {
  asm volatile("mbarrier.arrive.shared::cta.b64 _, [%0];" ::"r"(shared_address(b)) : "memory");
}
__device__ inline void barrier_arrive_expect(Barrier* b, int bytes) {
  asm volatile("mbarrier.arrive.expect_tx.shared::cta.b64 _, [%0], %1;" ::"r"(shared_address(b)), "r"(bytes)
               : "memory");
}
/// A warp's arrival, after the reads and writes of all its lanes: one lane arrives for it. With ROPEWALK_RACECHECK
/// every lane does, since compute-sanitizer's racecheck does not follow __syncwarp to the lane that arrives.
#ifdef ROPEWALK_RACECHECK
constexpr int kArrivals = 32;  // of a warp at a barrier
__device__ inline void warp_arrive(Barrier* b) { barrier_arrive(b); }
#else
constexpr int kArrivals = 1;
__device__ inline void warp_arrive(Barrier* b) {
  __syncwarp();
  if (threadIdx.x % 32 == 0) barrier_arrive(b);
}
#endif
/// Waits until the phase of this parity is complete.
__device__ inline void barrier_wait(Barrier* b, int parity) {
  const unsigned address = shared_address(b);
  unsigned done = 0;
  while (!done) {
    asm volatile(
        "{\n.reg .pred p;\n"
        "mbarrier.try_wait.parity.shared::cta.b64 p, [%1], %2;\n"
        "selp.u32 %0, 1, 0, p;\n}\n"
        : "=r"(done)
        : "r"(address), "r"(parity)
        : "memory");
  }
}

/// Position in a ring of stages; the parity flips with each lap.
template <int stages>
struct Ring {
  int stage = 0, parity = 0;
  __device__ void next() {
    if (++stage == stages) stage = 0, parity ^= 1;
  }
};

/// Hardware barriers among whole warps.
__device__ inline void named_sync(int id, int threads) {
  asm volatile("bar.sync %0, %1;" ::"r"(id), "r"(threads) : "memory");
}
__device__ inline void named_arrive(int id, int threads) {
  asm volatile("bar.arrive %0, %1;" ::"r"(id), "r"(threads) : "memory");
}

// --- copies

/// Box at (element d, head h, token t, sample b) into shared memory; all its bytes count
/// towards `full`, those filled with zeros too.
__device__ inline void tma_load(void* to, const CUtensorMap& map, int d, int h, int t, int b, Barrier* full) {
  asm volatile(
      "cp.async.bulk.tensor.4d.shared::cluster.global.tile.mbarrier::complete_tx::bytes [%0], [%1, {%2, %3, %4, %5}], "
      "[%6];" ::"r"(shared_address(to)),
      "l"(&map), "r"(d), "r"(h), "r"(t), "r"(b), "r"(shared_address(full))
      : "memory");
}
__device__ inline void tma_store(const CUtensorMap& map, int d, int h, int t, int b, const void* from) {
  asm volatile("cp.async.bulk.tensor.4d.global.shared::cta.tile.bulk_group [%0, {%1, %2, %3, %4}], [%5];" ::"l"(&map),
               "r"(d), "r"(h), "r"(t), "r"(b), "r"(shared_address(from))
               : "memory");
}
/// Waits until this thread's stores have read shared memory.
__device__ inline void tma_store_wait() {
  asm volatile("cp.async.bulk.commit_group;" ::: "memory");
  asm volatile("cp.async.bulk.wait_group.read 0;" ::: "memory");
}
/// Contiguous bytes, a multiple of 16, both ends 16-byte aligned.
__device__ inline void bulk_load(void* to, const void* from, int bytes, Barrier* full) {
  asm volatile("cp.async.bulk.shared::cluster.global.mbarrier::complete_tx::bytes [%0], [%1], %2, [%3];" ::"r"(
                   shared_address(to)),
               "l"(from), "r"(bytes), "r"(shared_address(full))
               : "memory");
}
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
/// Contiguous bytes from shared memory, stored or added (f32) to what is there.
__device__ inline void bulk_store(void* to, const void* from, int bytes) {
  asm volatile("cp.async.bulk.global.shared::cta.bulk_group [%0], [%1], %2;" ::"l"(to), "r"(shared_address(from)),
               "r"(bytes)
               : "memory");
}
__device__ inline void bulk_add(void* to, const void* from, int bytes) {
  asm volatile("cp.reduce.async.bulk.global.shared::cta.bulk_group.add.f32 [%0], [%1], %2;" ::"l"(to),
               "r"(shared_address(from)), "r"(bytes)
               : "memory");
}
/// Makes this thread's stores to shared memory visible to TMA and wgmma.
__device__ inline void fence_async() { asm volatile("fence.proxy.async.shared::cta;" ::: "memory"); }

// --- matrix products

/// wgmma's view of a panel: start address, and the strides between 8-row groups (1024 bytes) and, for an operand read
/// across its rows, between panels. Bits 62-63: 128-byte swizzle.
__device__ inline uint64_t descriptor(const void* panel, int panel_bytes) {
  const uint64_t address = (shared_address(panel) & 0x3ffff) >> 4;
  return address | uint64_t(panel_bytes >> 4) << 16 | uint64_t(1024 >> 4) << 32 | uint64_t(1) << 62;
}
/// The same operand, `bytes` further on.
__device__ inline uint64_t advanced(uint64_t descriptor, int bytes) { return descriptor + (bytes >> 4); }

__device__ inline void wgmma_fence() { asm volatile("wgmma.fence.sync.aligned;" ::: "memory"); }
__device__ inline void wgmma_commit() { asm volatile("wgmma.commit_group.sync.aligned;" ::: "memory"); }
/// Waits until at most `pending` committed groups are in flight.
template <int pending>
__device__ inline void wgmma_wait() {
  asm volatile("wgmma.wait_group.sync.aligned %0;" ::"n"(pending) : "memory");
}
/// Tells the compiler that the registers hold new values from here on (wgmma wrote them behind its back).
template <int n, class T>
__device__ inline void arrived(T (&x)[n]) {
#pragma unroll
  for (int i = 0; i < n; ++i) {
    if constexpr (std::is_same_v<T, float>) {
      asm volatile("" : "+f"(x[i])::"memory");
    } else {
      asm volatile("" : "+r"(x[i])::"memory");
    }
  }
}

#define RW_F4(d, i) "+f"(d[i]), "+f"(d[i + 1]), "+f"(d[i + 2]), "+f"(d[i + 3])
#define RW_F16(d, i) RW_F4(d, i), RW_F4(d, i + 4), RW_F4(d, i + 8), RW_F4(d, i + 12)
#define RW_F32(d) RW_F16(d, 0), RW_F16(d, 16)
#define RW_F64(d) RW_F16(d, 0), RW_F16(d, 16), RW_F16(d, 32), RW_F16(d, 48)
#define RW_N4(d, i) "=f"(d[i]), "=f"(d[i + 1]), "=f"(d[i + 2]), "=f"(d[i + 3])
#define RW_N16(d, i) RW_N4(d, i), RW_N4(d, i + 4), RW_N4(d, i + 8), RW_N4(d, i + 12)
#define RW_N32(d) RW_N16(d, 0), RW_N16(d, 16)
#define RW_N64(d) RW_N16(d, 0), RW_N16(d, 16), RW_N16(d, 32), RW_N16(d, 48)
#define RW_P32                                                                                                       \
  "{%0,%1,%2,%3,%4,%5,%6,%7,%8,%9,%10,%11,%12,%13,%14,%15,%16,%17,%18,%19,%20,%21,%22,%23,%24,%25,%26,%27,%28,%29,%" \
  "30,%31}"
#define RW_P64                                                                                                        \
  "{%0,%1,%2,%3,%4,%5,%6,%7,%8,%9,%10,%11,%12,%13,%14,%15,%16,%17,%18,%19,%20,%21,%22,%23,%24,%25,%26,%27,%28,%29,%"  \
  "30,%31,"                                                                                                           \
  "%32,%33,%34,%35,%36,%37,%38,%39,%40,%41,%42,%43,%44,%45,%46,%47,%48,%49,%50,%51,%52,%53,%54,%55,%56,%57,%58,%59,%" \
  "60,%61,%62,%63}"

/// D (+)= A B, 64 x N x 16, both operands in shared memory. across: B is read across
/// its rows (stored [k][n] instead of [n][k]).
template <int N, bool across>
__device__ inline void wgmma(float (&d)[N / 2], uint64_t a, uint64_t b, int accumulate) {
  static_assert(N == 64 || N == 128);
  if constexpr (N == 64) {
    asm volatile(
        "{\n.reg .pred p;\nsetp.ne.b32 p, %34, 0;\nwgmma.mma_async.sync.aligned.m64n64k16.f32.bf16.bf16 " RW_P32
        ", %32, %33, p, 1, 1, 0, %35;\n}\n"
        : RW_F32(d)
        : "l"(a), "l"(b), "r"(accumulate), "n"(across ? 1 : 0));
  } else {
    asm volatile(
        "{\n.reg .pred p;\nsetp.ne.b32 p, %66, 0;\nwgmma.mma_async.sync.aligned.m64n128k16.f32.bf16.bf16 " RW_P64
        ", %64, %65, p, 1, 1, 0, %67;\n}\n"
        : RW_F64(d)
        : "l"(a), "l"(b), "r"(accumulate), "n"(across ? 1 : 0));
  }
}
/// The same with A in registers.
template <int N, bool across>
__device__ inline void wgmma(float (&d)[N / 2], const unsigned* a, uint64_t b, int accumulate) {
  static_assert(N == 64 || N == 128);
  if constexpr (N == 64) {
    asm volatile(
        "{\n.reg .pred p;\nsetp.ne.b32 p, %37, 0;\nwgmma.mma_async.sync.aligned.m64n64k16.f32.bf16.bf16 " RW_P32
        ", {%32, %33, %34, %35}, %36, p, 1, 1, %38;\n}\n"
        : RW_F32(d)
        : "r"(a[0]), "r"(a[1]), "r"(a[2]), "r"(a[3]), "l"(b), "r"(accumulate), "n"(across ? 1 : 0));
  } else {
    asm volatile(
        "{\n.reg .pred p;\nsetp.ne.b32 p, %69, 0;\nwgmma.mma_async.sync.aligned.m64n128k16.f32.bf16.bf16 " RW_P64
        ", {%64, %65, %66, %67}, %68, p, 1, 1, %70;\n}\n"
        : RW_F64(d)
        : "r"(a[0]), "r"(a[1]), "r"(a[2]), "r"(a[3]), "l"(b), "r"(accumulate), "n"(across ? 1 : 0));
  }
}

/// D (+)= A B, 64 x 64 x 16, both in shared memory and both read across their rows (stored [k][m] and [k][n]).
__device__ inline void wgmma_across(float (&d)[32], uint64_t a, uint64_t b, int accumulate) {
  asm volatile("{\n.reg .pred p;\nsetp.ne.b32 p, %34, 0;\nwgmma.mma_async.sync.aligned.m64n64k16.f32.bf16.bf16 " RW_P32
               ", %32, %33, p, 1, 1, 1, 1;\n}\n"
               : RW_F32(d)
               : "l"(a), "l"(b), "r"(accumulate));
}

/// D = A B, 64 x N x 16, both in shared memory. It does not ask for old values, so that until here the registers of D
/// are free for others.
template <int N, bool a_across, bool b_across>
__device__ inline void wgmma_new(float (&d)[N / 2], uint64_t a, uint64_t b) {
  static_assert(N == 64 || N == 128);
  if constexpr (N == 64) {
    asm volatile(
        "{\n.reg .pred p;\nsetp.ne.b32 p, %34, 0;\nwgmma.mma_async.sync.aligned.m64n64k16.f32.bf16.bf16 " RW_P32
        ", %32, %33, p, 1, 1, %35, %36;\n}\n"
        : RW_N32(d)
        : "l"(a), "l"(b), "r"(0), "n"(a_across ? 1 : 0), "n"(b_across ? 1 : 0));
  } else {
    asm volatile(
        "{\n.reg .pred p;\nsetp.ne.b32 p, %66, 0;\nwgmma.mma_async.sync.aligned.m64n128k16.f32.bf16.bf16 " RW_P64
        ", %64, %65, p, 1, 1, %67, %68;\n}\n"
        : RW_N64(d)
        : "l"(a), "l"(b), "r"(0), "n"(a_across ? 1 : 0), "n"(b_across ? 1 : 0));
  }
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

// --- registers

__device__ inline unsigned pack(float low, float high) {
  const __nv_bfloat162 x = __floats2bfloat162_rn(low, high);
  return *reinterpret_cast<const unsigned*>(&x);
}
/// Accumulators [64 x K] as the A operand of the next product: neighbours in a row go into one register.
template <int n>
__device__ inline void pack_all(unsigned (&to)[n], const float (&from)[2 * n]) {
#pragma unroll
  for (int i = 0; i < n; ++i) to[i] = pack(from[2 * i], from[2 * i + 1]);
}
__device__ inline float exp2_fast(float x) {
  float y;
  asm("ex2.approx.ftz.f32 %0, %1;" : "=f"(y) : "f"(x));
  return y;
}

/// Moves registers between warpgroups: the producer needs few, the consumers many.
template <int n>
__device__ inline void registers_keep() {
  asm volatile("setmaxnreg.dec.sync.aligned.u32 %0;" ::"n"(n));
}
template <int n>
__device__ inline void registers_take() {
  asm volatile("setmaxnreg.inc.sync.aligned.u32 %0;" ::"n"(n));
}

/// Writes a warpgroup's packed registers [64 x 4 n] into its 64 rows of swizzled panels.
template <int n>
__device__ inline void store_packed(char* first_row, int panel_bytes, const unsigned (&x)[n]) {
  const int lane = threadIdx.x % 32, row = threadIdx.x / 32 % 4 * 16 + lane % 16;  // the row this lane addresses
#pragma unroll
  for (int j = 0; j < n / 2; j += 2) {
    const char* at = first_row + j / 8 * panel_bytes + row * 128 + ((j % 8 + lane / 16) ^ (row % 8)) * 16;
    asm volatile("stmatrix.sync.aligned.m8n8.x4.shared.b16 [%0], {%1, %2, %3, %4};" ::"r"(shared_address(at)),
                 "r"(x[2 * j]), "r"(x[2 * j + 1]), "r"(x[2 * j + 2]), "r"(x[2 * j + 3])
                 : "memory");
  }
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
