// GEMM, C [M,N] = A [M,K] B [N,K]^T, bf16 in and out, f32 sums: the product of a linear layer, y = x W^T.
// 2 M N K FLOPs on (M + N) K inputs: everything is about using each loaded number often enough.
#include <cmath>

#include "gemm_ladder.cuh"
#include "tensor/gemm.h"
#include "tensor/random.h"

namespace ladder {
namespace {

// 1. A thread per element of C. Each multiply-add reads two numbers; the threads of a warp share the row of A, but read
//    32 rows of B at addresses K apart.
__global__ void __launch_bounds__(256) thread_per_element(int m, int n, int k, const b16* a, const b16* b, b16* c) {
  const int row = static_cast<int>(blockIdx.y) * 8 + threadIdx.x / 32, column = blockIdx.x * 32 + threadIdx.x % 32;
  if (row >= m || column >= n) return;
  float sum = 0;
  for (int i = 0; i < k; ++i)
    sum += to_float(a[static_cast<int64_t>(row) * k + i]) * to_float(b[static_cast<int64_t>(column) * k + i]);
  c[static_cast<int64_t>(row) * n + column] = __float2bfloat16_rn(sum);
}

// 2. Tiles in shared memory: a block loads 32 x 32 of A and of B together, contiguously, and uses each number 32 times.
//    Still two shared-memory reads per multiply-add. (The row of 33 keeps a warp's reads of a column in 32 banks.)
__global__ void __launch_bounds__(1024) shared_tiles(int n, int k, const b16* a, const b16* b, b16* c) {
  __shared__ float ta[32][33], tb[32][33];
  const int x = threadIdx.x % 32, y = threadIdx.x / 32;
  const int64_t row = blockIdx.y * 32 + y, column = blockIdx.x * 32;
  float sum = 0;
  for (int k0 = 0; k0 < k; k0 += 32) {
    ta[y][x] = to_float(a[row * k + k0 + x]);
    tb[y][x] = to_float(b[(column + y) * k + k0 + x]);
    __syncthreads();
#pragma unroll
    for (int i = 0; i < 32; ++i) sum += ta[y][i] * tb[x][i];
    __syncthreads();
  }
  c[row * n + column + x] = __float2bfloat16_rn(sum);
}

constexpr int kTile = 128;  // rows and columns of C per block, from here on

// 3. Register tiles: a thread owns 8 x 8 of C. 16 shared-memory reads now feed 64 multiply-adds instead of 8.
__global__ void __launch_bounds__(256) register_tiles(int n, int k, const b16* a, const b16* b, b16* c) {
  constexpr int kDepth = 16;
  __shared__ float ta[kDepth][kTile + 1], tb[kDepth][kTile + 1];  // [k][row]
  const int x = threadIdx.x % 16, y = threadIdx.x / 16;
  const int64_t row = static_cast<int64_t>(blockIdx.y) * kTile, column = static_cast<int64_t>(blockIdx.x) * kTile;
  float sum[8][8] = {};
  for (int k0 = 0; k0 < k; k0 += kDepth) {
    for (int e = threadIdx.x; e < kTile * kDepth; e += 256) {
      ta[e % kDepth][e / kDepth] = to_float(a[(row + e / kDepth) * k + k0 + e % kDepth]);
      tb[e % kDepth][e / kDepth] = to_float(b[(column + e / kDepth) * k + k0 + e % kDepth]);
    }
    __syncthreads();
#pragma unroll
    for (int i = 0; i < kDepth; ++i) {
      float fa[8], fb[8];
#pragma unroll
      for (int j = 0; j < 8; ++j) fa[j] = ta[i][y + 16 * j], fb[j] = tb[i][x + 16 * j];
#pragma unroll
      for (int p = 0; p < 8; ++p) {
#pragma unroll
        for (int q = 0; q < 8; ++q) sum[p][q] = fmaf(fa[p], fb[q], sum[p][q]);
      }
    }
    __syncthreads();
  }
#pragma unroll
  for (int p = 0; p < 8; ++p) {
#pragma unroll
    for (int q = 0; q < 8; ++q) c[(row + y + 16 * p) * n + column + x + 16 * q] = __float2bfloat16_rn(sum[p][q]);
  }
}

// 4. Wide accesses and two buffers: a thread loads 16 bytes of A and of B at once and reads shared memory 16 bytes at a
//    time; the next tile's loads are on their way while this one is multiplied, and one barrier per tile is left.
__global__ void __launch_bounds__(256, 2) wide_and_buffered(int n, int k, const b16* a, const b16* b, b16* c) {
  constexpr int kDepth = 16, kPitch = kTile + 4;  // a multiple of 4: rows stay 16-byte aligned
  __shared__ alignas(16) float ta[2][kDepth][kPitch], tb[2][kDepth][kPitch];
  const int x = threadIdx.x % 16 * 4, y = threadIdx.x / 16 * 4;  // owns rows y.. and 64 + y.., likewise columns
  const int r = threadIdx.x / 2, part = static_cast<int>(threadIdx.x) % 2 * 8;  // loads 8 numbers of row r
  const int64_t row = static_cast<int64_t>(blockIdx.y) * kTile, column = static_cast<int64_t>(blockIdx.x) * kTile;
  const b16 *from_a = a + (row + r) * k + part, *from_b = b + (column + r) * k + part;
  float sum[8][8] = {};
  Vec<b16, 8> next_a = load<8>(from_a), next_b = load<8>(from_b);
  for (int k0 = 0, buffer = 0; k0 < k; k0 += kDepth, buffer ^= 1) {
#pragma unroll
    for (int i = 0; i < 8; ++i) {
      ta[buffer][part + i][r] = to_float(next_a.at[i]);
      tb[buffer][part + i][r] = to_float(next_b.at[i]);
    }
    __syncthreads();  // also: everyone is done with the other buffer
    if (k0 + kDepth < k) next_a = load<8>(from_a + k0 + kDepth), next_b = load<8>(from_b + k0 + kDepth);
#pragma unroll
    for (int i = 0; i < kDepth; ++i) {
      alignas(16) float fa[8], fb[8];
#pragma unroll
      for (int half = 0; half < 2; ++half) {
        *reinterpret_cast<float4*>(fa + 4 * half) = *reinterpret_cast<const float4*>(&ta[buffer][i][64 * half + y]);
        *reinterpret_cast<float4*>(fb + 4 * half) = *reinterpret_cast<const float4*>(&tb[buffer][i][64 * half + x]);
      }
#pragma unroll
      for (int p = 0; p < 8; ++p) {
#pragma unroll
        for (int q = 0; q < 8; ++q) sum[p][q] = fmaf(fa[p], fb[q], sum[p][q]);
      }
    }
  }
#pragma unroll
  for (int p = 0; p < 8; ++p) {
#pragma unroll
    for (int half = 0; half < 2; ++half) {
      const uint2 four = {pack(sum[p][4 * half], sum[p][4 * half + 1]),
                          pack(sum[p][4 * half + 2], sum[p][4 * half + 3])};
      *reinterpret_cast<uint2*>(c + (row + p / 4 * 64 + y + p % 4) * n + column + 64 * half + x) = four;
    }
  }
}

// 5. Tensor cores: mma.sync does 16 x 8 x 16 multiply-adds in one instruction of a warp. ldmatrix feeds it from tiles
//    that cp.async brings in, three stages deep, past the registers. A warp owns 64 x 32 of C.
constexpr int kStages = 3, kDepth = 64;
constexpr int kStageElements = 2 * kTile * kDepth;

__global__ void __launch_bounds__(256, 2) tensor_cores(int n, int k, const b16* a, const b16* b, b16* c) {
  extern __shared__ __align__(128) b16 stages[];  // [kStages][A, B][128 rows][64]
  const int lane = threadIdx.x % 32, warp = threadIdx.x / 32, warp_row = warp / 4 * 64, warp_column = warp % 4 * 32;
  const int64_t row = static_cast<int64_t>(blockIdx.y) * kTile, column = static_cast<int64_t>(blockIdx.x) * kTile;
  const int tiles = k / kDepth;
  const auto fetch = [&](int tile) {
    b16* to = stages + tile % kStages * kStageElements;
#pragma unroll
    for (int i = 0; i < 4; ++i) {
      const int piece = i * 256 + static_cast<int>(threadIdx.x), r = piece / 8, chunk = piece % 8;
      const int64_t at = static_cast<int64_t>(tile) * kDepth + chunk * 8;
      copy_async(chunk_of(to, r, chunk), a + (row + r) * k + at);
      copy_async(chunk_of(to + kTile * kDepth, r, chunk), b + (column + r) * k + at);
    }
  };
  float sum[4][4][4] = {};  // [16 rows][8 columns][fragment]
  for (int t = 0; t < kStages - 1; ++t) {
    if (t < tiles) fetch(t);
    commit_copies();
  }
  for (int t = 0; t < tiles; ++t) {
    wait_copies<kStages - 2>();  // tile t has landed, as far as this thread's copies go;
    __syncthreads();             // now all of it, and everyone is done with tile t - 1, whose place is free
    if (t + kStages - 1 < tiles) fetch(t + kStages - 1);
    commit_copies();
    b16 *ta = stages + t % kStages * kStageElements, *tb = ta + kTile * kDepth;
#pragma unroll
    for (int step = 0; step < kDepth / 16; ++step) {
      uint32_t fa[4][4], fb[2][4];
#pragma unroll
      for (int i = 0; i < 4; ++i) ldmatrix(fa[i], chunk_of(ta, warp_row + i * 16 + lane % 16, step * 2 + lane / 16));
#pragma unroll
      for (int j = 0; j < 2; ++j)
        ldmatrix(fb[j], chunk_of(tb, warp_column + j * 16 + lane / 16 * 8 + lane % 8, step * 2 + lane / 8 % 2));
#pragma unroll
      for (int i = 0; i < 4; ++i) {
#pragma unroll
        for (int j = 0; j < 4; ++j) mma(sum[i][j], fa[i], fb[j / 2][j % 2 * 2], fb[j / 2][j % 2 * 2 + 1]);
      }
    }
  }
#pragma unroll
  for (int i = 0; i < 4; ++i) {
#pragma unroll
    for (int j = 0; j < 4; ++j) {
      b16* to = c + (row + warp_row + i * 16 + lane / 4) * n + column + warp_column + j * 8 + lane % 4 * 2;
      *reinterpret_cast<uint32_t*>(to) = pack(sum[i][j][0], sum[i][j][1]);
      *reinterpret_cast<uint32_t*>(to + static_cast<int64_t>(8) * n) = pack(sum[i][j][2], sum[i][j][3]);
    }
  }
}

}  // namespace

int climb_gemm(const Ceilings& ceilings) {
  const int m = 4096, n = 4096, k = 4096;  // multiples of every tile
  const Tensor a = normal({m, k}, 1), b = normal({n, k}, 2), c = Tensor::empty({m, n}, DType::bf16, kGpu);
  const b16 *pa = reinterpret_cast<const b16*>(a.data<rw::bf16>()),
            *pb = reinterpret_cast<const b16*>(b.data<rw::bf16>());
  b16* pc = reinterpret_cast<b16*>(c.data<rw::bf16>());

  Problem p;
  p.title = rw::cat("GEMM ", m, " x ", n, " x ", k, ", bf16 (2 M N K FLOPs)");
  p.flops = 2.0 * m * n * k;
  p.output = c;
  const Tensor ha = a.to(rw::kCpu).to(DType::f32), hb = b.to(rw::kCpu).to(DType::f32);
  p.error = [=](const Tensor& got) {  // 4096 elements anywhere
    rw::Random random(3, rw::Purpose::test);
    double worst = 0, largest = 0;
    for (int i = 0; i < 4096; ++i) {
      const int64_t row = random.below(m), column = random.below(n);
      double want = 0;
      for (int j = 0; j < k; ++j)
        want += static_cast<double>(ha.data<float>()[row * k + j]) * hb.data<float>()[column * k + j];
      worst = std::max(worst, std::abs(got.data<float>()[row * n + column] - want));
      largest = std::max(largest, std::abs(want));
    }
    return worst / largest;
  };
  const Grid tiles(n / kTile, m / kTile);
  std::vector<Level> levels = {
      {"1 a thread per element",
       [=] { launch("thread_per_element", thread_per_element, Grid(n / 32, m / 8), 256, 0, m, n, k, pa, pb, pc); }},
      {"2 tiles in shared memory",
       [=] { launch("shared_tiles", shared_tiles, Grid(n / 32, m / 32), 1024, 0, n, k, pa, pb, pc); }},
      {"3 8 x 8 in registers", [=] { launch("register_tiles", register_tiles, tiles, 256, 0, n, k, pa, pb, pc); }},
      {"4 wide accesses, two buffers",
       [=] { launch("wide_and_buffered", wide_and_buffered, tiles, 256, 0, n, k, pa, pb, pc); }},
      {"5 tensor cores (mma.sync)",
       [=] { launch("tensor_cores", tensor_cores, tiles, 256, kStages * kStageElements * 2, n, k, pa, pb, pc); }}};
  if (gemm_wgmma_ready()) levels.push_back({"6 Hopper (wgmma, TMA)", [=] { gemm_wgmma(a, b, c); }});
  levels.push_back({"7 cuBLASLt (the library's gemm)", [=] { rw::gemm(a, rw::transposed(b), c); }});
  return climb(p, levels, ceilings);
}

}  // namespace ladder
