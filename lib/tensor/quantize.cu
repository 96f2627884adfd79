// 8-bit copies on the GPU (the rule is in quantize.h): the largest |x| in one read, then
// the copy, its transpose or both in one more.
#include <cuda_fp8.h>

#include "tensor/launch.cuh"
#include "tensor/quantize.h"

namespace rw::cuda {
namespace {

constexpr int kThreads = 256;

// --- the largest |x|: 2 bytes per element ---------------------------------------------------------------------------

/// |x| of two bf16 is their bits without the signs, and the larger of two |x| is that of larger bits, but for NaN: it
/// does not count, so __hmax2 compares.
__device__ __forceinline__ __nv_bfloat162 larger(__nv_bfloat162 most, uint32_t pair) {
  pair &= 0x7fff7fffu;
  return __hmax2(most, *reinterpret_cast<const __nv_bfloat162*>(&pair));
}

__global__ void __launch_bounds__(kThreads)
    absolute_max_kernel(int64_t n, const b16* __restrict__ x, float* __restrict__ largest) {
  constexpr int kUnroll = 4;  // independent loads in flight per thread
  __shared__ float scratch[kThreads / kWarp];
  const int64_t step = static_cast<int64_t>(gridDim.x) * kThreads * 8;
  int64_t i = (static_cast<int64_t>(blockIdx.x) * kThreads + threadIdx.x) * 8;
  __nv_bfloat162 most = __floats2bfloat162_rn(0.f, 0.f);
  for (; i + (kUnroll - 1) * step + 8 <= n; i += kUnroll * step) {
    Eight<b16> v[kUnroll];
#pragma unroll
    for (int u = 0; u < kUnroll; ++u) v[u] = load_eight(x + i + u * step);
#pragma unroll
    for (int u = 0; u < kUnroll; ++u) {
#pragma unroll
      for (int j = 0; j < 4; ++j) most = larger(most, v[u].pair[j]);
    }
  }
  for (; i + 8 <= n; i += step) {
    const Eight<b16> v = load_eight(x + i);
#pragma unroll
    for (int j = 0; j < 4; ++j) most = larger(most, v.pair[j]);
  }
  float value = fmaxf(__low2float(most), __high2float(most));
  for (; i < n; ++i) value = fmaxf(value, fabsf(to_float(x[i])));  // the tail: fewer than 8
  value = block_reduce<kThreads>(value, Max{}, scratch);
  if (threadIdx.x == 0) largest[blockIdx.x] = value;
}

// --- the copies: 3 bytes per element, or 4 for both -----------------------------------------------------------------
//
// A block makes a tile of 128 x 128, a thread 8 x 8 of it: rows of 8 bytes go out as they are; for the transpose, bytes
// change places in registers, and the thread's 8 columns of 8 bytes meet those of its neighbours in shared memory.

constexpr int kTile = 128, kSide = 8, kAcross = kTile / kSide;

template <class F8>
constexpr __nv_fp8_interpretation_t kFormat = std::is_same_v<F8, e4m3> ? __NV_E4M3 : __NV_E5M2;

/// Elements 4 j to 4 j + 3 of v times factor, in the order of memory.
template <class F8>
__device__ __forceinline__ uint32_t four(const Eight<b16>& v, int j, float factor) {
  const __nv_fp8x2_storage_t low =
      __nv_cvt_float2_to_fp8x2(make_float2(v[4 * j] * factor, v[4 * j + 1] * factor), __NV_SATFINITE, kFormat<F8>);
  const __nv_fp8x2_storage_t high =
      __nv_cvt_float2_to_fp8x2(make_float2(v[4 * j + 2] * factor, v[4 * j + 3] * factor), __NV_SATFINITE, kFormat<F8>);
  return static_cast<uint32_t>(low) | static_cast<uint32_t>(high) << 16;
}

/// t[c] = byte c of each of a, b, c, d.
__device__ __forceinline__ void transpose_bytes(uint32_t a, uint32_t b, uint32_t c, uint32_t d, uint32_t (&t)[4]) {
  const uint32_t ab_low = __byte_perm(a, b, 0x5140), ab_high = __byte_perm(a, b, 0x7362);
  const uint32_t cd_low = __byte_perm(c, d, 0x5140), cd_high = __byte_perm(c, d, 0x7362);
  t[0] = __byte_perm(ab_low, cd_low, 0x5410);
  t[1] = __byte_perm(ab_low, cd_low, 0x7632);
  t[2] = __byte_perm(ab_high, cd_high, 0x5410);
  t[3] = __byte_perm(ab_high, cd_high, 0x7632);
}

/// The factor of the rule, for every thread of a block.
template <class F8>
__device__ __forceinline__ float factor_of(const float* largest, int parts, float* scratch) {
  float most = 0;
  for (int i = threadIdx.x; i < parts; i += kThreads) most = fmaxf(most, largest[i]);
  return F8::kLargest / fmaxf(block_reduce<kThreads>(most, Max{}, scratch), 1e-12f);
}

template <class F8, bool ROWS, bool COLUMNS>
__global__ void __launch_bounds__(kThreads)
    quantize_kernel(int64_t rows, int64_t columns, const b16* __restrict__ x, const float* __restrict__ largest,
                    int parts, uint8_t* __restrict__ to_rows, uint8_t* __restrict__ to_columns,
                    float* __restrict__ scale) {
  __shared__ float scratch[kThreads / kWarp];
  __shared__ uint2 tile[COLUMNS ? kTile * kAcross : 1];  // [column][8 rows], the latter swizzled
  const int across = threadIdx.x % kAcross, down = threadIdx.x / kAcross;
  const int64_t first_row = static_cast<int64_t>(blockIdx.y) * kTile, first_column = int64_t{blockIdx.x} * kTile;
  const int64_t row = first_row + down * kSide, column = first_column + across * kSide;
  const bool inside = row < rows && column < columns;
  Eight<b16> v[kSide] = {};
  if (inside) {  // on their way before the factor is known
#pragma unroll
    for (int i = 0; i < kSide; ++i) v[i] = load_eight(x + (row + i) * columns + column);
  }
  const float factor = factor_of<F8>(largest, parts, scratch);
  if (blockIdx.x == 0 && blockIdx.y == 0 && threadIdx.x == 0) *scale = 1.f / factor;
  uint32_t q[kSide][2];
#pragma unroll
  for (int i = 0; i < kSide; ++i) {
    q[i][0] = four<F8>(v[i], 0, factor);
    q[i][1] = four<F8>(v[i], 1, factor);
    if (ROWS && inside) {
      *reinterpret_cast<uint2*>(to_rows + (row + i) * columns + column) = make_uint2(q[i][0], q[i][1]);
    }
  }
  if constexpr (COLUMNS) {
#pragma unroll
    for (int j = 0; j < 2; ++j) {
      uint32_t upper[4], lower[4];
      transpose_bytes(q[0][j], q[1][j], q[2][j], q[3][j], upper);
      transpose_bytes(q[4][j], q[5][j], q[6][j], q[7][j], lower);
#pragma unroll
      for (int c = 0; c < 4; ++c) {
        tile[(across * kSide + 4 * j + c) * kAcross + (down ^ across)] = make_uint2(upper[c], lower[c]);
      }
    }
    __syncthreads();
#pragma unroll
    for (int i = 0; i < kSide; ++i) {
      const int c = i * kAcross + threadIdx.x / kAcross, r = threadIdx.x % kAcross;
      if (first_column + c < columns && first_row + r * kSide < rows) {
        *reinterpret_cast<uint2*>(to_columns + (first_column + c) * rows + first_row + r * kSide) =
            tile[c * kAcross + (r ^ (c / kSide))];
      }
    }
  }
}

template <class F8>
void quantize_as(const Tensor& x, const Tensor& largest, const Quantized& out) {
  const int64_t rows = x.size(0), columns = x.size(1);
  const auto go = [&](auto kernel) {
    launch({"quantize", bytes_of(x, out.rows, out.columns)}, kernel, {ceil_div(columns, kTile), ceil_div(rows, kTile)},
           kThreads, 0, rows, columns, as<b16>(x), as<float>(largest), largest.numel(), as<uint8_t>(out.rows),
           as<uint8_t>(out.columns), as<float>(out.scale));
  };
  if (!out.columns.defined()) go(quantize_kernel<F8, true, false>);
  else if (!out.rows.defined()) go(quantize_kernel<F8, false, true>);
  else go(quantize_kernel<F8, true, true>);
}

}  // namespace

void absolute_max(const Tensor& x, const Tensor& largest) {
  check(aligned16(x.raw()), "absolute_max", "x must be 16-byte aligned");
  launch({"absolute_max", x.bytes()}, absolute_max_kernel, kMaximumParts, kThreads, 0, x.numel(), as<b16>(x),
         as<float>(largest));
}

void quantize(const Tensor& x, const Tensor& largest, DType dtype, const Quantized& out) {
  check(aligned16(x.raw()), "quantize", "x must be 16-byte aligned");
  if (dtype == DType::e4m3) quantize_as<e4m3>(x, largest, out);
  else quantize_as<e5m2>(x, largest, out);
}

}  // namespace rw::cuda
