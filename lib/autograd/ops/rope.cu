// RoPE with any positions and frequencies (the formulas are in rope.h):
//
//   y1 = A (x1 cos - x2 sin),  y2 = A (x2 cos + x1 sin)          backward: the same with -sin
//   dinv_freq[i] = sum over tokens of position * sum over heads of (g2 y1 - g1 y2)
#include "autograd/ops/cuda_ops.h"
#include "autograd/ops/detail/rotation.cuh"
#include "tensor/launch.cuh"

namespace rw::cuda {
namespace {

constexpr int kThreads = 256;

// --- cos and sin: angles in f64, rounded once -----------------------------------------------------------------------
//
// An f32 product would be wrong by 3e-3 rad at position 131072. One table serves
// all layers, so its cost does not count.

template <class F, class Out>
__global__ void __launch_bounds__(kThreads)
    tables_kernel(int64_t n, int length, int pairs, bool shared_positions, bool shared_freq,
                  const float* __restrict__ positions, const F* __restrict__ inv_freq, Out* __restrict__ cos,
                  Out* __restrict__ sin) {
  const int64_t i = static_cast<int64_t>(blockIdx.x) * kThreads + threadIdx.x;  // [B,T,pairs]
  if (i >= n) return;
  const int64_t token = i / pairs, b = token / length;
  const int pair = static_cast<int>(i - token * pairs);
  const double angle = static_cast<double>(positions[shared_positions ? token - b * length : token]) *
                       static_cast<double>(inv_freq[shared_freq ? pair : b * pairs + pair]);
  double s, c;
  sincos(angle, &s, &c);
  cos[i] = static_cast<Out>(c);
  sin[i] = static_cast<Out>(s);
}

// --- rotation -------------------------------------------------------------------------------------------------------

struct Heads {
  int64_t tokens;  // B T
  int length;      // T: tokens share tables across the batch if the tables have one row per t only
  bool shared_table;
  int heads, rotated;  // per token; the first `rotated` turn
  int head_dim, pairs;
};

/// Elements (a, b) of pair i.
template <RopeLayout LAYOUT>
__device__ __forceinline__ int first_of(int i) {
  return LAYOUT == RopeLayout::half ? i : 2 * i;
}
template <RopeLayout LAYOUT>
__device__ __forceinline__ int second_of(int i, int pairs) {
  return LAYOUT == RopeLayout::half ? i + pairs : 2 * i + 1;
}

/// A thread turns the same 8 pairs (4 if interleaved) of several heads, so that cos and sin are loaded once for all of
/// them. Bytes: x and y once; the tables add 4 D bytes per token to the 4 H D of bf16 heads.
constexpr int kHeadsPerThread = 2;

template <RopeLayout LAYOUT, class T>
__global__ void __launch_bounds__(kThreads)
    rotate_kernel(Heads s, float scale, float direction, const T* x, const float* __restrict__ cos,
                  const float* __restrict__ sin, T* y) {
  constexpr bool kHalf = LAYOUT == RopeLayout::half;
  constexpr int kPairs = kHalf ? 8 : 4;
  const uint32_t vectors = s.pairs / kPairs, groups = (s.rotated + kHeadsPerThread - 1) / kHeadsPerThread,
                 per_token = vectors * groups;
  const uint32_t thread = blockIdx.x * kThreads + threadIdx.x;
  const uint32_t token = thread / per_token, group = thread % per_token / vectors, p = thread % vectors;
  if (token >= s.tokens) return;
  const int64_t base = static_cast<int64_t>(token) * s.heads * s.head_dim;

  Eight<T> a[kHeadsPerThread], b[kHeadsPerThread];  // interleaved: a alone, pairs side by side
#pragma unroll
  for (int j = 0; j < kHeadsPerThread; ++j) {
    const int head = j * groups + group;  // neighbouring threads take neighbouring heads
    if (head >= s.rotated) break;
    const T* from = x + base + head * s.head_dim + p * 8;
    a[j] = load_eight(from);
    if constexpr (kHalf) b[j] = load_eight(from + s.pairs);
  }
  const int64_t row = (s.shared_table ? token % s.length : token) * static_cast<int64_t>(s.pairs) + p * kPairs;
  Vec<float, kPairs> c = load<kPairs>(cos + row), n = load<kPairs>(sin + row);
#pragma unroll
  for (int i = 0; i < kPairs; ++i) {
    c.at[i] *= scale;
    n.at[i] *= scale * direction;
  }
#pragma unroll
  for (int j = 0; j < kHeadsPerThread; ++j) {
    const int head = j * groups + group;
    if (head >= s.rotated) break;
    T* to = y + base + head * s.head_dim + p * 8;
    Vec<float, 8> first, second;
    if constexpr (kHalf) {
#pragma unroll
      for (int i = 0; i < 8; ++i) {
        first.at[i] = turned_first(a[j][i], b[j][i], c.at[i], n.at[i]);
        second.at[i] = turned_second(a[j][i], b[j][i], c.at[i], n.at[i]);
      }
      store_eight(to, round_eight<T>(first));
      store_eight(to + s.pairs, round_eight<T>(second));
    } else {
#pragma unroll
      for (int i = 0; i < 4; ++i) {
        first.at[2 * i] = turned_first(a[j][2 * i], a[j][2 * i + 1], c.at[i], n.at[i]);
        first.at[2 * i + 1] = turned_second(a[j][2 * i], a[j][2 * i + 1], c.at[i], n.at[i]);
      }
      store_eight(to, round_eight<T>(first));
    }
  }
}

/// Any sizes: a thread per pair.
template <RopeLayout LAYOUT, class T>
__global__ void __launch_bounds__(kThreads)
    rotate_any_kernel(Heads s, float scale, float direction, const T* x, const float* __restrict__ cos,
                      const float* __restrict__ sin, T* y) {
  const int64_t thread = static_cast<int64_t>(blockIdx.x) * kThreads + threadIdx.x;
  const int64_t token = thread / (static_cast<int64_t>(s.rotated) * s.pairs);
  if (token >= s.tokens) return;
  const int head = static_cast<int>(thread / s.pairs % s.rotated), i = static_cast<int>(thread % s.pairs);
  const int64_t at = (token * s.heads + head) * s.head_dim;
  const int64_t row = (s.shared_table ? token % s.length : token) * s.pairs + i;
  const int64_t first = at + first_of<LAYOUT>(i), second = at + second_of<LAYOUT>(i, s.pairs);
  const float a = to_float(x[first]), b = to_float(x[second]);
  const float c = cos[row] * scale, n = sin[row] * (scale * direction);
  y[first] = from_float<T>(turned_first(a, b, c, n));
  y[second] = from_float<T>(turned_second(a, b, c, n));
}

// --- gradient to the frequencies ------------------------------------------------------------------------------------
//
// Stage 1: a block takes some tokens of one sample; a thread always the same N pairs, walking over (token, head).
// Positions go into the hundreds of thousands and the terms cancel, so sums are f64; that costs nothing beside reading
// y and dy. Stage 2: a warp per frequency adds up the blocks in order. Bytes: y and dy once.

template <int N, RopeLayout LAYOUT, class T>
__global__ void __launch_bounds__(kThreads)
    inv_freq_partials_kernel(Heads s, int chunks, int chunk, bool shared_positions, const T* __restrict__ y,
                             const T* __restrict__ dy, const float* __restrict__ positions,
                             double* __restrict__ partial) {
  extern __shared__ double lanes[];  // [lane count, pairs of this block]
  const int vectors = min(s.pairs / N - static_cast<int>(blockIdx.y) * kThreads, kThreads);
  const int lane_count = kThreads / vectors, lane = threadIdx.x / vectors;
  const int v = threadIdx.x % vectors;
  const int pair = (static_cast<int>(blockIdx.y) * kThreads + v) * N;
  const int b = blockIdx.x / chunks, begin = blockIdx.x % chunks * chunk, end = min(s.length, begin + chunk);
  double sum[N] = {};
  const int work = (end - begin) * s.rotated;
  if (lane < lane_count) {
#pragma unroll 2
    for (int w = lane; w < work; w += lane_count) {
      const int t = begin + w / s.rotated, head = w % s.rotated;
      const int64_t at = ((static_cast<int64_t>(b) * s.length + t) * s.heads + head) * s.head_dim;
      const double position =
          static_cast<double>(positions[(shared_positions ? 0 : static_cast<int64_t>(b) * s.length) + t]);
      if constexpr (N == 1) {
        const int64_t first = at + first_of<LAYOUT>(pair), second = at + second_of<LAYOUT>(pair, s.pairs);
        sum[0] += position * static_cast<double>(to_float(dy[second]) * to_float(y[first]) -
                                                 to_float(dy[first]) * to_float(y[second]));
      } else if constexpr (LAYOUT == RopeLayout::half) {
        static_assert(N == 8);
        const Eight<T> y1 = load_eight(y + at + pair), y2 = load_eight(y + at + pair + s.pairs);
        const Eight<T> g1 = load_eight(dy + at + pair), g2 = load_eight(dy + at + pair + s.pairs);
#pragma unroll
        for (int i = 0; i < N; ++i) sum[i] += position * static_cast<double>(g2[i] * y1[i] - g1[i] * y2[i]);
      } else {
        static_assert(N == 4);
        const Eight<T> yy = load_eight(y + at + 2 * pair), gg = load_eight(dy + at + 2 * pair);
#pragma unroll
        for (int i = 0; i < N; ++i) {
          sum[i] += position * static_cast<double>(gg[2 * i + 1] * yy[2 * i] - gg[2 * i] * yy[2 * i + 1]);
        }
      }
    }
#pragma unroll
    for (int i = 0; i < N; ++i) lanes[lane * vectors * N + v * N + i] = sum[i];
  }
  __syncthreads();
  for (int i = threadIdx.x; i < vectors * N; i += kThreads) {
    double total = 0;
    for (int l = 0; l < lane_count; ++l) total += lanes[l * vectors * N + i];
    partial[static_cast<int64_t>(blockIdx.x) * s.pairs + blockIdx.y * kThreads * N + i] = total;
  }
}

/// partial [outputs / pairs, parts, pairs] -> dinv_freq [outputs]
template <class D>
__global__ void __launch_bounds__(kThreads)
    inv_freq_totals_kernel(int64_t outputs, int pairs, int64_t parts, const double* __restrict__ partial,
                           D* __restrict__ dinv_freq) {
  const int64_t output = static_cast<int64_t>(blockIdx.x) * (kThreads / kWarp) + threadIdx.x / kWarp;
  if (output >= outputs) return;
  const int64_t sample = output / pairs, pair = output % pairs;
  double sum = 0;
  for (int64_t p = threadIdx.x % kWarp; p < parts; p += kWarp) sum += partial[(sample * parts + p) * pairs + pair];
  sum = warp_reduce(sum, Sum{});
  if (threadIdx.x % kWarp == 0) dinv_freq[output] = static_cast<D>(static_cast<double>(dinv_freq[output]) + sum);
}

Heads heads_of(const Tensor& x, int64_t rotated, int64_t pairs, bool shared_table) {
  return {x.size(0) * x.size(1),     static_cast<int>(x.size(1)), shared_table,           static_cast<int>(x.size(2)),
          static_cast<int>(rotated), static_cast<int>(x.size(3)), static_cast<int>(pairs)};
}

template <class F>
void dispatch_layout(RopeLayout layout, F&& f) {
  if (layout == RopeLayout::half) return f(std::integral_constant<RopeLayout, RopeLayout::half>{});
  return f(std::integral_constant<RopeLayout, RopeLayout::interleaved>{});
}

/// Pairs that one 16-byte access of bf16 (or two of f32) covers: both halves of 8 pairs, or 4 pairs side by side.
constexpr int vector_pairs(RopeLayout layout) { return layout == RopeLayout::half ? 8 : 4; }

}  // namespace

void rope_tables(const Tensor& positions, const Tensor& inv_freq, const Tensor& cos, const Tensor& sin) {
  const int64_t n = cos.numel(), length = cos.size(1), pairs = cos.size(2);
  const bool shared_positions = positions.size(0) == 1, shared_freq = inv_freq.numel() == pairs;
  const auto go = [&](auto f_zero, auto out_zero) {
    using F = decltype(f_zero);
    using Out = decltype(out_zero);
    launch({"rope_tables", bytes_of(cos, sin)}, tables_kernel<F, Out>, ceil_div(n, kThreads), kThreads, 0, n, length,
           pairs, shared_positions, shared_freq, as<float>(positions), as<F>(inv_freq), as<Out>(cos), as<Out>(sin));
  };
  check(cos.dtype() == DType::f32, "rope", "tables on a GPU are f32, got ", cos.dtype());
  if (inv_freq.dtype() == DType::f64) return go(double{}, float{});
  check(inv_freq.dtype() == DType::f32, "rope", "inv_freq must be f32 or f64, got ", inv_freq.dtype());
  go(float{}, float{});
}

void rope_apply(const Tensor& x, const Tensor& cos, const Tensor& sin, double scale, RopeLayout layout, int64_t heads,
                int direction, const Tensor& y) {
  const Heads s = heads_of(x, heads, cos.size(2), cos.size(0) == 1);
  if (x.numel() == 0) return;
  if (x.raw() != y.raw()) {  // what does not turn is copied: whole heads, and the rest of each head if 2 pairs < D
    const int64_t rest = s.head_dim - 2 * s.pairs, token = int64_t{s.heads} * s.head_dim;
    if (heads < s.heads)
      copy_block(x, heads * s.head_dim, token, y, heads * s.head_dim, token, s.tokens, token - heads * s.head_dim);
    if (rest > 0) copy_block(x, 2 * s.pairs, s.head_dim, y, 2 * s.pairs, s.head_dim, s.tokens * s.heads, rest);
  }
  if (heads == 0 || s.pairs == 0) return;
  const Label label("rope", 4 * s.tokens * heads * s.pairs * size_of(x.dtype()) + bytes_of(cos, sin));
  dispatch(x.dtype(), "rope", [&](auto zero) {
    dispatch_layout(layout, [&](auto which) {
      using T = decltype(zero);
      constexpr RopeLayout kLayout = which();
      const int64_t items = s.tokens * ceil_div(heads, kHeadsPerThread) * (s.pairs / vector_pairs(layout));
      const bool wide = s.pairs % vector_pairs(layout) == 0 && s.head_dim % 8 == 0 && items < UINT32_MAX - kThreads &&
                        aligned16(as<T>(x), as<T>(y), as<float>(cos), as<float>(sin));
      if (wide) {
        launch(label, rotate_kernel<kLayout, T>, ceil_div(items, kThreads), kThreads, 0, s, scale, direction,
               as<const T>(x), as<float>(cos), as<float>(sin), as<T>(y));
      } else {
        launch({"rope_any", label.work}, rotate_any_kernel<kLayout, T>, ceil_div(s.tokens * heads * s.pairs, kThreads),
               kThreads, 0, s, scale, direction, as<const T>(x), as<float>(cos), as<float>(sin), as<T>(y));
      }
    });
  });
}

void rope_inv_freq_backward(const Tensor& y, const Tensor& dy, const Tensor& positions, RopeLayout layout,
                            int64_t heads, const Tensor& dinv_freq) {
  const int64_t batch = y.size(0), length = y.size(1), pairs = dinv_freq.size(-1);
  const Heads s = heads_of(y, heads, pairs, false);
  if (y.numel() == 0 || pairs == 0 || heads == 0) return;
  const bool per_sample = dinv_freq.numel() == batch * pairs && dinv_freq.rank() == 2;
  // About a thousand blocks, from the shape alone, so that the order of additions is the shape's.
  const int64_t chunk = std::max<int64_t>(1, ceil_div(batch * length, 1024)), chunks = ceil_div(length, chunk);
  const Tensor partial = Tensor::empty({batch * chunks, pairs}, DType::f64, y.device());
  dispatch(y.dtype(), "rope_inv_freq_backward", [&](auto zero) {
    dispatch_layout(layout, [&](auto which) {
      using T = decltype(zero);
      constexpr RopeLayout kLayout = which();
      constexpr int kWide = vector_pairs(kLayout);
      const auto go = [&](auto n) {
        const int64_t vectors = pairs / n(), tiles = ceil_div(vectors, kThreads);
        const auto kernel = inv_freq_partials_kernel<n(), kLayout, T>;
        const int64_t shared = kThreads * n() * static_cast<int64_t>(sizeof(double));
        launch({"rope_inv_freq_backward", bytes_of(y, dy)}, kernel, Grid(batch * chunks, tiles), kThreads, shared, s,
               static_cast<int>(chunks), static_cast<int>(chunk), positions.size(0) == 1, as<T>(y), as<T>(dy),
               as<float>(positions), as<double>(partial));
      };
      if (pairs % kWide == 0 && s.head_dim % 8 == 0 && aligned16(as<T>(y), as<T>(dy)))
        go(std::integral_constant<int, kWide>{});
      else go(std::integral_constant<int, 1>{});
    });
  });
  const int64_t outputs = per_sample ? batch * pairs : pairs, parts = per_sample ? chunks : batch * chunks;
  const auto total = [&](auto zero) {
    using D = decltype(zero);
    launch("rope_inv_freq_totals", inv_freq_totals_kernel<D>, ceil_div(outputs, kThreads / kWarp), kThreads, 0, outputs,
           pairs, parts, as<double>(partial), as<D>(dinv_freq));
  };
  if (dinv_freq.dtype() == DType::f64) return total(double{});
  check(dinv_freq.dtype() == DType::f32, "rope", "the gradient of inv_freq must be f32 or f64, got ",
        dinv_freq.dtype());
  total(float{});
}

}  // namespace rw::cuda
