// Causal attention, forward: O = softmax(Q K^T / sqrt(D)) V for each head, with keys up to the query's own index.
// 4 T^2 D FLOPs a head, half of them masked away; the question is where the T x T scores live.
#include <cmath>

#include "autograd/ops/attention_paths.h"
#include "autograd/ops/cuda_ops.h"
#include "ladder.cuh"
#include "tensor/random.h"

namespace ladder {
namespace {

constexpr int kD = 64;  // head dim

/// q, k, v, o [B,T,H,D]. Kernels take (sample, head) as one number.
struct Heads {
  int length, heads;
  float scale;
  const b16 *q, *k, *v;
  b16* o;
  /// Of element (0, d) of one head; token t is row() * t further.
  __host__ __device__ int64_t first(int sample_head) const {
    return (static_cast<int64_t>(sample_head / heads) * length * heads + sample_head % heads) * kD;
  }
  __host__ __device__ int64_t row() const { return static_cast<int64_t>(heads) * kD; }
};

// --- 1. As the formula says: three kernels, and the scores of all pairs in memory as f32 ----------------------------

__global__ void __launch_bounds__(256) naive_scores(Heads h, float* scores) {  // a thread per pair (query, key)
  const int key = blockIdx.x * 256 + threadIdx.x, query = blockIdx.y;
  if (key >= h.length) return;
  const b16 *q = h.q + h.first(blockIdx.z) + query * h.row(), *k = h.k + h.first(blockIdx.z) + key * h.row();
  float dot = 0;
  for (int d = 0; d < kD; ++d) dot += to_float(q[d]) * to_float(k[d]);
  const int64_t line = static_cast<int64_t>(blockIdx.z) * h.length + query;
  scores[line * h.length + key] = key <= query ? dot * h.scale : -INFINITY;
}

__global__ void __launch_bounds__(256) naive_softmax(int64_t lines, int length, float* scores) {  // a thread per query
  const int64_t line = static_cast<int64_t>(blockIdx.x) * 256 + threadIdx.x;
  if (line >= lines) return;
  float* s = scores + line * length;
  float top = -INFINITY, sum = 0;
  for (int j = 0; j < length; ++j) top = fmaxf(top, s[j]);
  for (int j = 0; j < length; ++j) sum += expf(s[j] - top);
  for (int j = 0; j < length; ++j) s[j] = expf(s[j] - top) / sum;
}

__global__ void __launch_bounds__(kD) naive_output(Heads h, const float* scores) {  // a thread per (query, d)
  const int d = threadIdx.x, query = blockIdx.x;
  const float* p = scores + (static_cast<int64_t>(blockIdx.z) * h.length + query) * h.length;
  const b16* v = h.v + h.first(blockIdx.z) + d;
  float sum = 0;
  for (int key = 0; key < h.length; ++key) sum += p[key] * to_float(v[key * h.row()]);
  h.o[h.first(blockIdx.z) + query * h.row() + d] = __float2bfloat16_rn(sum);
}

// --- 2. The same with tiles in shared memory, and without the half that is masked -----------------------------------

constexpr int kTile = 32;

__global__ void __launch_bounds__(kTile* kTile) tiled_scores(Heads h, float* scores) {
  if (blockIdx.x > blockIdx.y) return;  // every key of this tile comes after every query
  __shared__ float tq[kTile][kD + 1], tk[kTile][kD + 1];
  const int x = threadIdx.x % kTile, y = threadIdx.x / kTile;
  const int query = blockIdx.y * kTile + y, key = blockIdx.x * kTile + x;
  for (int d = x; d < kD; d += kTile) {
    tq[y][d] = to_float(h.q[h.first(blockIdx.z) + query * h.row() + d]);
    tk[y][d] = to_float(h.k[h.first(blockIdx.z) + (blockIdx.x * kTile + y) * h.row() + d]);
  }
  __syncthreads();
  float dot = 0;
#pragma unroll
  for (int d = 0; d < kD; ++d) dot += tq[y][d] * tk[x][d];
  const int64_t line = static_cast<int64_t>(blockIdx.z) * h.length + query;
  scores[line * h.length + key] = key <= query ? dot * h.scale : -INFINITY;
}

__global__ void __launch_bounds__(256) warp_softmax(int64_t lines, int length, float* scores) {  // a warp per query
  const int64_t line = static_cast<int64_t>(blockIdx.x) * 8 + threadIdx.x / 32;
  if (line >= lines) return;
  const int lane = threadIdx.x % 32, end = static_cast<int>(line % length) / kTile * kTile + kTile;
  float* s = scores + line * length;
  float top = -INFINITY, sum = 0;
  for (int j = lane; j < end; j += 32) top = fmaxf(top, s[j]);
  for (int offset = 16; offset > 0; offset /= 2) top = fmaxf(top, __shfl_xor_sync(kAllLanes, top, offset));
  for (int j = lane; j < end; j += 32) sum += __expf(s[j] - top);
  for (int offset = 16; offset > 0; offset /= 2) sum += __shfl_xor_sync(kAllLanes, sum, offset);
  for (int j = lane; j < end; j += 32) s[j] = __expf(s[j] - top) / sum;
}

__global__ void __launch_bounds__(kTile* kTile) tiled_output(Heads h, const float* scores) {
  __shared__ float tp[kTile][kTile + 1], tv[kTile][kD];
  const int x = threadIdx.x % kTile, y = threadIdx.x / kTile, query = blockIdx.x * kTile + y;
  const float* p = scores + (static_cast<int64_t>(blockIdx.z) * h.length + query) * h.length;
  float sum[kD / kTile] = {};
  for (int k0 = 0; k0 <= blockIdx.x * kTile; k0 += kTile) {
    tp[y][x] = p[k0 + x];
#pragma unroll
    for (int i = 0; i < kD / kTile; ++i)
      tv[y][x + i * kTile] = to_float(h.v[h.first(blockIdx.z) + (k0 + y) * h.row() + x + i * kTile]);
    __syncthreads();
#pragma unroll
    for (int j = 0; j < kTile; ++j) {
#pragma unroll
      for (int i = 0; i < kD / kTile; ++i) sum[i] += tp[y][j] * tv[j][x + i * kTile];
    }
    __syncthreads();
  }
#pragma unroll
  for (int i = 0; i < kD / kTile; ++i)
    h.o[h.first(blockIdx.z) + query * h.row() + x + i * kTile] = __float2bfloat16_rn(sum[i]);
}

// --- 3. Online softmax: one kernel, and no scores in memory ---------------------------------------------------------
//
// A thread owns a query: its row of Q and of O and the running maximum m and sum l are in registers. When a new maximum
// m' appears, what was summed so far is multiplied by exp(m - m'). From here on scores are in units of log 2, for exp2.

constexpr float kLog2e = 1.4426950408889634f;
constexpr int kQueries = 128, kKeys = 16;

__device__ __forceinline__ float exp2_fast(float x) {
  float y;
  asm("ex2.approx.ftz.f32 %0, %1;" : "=f"(y) : "f"(x));
  return y;
}

__global__ void __launch_bounds__(kQueries) online_softmax(Heads h) {
  __shared__ alignas(16) float tk[kKeys][kD], tv[kKeys][kD];
  const int block = static_cast<int>(gridDim.x - 1 - blockIdx.x);  // the longest walks first
  const int query = block * kQueries + static_cast<int>(threadIdx.x);
  const int64_t first = h.first(blockIdx.z);
  float q[kD], o[kD] = {}, m = -INFINITY, l = 0;
#pragma unroll
  for (int d = 0; d < kD; ++d) q[d] = to_float(h.q[first + query * h.row() + d]) * (h.scale * kLog2e);
  for (int k0 = 0; k0 < (block + 1) * kQueries; k0 += kKeys) {
    __syncthreads();
    for (int e = threadIdx.x; e < kKeys * kD; e += kQueries) {
      tk[e / kD][e % kD] = to_float(h.k[first + (k0 + e / kD) * h.row() + e % kD]);
      tv[e / kD][e % kD] = to_float(h.v[first + (k0 + e / kD) * h.row() + e % kD]);
    }
    __syncthreads();
    float s[kKeys], top = m;
#pragma unroll
    for (int j = 0; j < kKeys; ++j) {
      s[j] = 0;
#pragma unroll
      for (int d = 0; d < kD; ++d) s[j] = fmaf(q[d], tk[j][d], s[j]);
      if (k0 + j > query) s[j] = -INFINITY;
      top = fmaxf(top, s[j]);
    }
    const float shrink = exp2_fast(m - top);  // the first key is never masked, so top is finite
    m = top;
    l *= shrink;
#pragma unroll
    for (int d = 0; d < kD; ++d) o[d] *= shrink;
#pragma unroll
    for (int j = 0; j < kKeys; ++j) {
      const float p = exp2_fast(s[j] - m);
      l += p;
#pragma unroll
      for (int d = 0; d < kD; ++d) o[d] = fmaf(p, tv[j][d], o[d]);
    }
  }
#pragma unroll
  for (int d = 0; d < kD; d += 2)
    *reinterpret_cast<uint32_t*>(h.o + first + query * h.row() + d) = pack(o[d] / l, o[d + 1] / l);
}

// --- 4 and 5. Tensor cores
// --------------------------------------------------------------------------------------------
//
// A warp owns 16 queries, a block 64; tiles of 64 keys. S = Q K^T comes out of mma.sync in registers, is turned into P
// there, and goes as the left operand into O += P V: a lane's part of D is its part of A, two neighbours packed. So
// scores never leave the registers. Level 4 loads a tile, waits and multiplies; level 5 (STAGES = 2) has the next tile
// on its way by cp.async meanwhile.

constexpr int kRows = 64;  // queries of a block, keys of a tile
constexpr int kTileElements = kRows * kD;

template <int STAGES>
__global__ void __launch_bounds__(128) tensor_cores(Heads h) {
  extern __shared__ __align__(128) b16 shared[];  // Q, then STAGES times K and V: [64 rows][64], swizzled
  const int lane = threadIdx.x % 32, warp = threadIdx.x / 32;
  const int block = static_cast<int>(gridDim.x - 1 - blockIdx.x);
  const int64_t first = h.first(blockIdx.z);
  const auto fetch = [&](b16* to, const b16* from, int token) {  // 64 rows of one matrix
#pragma unroll
    for (int i = 0; i < 4; ++i) {
      const int piece = i * 128 + static_cast<int>(threadIdx.x), row = piece / 8, chunk = piece % 8;
      copy_async(chunk_of(to, row, chunk), from + first + (token + row) * h.row() + chunk * 8);
    }
  };
  const auto keys = [&](int tile) { return shared + kTileElements * (1 + tile % STAGES * 2); };
  const auto values = [&](int tile) { return keys(tile) + kTileElements; };
  const auto fetch_tile = [&](int tile) {
    fetch(keys(tile), h.k, tile * kRows);
    fetch(values(tile), h.v, tile * kRows);
    commit_copies();
  };

  fetch(shared, h.q, block * kRows);
  fetch_tile(0);
  uint32_t q[4][4];
  float o[8][4] = {}, m[2] = {-INFINITY, -INFINITY}, l[2] = {};  // rows lane / 4 and lane / 4 + 8 of this warp
  const float scale = h.scale * kLog2e;
  const int last = block;
  for (int tile = 0; tile <= last; ++tile) {
    if (STAGES == 2 && tile < last) {
      fetch_tile(tile + 1);
      wait_copies<1>();
    } else {
      wait_copies<0>();
    }
    __syncthreads();
    if (tile == 0) {
#pragma unroll
      for (int step = 0; step < 4; ++step)
        ldmatrix(q[step], chunk_of(shared, warp * 16 + lane % 16, step * 2 + lane / 16));
    }
    float s[8][4] = {};  // 16 queries x 64 keys: [8 keys][fragment]
#pragma unroll
    for (int step = 0; step < 4; ++step) {
#pragma unroll
      for (int j = 0; j < 4; ++j) {
        uint32_t k[4];
        ldmatrix(k, chunk_of(keys(tile), j * 16 + lane / 16 * 8 + lane % 8, step * 2 + lane / 8 % 2));
        mma(s[2 * j], q[step], k[0], k[1]);
        mma(s[2 * j + 1], q[step], k[2], k[3]);
      }
    }
    if (tile == last) {  // the diagonal
#pragma unroll
      for (int j = 0; j < 8; ++j) {
#pragma unroll
        for (int e = 0; e < 4; ++e) {
          const int key = j * 8 + lane % 4 * 2 + e % 2, query = warp * 16 + lane / 4 + e / 2 * 8;
          if (key > query) s[j][e] = -INFINITY;
        }
      }
    }
#pragma unroll
    for (int half = 0; half < 2; ++half) {
      float top = m[half];
#pragma unroll
      for (int j = 0; j < 8; ++j) top = fmaxf(top, fmaxf(s[j][2 * half], s[j][2 * half + 1]) * scale);
      top = fmaxf(top, __shfl_xor_sync(kAllLanes, top, 1));  // the four lanes that share a row
      top = fmaxf(top, __shfl_xor_sync(kAllLanes, top, 2));
      const float shrink = exp2_fast(m[half] - top);
      m[half] = top;
      l[half] *= shrink;
#pragma unroll
      for (int j = 0; j < 8; ++j) {
#pragma unroll
        for (int e = 2 * half; e < 2 * half + 2; ++e) {
          s[j][e] = exp2_fast(fmaf(s[j][e], scale, -top));
          l[half] += s[j][e];  // of this lane's columns; the lanes meet at the end
          o[j][e] *= shrink;
        }
      }
    }
#pragma unroll
    for (int step = 0; step < 4; ++step) {  // 16 keys at a time
      const uint32_t p[4] = {pack(s[2 * step][0], s[2 * step][1]), pack(s[2 * step][2], s[2 * step][3]),
                             pack(s[2 * step + 1][0], s[2 * step + 1][1]),
                             pack(s[2 * step + 1][2], s[2 * step + 1][3])};
#pragma unroll
      for (int j = 0; j < 4; ++j) {
        uint32_t v[4];
        ldmatrix_transposed(v, chunk_of(values(tile), step * 16 + lane % 16, j * 2 + lane / 16));
        mma(o[2 * j], p, v[0], v[1]);
        mma(o[2 * j + 1], p, v[2], v[3]);
      }
    }
    __syncthreads();  // before the tile's place is written again
    if (STAGES == 1 && tile < last) fetch_tile(tile + 1);
  }
#pragma unroll
  for (int half = 0; half < 2; ++half) {
    float sum = l[half];
    sum += __shfl_xor_sync(kAllLanes, sum, 1);
    sum += __shfl_xor_sync(kAllLanes, sum, 2);
    const int64_t query = block * kRows + warp * 16 + lane / 4 + half * 8;
#pragma unroll
    for (int j = 0; j < 8; ++j) {
      *reinterpret_cast<uint32_t*>(h.o + first + query * h.row() + j * 8 + lane % 4 * 2) =
          pack(o[j][2 * half] / sum, o[j][2 * half + 1] / sum);
    }
  }
}

/// O of one (sample, head, query) in f64.
std::vector<double> reference(const Heads& h, const float* q, const float* k, const float* v, int sample_head,
                              int query) {
  const int64_t first = h.first(sample_head), row = h.row();
  std::vector<double> p(static_cast<size_t>(query) + 1), o(kD);
  double top = -INFINITY, sum = 0;
  for (size_t j = 0; j < p.size(); ++j) {
    for (int d = 0; d < kD; ++d)
      p[j] += static_cast<double>(q[first + query * row + d]) * k[first + static_cast<int64_t>(j) * row + d];
    p[j] *= h.scale;
    top = std::max(top, p[j]);
  }
  for (double& x : p) sum += x = std::exp(x - top);
  for (size_t j = 0; j < p.size(); ++j) {
    for (int d = 0; d < kD; ++d)
      o[static_cast<size_t>(d)] += p[j] / sum * static_cast<double>(v[first + static_cast<int64_t>(j) * row + d]);
  }
  return o;
}

}  // namespace

int climb_attention(const Ceilings& ceilings) {
  const int batch = 2, heads = 16, length = 2048, all = batch * heads;  // the length is a multiple of every tile
  const Shape shape{batch, length, heads, kD};
  const Tensor q = normal(shape, 1), k = normal(shape, 2), v = normal(shape, 3),
               o = Tensor::empty(shape, DType::bf16, kGpu);
  const Tensor scores = Tensor::empty({all, length, length}, DType::f32, kGpu),
               lse = Tensor::empty({batch, heads, length}, DType::f32, kGpu);
  const auto pointer = [](const Tensor& t) { return reinterpret_cast<b16*>(t.data<rw::bf16>()); };
  const Heads h{length, heads, 1 / std::sqrt(static_cast<float>(kD)), pointer(q), pointer(k), pointer(v), pointer(o)};
  float* s = scores.data<float>();

  Problem p;
  p.title = rw::cat("causal attention, batch ", batch, ", ", heads, " heads of ", kD, ", ", length,
                    " tokens, bf16 (2 B H T^2 D FLOPs)");
  p.flops = 2.0 * all * kD * static_cast<double>(length) * length;
  p.output = o;
  const Tensor hq = q.to(rw::kCpu).to(DType::f32), hk = k.to(rw::kCpu).to(DType::f32),
               hv = v.to(rw::kCpu).to(DType::f32);
  p.error = [=](const Tensor& got) {  // 256 queries anywhere
    rw::Random random(4, rw::Purpose::test);
    double worst = 0, largest = 0;
    for (int i = 0; i < 256; ++i) {
      const int sample_head = static_cast<int>(random.below(all)), query = static_cast<int>(random.below(length));
      const std::vector<double> want =
          reference(h, hq.data<float>(), hk.data<float>(), hv.data<float>(), sample_head, query);
      const float* row = got.data<float>() + h.first(sample_head) + query * h.row();
      for (int d = 0; d < kD; ++d) {
        worst = std::max(worst, std::abs(row[d] - want[static_cast<size_t>(d)]));
        largest = std::max(largest, std::abs(want[static_cast<size_t>(d)]));
      }
    }
    return worst / largest;
  };

  const int64_t lines = static_cast<int64_t>(all) * length;
  const auto library = [=](rw::cuda::attn::Path path) {
    return [=] {
      using rw::cuda::HeadView;
      const auto view = [&](const Tensor& t) {
        return HeadView{&t, t.raw(), int64_t{length} * heads * kD, int64_t{heads} * kD};
      };
      rw::cuda::AttentionShape shape{batch, heads, heads, length, length, kD, true, static_cast<double>(h.scale)};
      shape.paths.fastest = path;
      rw::cuda::attention_forward(shape, view(q), view(k), view(v), view(o), lse);
    };
  };
  const auto tensor_core_level = [=](auto stages) {
    return [=] {
      launch("tensor_cores", tensor_cores<stages()>, Grid(length / kRows, 1, all), 128,
             (1 + 2 * stages()) * kTileElements * 2, h);
    };
  };
  return climb(p,
               {{"1 three kernels, scores in memory",
                 [=] {
                   launch("naive_scores", naive_scores, Grid(ceil_div(length, 256), length, all), 256, 0, h, s);
                   launch("naive_softmax", naive_softmax, ceil_div(lines, 256), 256, 0, lines, length, s);
                   launch("naive_output", naive_output, Grid(length, 1, all), kD, 0, h, s);
                 }},
                {"2 tiles in shared memory",
                 [=] {
                   const int tiles = length / kTile;
                   launch("tiled_scores", tiled_scores, Grid(tiles, tiles, all), kTile * kTile, 0, h, s);
                   launch("warp_softmax", warp_softmax, ceil_div(lines, 8), 256, 0, lines, length, s);
                   launch("tiled_output", tiled_output, Grid(tiles, 1, all), kTile * kTile, 0, h, s);
                 }},
                {"3 online softmax, one kernel",
                 [=] { launch("online_softmax", online_softmax, Grid(length / kQueries, 1, all), kQueries, 0, h); }},
                {"4 tensor cores (mma.sync)", tensor_core_level(std::integral_constant<int, 1>{})},
                {"5 the next tile on its way", tensor_core_level(std::integral_constant<int, 2>{})},
                {"6 the library's mma.sync path", library(rw::cuda::attn::Path::mma)},
                {"7 the library's Hopper path", library(rw::cuda::attn::Path::sm90)}},
               ceilings);
}

}  // namespace ladder
