// Hopper's instructions as functions: barriers in shared memory, bulk tensor copies
// (TMA) and warpgroup matrix products (wgmma).
//
// Vocabulary of the files that use it:
//   panel     [rows][64] bf16 in shared memory, 128 bytes a row, with TMA's 128-byte swizzle: the 16-byte chunk c of
//             row r lies at chunk c ^ (r % 8). Panels start at multiples of 1024 bytes.
//   warpgroup 4 warps that issue one wgmma together: D[64 x N] += A[64 x 16] B[16 x N]. Warp w of it holds rows
//             16 w .. 16 w + 15 of D; within the warp the layout is that of mma.m16n8k16: a lane holds rows lane/4 and
//             lane/4 + 8, columns 8 j + 2 (lane % 4) + {0, 1}: element 4 j + 2 half + e of its array.
//   full      a barrier that TMA completes when a tile has landed; `empty`, one that consumers complete when they
//             have read it.
#pragma once
#include <cuda.h>  // CUtensorMap only: the driver is reached through the runtime, never linked

#include <initializer_list>

#include "tensor/launch.cuh"

#if defined(__CUDA_ARCH_FEAT_SM90_ALL)
#define ROPEWALK_SM90A \
  1  // this pass may use wgmma and setmaxnreg; in other passes the kernels are empty and never chosen
#endif

namespace rw::cuda::hopper {

/// Tensor map of bf16 at `data` for boxes of these sizes, innermost dimension first, with the 128-byte swizzle.
/// `strides`: bytes between neighbours in all dimensions but the first, multiples of 16. What a box has beyond the
/// tensor reads as zeros and is not written. A load completes its barrier by the bytes of the whole box. Errors, in the
/// name of `op`: the driver refuses it.
CUtensorMap tensor_map(const char* op, const void* data, std::initializer_list<int64_t> sizes,
                       std::initializer_list<int64_t> strides, std::initializer_list<int> box);

/// True if the current GPU has compute capability 9.0 and its driver makes tensor maps.
bool is_hopper();
/// True if the current GPU would run the sm_90a code of such a kernel: it needs many registers, the empty one few.
template <class... Parameters>
bool has_code(void (*kernel)(Parameters...)) {
  cudaFuncAttributes attributes;
  const bool known = cudaFuncGetAttributes(&attributes, kernel) == cudaSuccess;
  cudaGetLastError();
  return known && attributes.numRegs > 64;
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

/// Returns x. The compiler then knows that all lanes of the warp hold the same number; they must. wgmma takes its
/// descriptors from uniform registers. A descriptor that is computed from threadIdx or from memory is computed by every
/// lane and then moved there, with ten instructions a product instead of two. All lanes must call this together.
__device__ inline int uniform(int x) { return __shfl_sync(0xffffffffu, x, 0); }

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

/// Box at (column x, row y) of a matrix.
__device__ inline void load_box(void* to, const CUtensorMap& map, int x, int y, Barrier* full) {
  asm volatile(
      "cp.async.bulk.tensor.2d.shared::cluster.global.tile.mbarrier::complete_tx::bytes [%0], [%1, {%2, %3}], "
      "[%4];" ::"r"(shared_address(to)),
      "l"(&map), "r"(x), "r"(y), "r"(shared_address(full))
      : "memory");
}
/// The same to this place in each of the `blocks` blocks of a cluster; it completes the barrier of each at this place.
template <int blocks>
__device__ inline void load_box_everywhere(void* to, const CUtensorMap& map, int x, int y, Barrier* full) {
  asm volatile(
      "cp.async.bulk.tensor.2d.shared::cluster.global.tile.mbarrier::complete_tx::bytes.multicast::cluster [%0], "
      "[%1, {%2, %3}], [%4], %5;" ::"r"(shared_address(to)),
      "l"(&map), "r"(x), "r"(y), "r"(shared_address(full)), "h"(static_cast<uint16_t>((1 << blocks) - 1))
      : "memory");
}
__device__ inline void store_box(const CUtensorMap& map, int x, int y, const void* from) {
  asm volatile("cp.async.bulk.tensor.2d.global.shared::cta.tile.bulk_group [%0, {%1, %2}], [%3];" ::"l"(&map), "r"(x),
               "r"(y), "r"(shared_address(from))
               : "memory");
}

// --- clusters

/// This block's number in its cluster.
__device__ inline int rank_in_cluster() {
  int rank;
  asm volatile("mov.u32 %0, %%cluster_ctarank;" : "=r"(rank));
  return rank;
}
/// A barrier among all threads of a cluster.
__device__ inline void cluster_sync() {
  asm volatile("barrier.cluster.arrive.release.aligned;\nbarrier.cluster.wait.acquire.aligned;" ::: "memory");
}
/// Arrives at the barrier at this place in block `rank` of the cluster. With .release.cluster the compiler would put a
/// fence of the whole GPU before it, which took a third of a product's time. None is needed: what the barrier guards are
/// reads by wgmma, and they have ended.
__device__ inline void barrier_arrive_at(Barrier* b, int rank) {
  asm volatile(
      "{\n.reg .b32 there;\nmapa.shared::cluster.u32 there, %0, %1;\n"
      "mbarrier.arrive.shared::cluster.b64 _, [there];\n}\n" ::"r"(shared_address(b)),
      "r"(rank)
      : "memory");
}

// --- matrix products

/// wgmma's view of a panel: start address, and the strides between 8-row groups (1024 bytes) and, for an operand read
/// across its rows, between panels. Bits 62-63: 128-byte swizzle.
__device__ inline uint64_t descriptor(const void* panel, int panel_bytes) {
  const uint64_t address = (shared_address(panel) & 0x3ffff) >> 4;
  return address | uint64_t(panel_bytes >> 4) << 16 | uint64_t(1024 >> 4) << 32 | uint64_t(1) << 62;
}
/// The same operand, `bytes` further on.
__device__ inline uint64_t advanced(uint64_t descriptor, int bytes) {
  // No carry: the upper word stays a constant.
  return (descriptor & 0xffffffff00000000u) | (static_cast<unsigned>(descriptor) + (bytes >> 4));
}

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

#else
#pragma nv_diag_suppress 177  // in this pass the kernels are empty and what they need is unused
#endif                        // ROPEWALK_SM90A

}  // namespace rw::cuda::hopper
