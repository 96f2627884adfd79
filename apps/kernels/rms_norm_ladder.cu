// RMSNorm, y = x / sqrt(mean(x^2) + eps) * weight: a few FLOPs per element, so all that counts is how bytes move.
#include <cmath>

#include "autograd/ops/cuda_ops.h"
#include "ladder.cuh"

namespace ladder {
namespace {

constexpr int kThreads = 256;

// 1. A thread per row. Neighbouring threads read addresses a whole row apart: each access of a warp touches 32 sectors
//    of 32 bytes for 2 bytes of each.
__global__ void thread_per_row(int64_t rows, int columns, float eps, const b16* x, const b16* weight, b16* y) {
  const int64_t row = static_cast<int64_t>(blockIdx.x) * kThreads + threadIdx.x;
  if (row >= rows) return;
  float square = 0;
  for (int c = 0; c < columns; ++c) {
    const float v = to_float(x[row * columns + c]);
    square += v * v;
  }
  const float scale = rsqrtf(square / static_cast<float>(columns) + eps);
  for (int c = 0; c < columns; ++c)
    y[row * columns + c] = __float2bfloat16_rn(to_float(x[row * columns + c]) * scale * to_float(weight[c]));
}

__device__ __forceinline__ float warp_sum(float v) {
  for (int offset = 16; offset > 0; offset /= 2) v += __shfl_xor_sync(kAllLanes, v, offset);
  return v;
}

// 2. A warp per row: lanes read neighbours, so a warp's access is 64 contiguous bytes. Shuffles add up the sum of
//    squares over its lanes.
__global__ void warp_per_row(int64_t rows, int columns, float eps, const b16* x, const b16* weight, b16* y) {
  const int64_t row = static_cast<int64_t>(blockIdx.x) * (kThreads / kWarp) + threadIdx.x / kWarp;
  const int lane = threadIdx.x % kWarp;
  if (row >= rows) return;
  float square = 0;
  for (int c = lane; c < columns; c += kWarp) {
    const float v = to_float(x[row * columns + c]);
    square += v * v;
  }
  const float scale = rsqrtf(warp_sum(square) / static_cast<float>(columns) + eps);
  for (int c = lane; c < columns; c += kWarp)
    y[row * columns + c] = __float2bfloat16_rn(to_float(x[row * columns + c]) * scale * to_float(weight[c]));
}

using Eight = Vec<b16, 8>;  // 16 bytes

__device__ __forceinline__ Eight scaled(const Eight& x, const Eight& weight, float scale) {
  Eight y;
#pragma unroll
  for (int i = 0; i < 8; ++i) y.at[i] = __float2bfloat16_rn(to_float(x.at[i]) * scale * to_float(weight.at[i]));
  return y;
}

// 3. 16 bytes per lane and access: an eighth of the instructions, and eight times as many bytes on their way at a time.
__global__ void wide_loads(int64_t rows, int columns, float eps, const b16* x, const b16* weight, b16* y) {
  const int64_t row = static_cast<int64_t>(blockIdx.x) * (kThreads / kWarp) + threadIdx.x / kWarp;
  const int lane = threadIdx.x % kWarp;
  if (row >= rows) return;
  float square = 0;
  for (int c = lane * 8; c < columns; c += kWarp * 8) {
    const Eight v = load<8>(x + row * columns + c);
#pragma unroll
    for (int i = 0; i < 8; ++i) square += to_float(v.at[i]) * to_float(v.at[i]);
  }
  const float scale = rsqrtf(warp_sum(square) / static_cast<float>(columns) + eps);
  for (int c = lane * 8; c < columns; c += kWarp * 8)
    store<8>(y + row * columns + c, scaled(load<8>(x + row * columns + c), load<8>(weight + c), scale));
}

// 4. The row stays in registers between the two uses, and all its loads are started before the first is needed. Now
//    each byte crosses the memory bus (and the caches) once.
template <int COLUMNS>
__global__ void __launch_bounds__(kThreads) row_in_registers(int64_t rows, float eps, const b16* __restrict__ x,
                                                             const b16* __restrict__ weight, b16* __restrict__ y) {
  constexpr int kVectors = COLUMNS / (kWarp * 8);
  const int64_t row = static_cast<int64_t>(blockIdx.x) * (kThreads / kWarp) + threadIdx.x / kWarp;
  const int lane = threadIdx.x % kWarp;
  if (row >= rows) return;
  Eight held[kVectors];
#pragma unroll
  for (int v = 0; v < kVectors; ++v) held[v] = load<8>(x + row * COLUMNS + (v * kWarp + lane) * 8);
  float square = 0;
#pragma unroll
  for (int v = 0; v < kVectors; ++v) {
#pragma unroll
    for (int i = 0; i < 8; ++i) square += to_float(held[v].at[i]) * to_float(held[v].at[i]);
  }
  const float scale = rsqrtf(warp_sum(square) / COLUMNS + eps);
#pragma unroll
  for (int v = 0; v < kVectors; ++v) {
    const int c = (v * kWarp + lane) * 8;
    store<8>(y + row * COLUMNS + c, scaled(held[v], load<8>(weight + c), scale));
  }
}

}  // namespace

int climb_rms_norm(const Ceilings& ceilings) {
  constexpr int kColumns = 2048;
  constexpr float kEps = 1e-5f;
  const int64_t rows = 65536;
  const Tensor x = normal({rows, kColumns}, 1), w = normal({kColumns}, 2), y = Tensor::empty_like(x),
               rstd = Tensor::empty({rows}, DType::f32, kGpu);
  const auto *px = x.data<rw::bf16>(), *pw = w.data<rw::bf16>();
  const b16 *dx = reinterpret_cast<const b16*>(px), *dw = reinterpret_cast<const b16*>(pw);
  b16* dy = reinterpret_cast<b16*>(y.data<rw::bf16>());

  Problem p;
  p.title = rw::cat("RMSNorm of ", rows, " rows of ", kColumns, ", bf16 (bytes: x and y once)");
  p.bytes = 2.0 * static_cast<double>(x.bytes());
  p.output = y;
  const Tensor hx = x.to(rw::kCpu).to(DType::f32), hw = w.to(rw::kCpu).to(DType::f32);
  p.error = [=](const Tensor& got) {
    double worst = 0, largest = 0;
    for (int64_t row = 0; row < rows; row += 509) {
      const float *in = hx.data<float>() + row * kColumns, *out = got.data<float>() + row * kColumns;
      double square = 0;
      for (int c = 0; c < kColumns; ++c) square += static_cast<double>(in[c]) * in[c];
      const double scale = 1 / std::sqrt(square / kColumns + kEps);
      for (int c = 0; c < kColumns; ++c) {
        const double want = in[c] * scale * hw.data<float>()[c];
        worst = std::max(worst, std::abs(out[c] - want));
        largest = std::max(largest, std::abs(want));
      }
    }
    return worst / largest;
  };
  const int64_t warps = ceil_div(rows, kThreads / kWarp);
  return climb(
      p,
      {{"1 a thread per row",
        [=] {
          launch("thread_per_row", thread_per_row, ceil_div(rows, kThreads), kThreads, 0, rows, kColumns, kEps, dx, dw,
                 dy);
        }},
       {"2 a warp per row",
        [=] { launch("warp_per_row", warp_per_row, warps, kThreads, 0, rows, kColumns, kEps, dx, dw, dy); }},
       {"3 16 bytes at a time",
        [=] { launch("wide_loads", wide_loads, warps, kThreads, 0, rows, kColumns, kEps, dx, dw, dy); }},
       {"4 the row in registers",
        [=] { launch("row_in_registers", row_in_registers<kColumns>, warps, kThreads, 0, rows, kEps, dx, dw, dy); }},
       {"5 the library's (norm.cu)", [=] { rw::cuda::rms_norm_forward(x, Tensor(), w, kEps, 0, Tensor(), y, rstd); }}},
      ceilings);
}

}  // namespace ladder
