// GEMM, level 6: Hopper's own way. One thread of a producer warpgroup asks the copy engine (TMA) for whole tiles, which
// arrive swizzled in shared memory and announce themselves at a barrier; two consumer warpgroups issue wgmma, a product
// of 64 x 128 x 16 that reads both operands from shared memory. No thread touches an operand any more.
//
//   tile of C 128 x 256: a consumer owns 64 x 256, in 128 registers per thread
//   stage     A 128 x 64 and B 256 x 64 bf16: 48 KB, four of them in flight
#include "autograd/ops/attention_sm90.cuh"  // tensor maps, and tensor/hopper.cuh: the instructions as functions
#include "gemm_ladder.cuh"

namespace ladder {
namespace {

using namespace rw::cuda::attn;

constexpr int kM = 128, kN = 256, kK = 64, kStages = 4, kThreads = 3 * 128;
constexpr int kBytesA = kM * kK * 2, kBytesB = kN * kK * 2, kStage = kBytesA + kBytesB;
constexpr int kShared = kStages * kStage + 1024 + 256;  // to align by 1024; the barriers

struct Maps {
  CUtensorMap a, b, c;
};

#ifdef ROPEWALK_SM90A

struct Pipe {
  char* stages;
  Barrier *full, *empty;
  __device__ explicit Pipe(char* shared) {
    stages = shared + (1024 - shared_address(shared) % 1024) % 1024;
    full = reinterpret_cast<Barrier*>(stages + kStages * kStage);
    empty = full + kStages;
  }
  __device__ char* a(int stage) const { return stages + stage * kStage; }
  __device__ char* b(int stage) const { return a(stage) + kBytesA; }
};

__device__ void produce(const Maps& maps, const Pipe& pipe, int row, int column, int tiles) {
  Ring<kStages> ring;
  for (int t = 0; t < tiles; ++t, ring.next()) {
    barrier_wait(pipe.empty + ring.stage, ring.parity ^ 1);  // the first lap finds every stage free
    barrier_arrive_expect(pipe.full + ring.stage, kStage);
    tma_load(pipe.a(ring.stage), maps.a, t * kK, 0, row, 0, pipe.full + ring.stage);
    tma_load(pipe.b(ring.stage), maps.b, t * kK, 0, column, 0, pipe.full + ring.stage);
  }
}

__device__ void consume(const Maps& maps, const Pipe& pipe, int row, int column, int tiles) {
  const int wg = threadIdx.x / 128, lane = threadIdx.x % 32;
  float low[64] = {}, high[64] = {};  // columns 0 to 127, 128 to 255
  const auto release = [&](int stage) {
    __syncwarp();
    if (lane == 0) barrier_arrive(pipe.empty + stage);
  };
  Ring<kStages> ring;
  int previous = -1;
  for (int t = 0; t < tiles; ++t, ring.next()) {
    barrier_wait(pipe.full + ring.stage, ring.parity);
    const uint64_t a = descriptor(pipe.a(ring.stage) + wg * 64 * 128, 1024), b = descriptor(pipe.b(ring.stage), 1024);
    wgmma_fence();
#pragma unroll
    for (int step = 0; step < kK / 16; ++step) {
      wgmma<128, false>(low, advanced(a, step * 32), advanced(b, step * 32), 1);
      wgmma<128, false>(high, advanced(a, step * 32), advanced(b, 128 * 128 + step * 32), 1);
    }
    wgmma_commit();
    if (previous >= 0) {  // this tile's products run while the last one's stage is given back
      wgmma_wait<1>();
      release(previous);
    }
    previous = ring.stage;
  }
  wgmma_wait<0>();
  arrived(low);
  arrived(high);

  // C leaves through the stages: nothing is on its way into them any more once both consumers are here.
  named_sync(1, 256);
  constexpr int kPanel = 64 * 128;
  char* out = pipe.stages + wg * 4 * kPanel;
  stage_rows<128>(reinterpret_cast<bf*>(out), kPanel, low, 1.f, 1.f);
  stage_rows<128>(reinterpret_cast<bf*>(out + 2 * kPanel), kPanel, high, 1.f, 1.f);
  fence_async();
  named_sync(2 + wg, 128);
  if (threadIdx.x % 128 == 0) {
    for (int p = 0; p < 4; ++p) tma_store(maps.c, column + p * 64, 0, row + wg * 64, 0, out + p * kPanel);
    tma_store_wait();
  }
}

#endif  // ROPEWALK_SM90A

__global__ void __launch_bounds__(kThreads, 1)
    wgmma_kernel(int tiles_m, int tiles_n, int tiles_k, const __grid_constant__ Maps maps) {
#ifdef ROPEWALK_SM90A
  extern __shared__ char dynamic_shared[];
  const Pipe pipe(dynamic_shared);
  if (threadIdx.x == 0) {
    for (int s = 0; s < kStages; ++s) {
      barrier_init(pipe.full + s, 1);
      barrier_init(pipe.empty + s, 8);  // the warps of both consumers
    }
    barrier_init_done();
  }
  __syncthreads();
  // Blocks that run together share rows and columns: groups of 16 tile rows, walked column by column.
  const int group = 16 * tiles_n, first = static_cast<int>(blockIdx.x) / group * 16, rest = blockIdx.x % group;
  const int height = min(16, tiles_m - first);
  const int row = (first + rest % height) * kM, column = rest / height * kN;
  if (threadIdx.x / 128 == 2) {
    registers_keep<40>();
    if (threadIdx.x % 128 == 0) produce(maps, pipe, row, column, tiles_k);
  } else {
    registers_take<232>();
    consume(maps, pipe, row, column, tiles_k);
  }
#endif
}

/// A matrix [rows, columns] as tensor_map sees it: one head of `columns` elements, `rows` tokens.
CUtensorMap matrix_map(const Tensor& t, int box_rows) {
  const rw::cuda::HeadView view{&t, t.raw(), t.numel(), t.size(1)};
  return tensor_map(view, 1, t.size(0), 1, t.size(1), box_rows);
}

}  // namespace

bool gemm_wgmma_ready() { return sm90_takes({1, 1, 1, 1, 1, 64, true, 1.0}, {}); }

void gemm_wgmma(const Tensor& a, const Tensor& b, const Tensor& c) {
  const int64_t m = a.size(0), n = b.size(0), k = a.size(1);
  rw::check(m % kM == 0 && n % kN == 0 && k % kK == 0, "gemm_wgmma", "no multiples of the tile: ", m, " x ", n, " x ",
            k);
  launch("wgmma", wgmma_kernel, m / kM * (n / kN), kThreads, kShared, static_cast<int>(m / kM),
         static_cast<int>(n / kN), static_cast<int>(k / kK),
         Maps{matrix_map(a, kM), matrix_map(b, kN), matrix_map(c, 64)});
}

}  // namespace ladder
