// RMSNorm of the query heads and of the key heads of packed projections [tokens, (H + 2K) D]:
//
//   y = x rstd (weight + plus),   rstd = 1 / sqrt(mean(x^2) + eps)          v heads: y = x
//
// and backward, with n = x rstd and g = dy (weight + plus):
//
//   dx = rstd (g - n mean(g n)),   dweight = sum over tokens and heads of dy n
//
// A normalised row is one head, or all query (key) heads of a token. A head of up to 256 elements is held by 4 to 32
// lanes, eight elements each; longer rows, and head dims that are no multiple of 8, take a block each.
#include "autograd/ops/column_sums.cuh"
#include "autograd/ops/cuda_ops.h"
#include "tensor/launch.cuh"

namespace rw::cuda {
namespace {

constexpr int kThreads = 256, kN = 8;

/// The rows of one kind in a token: q, k or v.
struct Part {
  uint32_t offset, rows;
  int width;
  uint32_t rstd_offset;  // of its first row among the token's values of rstd
};
struct Layout {
  int64_t tokens;
  int token_width, rstd_width;
  Part part[3];
  float eps, plus;

  /// Rows are numbered in 32 bits: a division of 64 would cost as much as the whole formula.
  __device__ int64_t at(const Part& p, int64_t row) const {
    const uint32_t r = static_cast<uint32_t>(row), token = r / p.rows, head = r - token * p.rows;
    return static_cast<int64_t>(token) * token_width + p.offset + head * p.width;
  }
  __device__ int64_t rstd_at(const Part& p, int64_t row) const {
    const uint32_t r = static_cast<uint32_t>(row), token = r / p.rows;
    return static_cast<int64_t>(token) * rstd_width + p.rstd_offset + (r - token * p.rows);
  }
};

Layout layout_of(const Tensor& qkv, const QkNormOptions& o) {
  const int d = static_cast<int>(qkv.size(3)), h = static_cast<int>(o.n_heads), kv = static_cast<int>(o.n_kv_heads);
  Layout s{};
  s.tokens = qkv.size(0) * qkv.size(1);
  s.token_width = (h + 2 * kv) * d;
  s.eps = static_cast<float>(o.eps);
  s.plus = static_cast<float>(o.weight_offset);
  const auto set = [&](int i, int first, int heads, uint32_t rstd_offset) {
    const uint32_t offset = static_cast<uint32_t>(first * d), rows = o.across_heads ? 1 : static_cast<uint32_t>(heads);
    s.part[i] =
        Part{.offset = offset, .rows = rows, .width = o.across_heads ? heads * d : d, .rstd_offset = rstd_offset};
  };
  set(0, 0, h, 0);
  set(1, h, kv, s.part[0].rows);
  set(2, h + kv, kv, 0);
  s.rstd_width = static_cast<int>(s.part[0].rows + s.part[1].rows);
  check(s.tokens * (h + kv) < (int64_t{1} << 31), "qk_norm", "on the GPU at most 2^31 heads in one call");
  return s;
}

/// Sum over a group of LANES lanes.
template <int LANES>
__device__ __forceinline__ float group_sum(float x) {
#pragma unroll
  for (int offset = LANES / 2; offset > 0; offset /= 2) x += __shfl_xor_sync(kAllLanes, x, offset);
  return x;
}

// --- a head in the registers of a few lanes: each element read once and written once ---------------------------------

/// Blocks stay and walk over the rows of their part (blockIdx.y).
template <int LANES, class T>
__global__ void __launch_bounds__(kThreads)
    qk_norm_kernel(Layout s, const T* x, const T* __restrict__ q_weight, const T* __restrict__ k_weight, T* y,
                   float* __restrict__ rstd) {
  constexpr int kGroups = kThreads / LANES;
  const int part = blockIdx.y, group = threadIdx.x / LANES, c = threadIdx.x % LANES * kN;
  const Part p = s.part[part];
  const int64_t rows = s.tokens * p.rows;
  Eight<T> w{};
  if (part < 2 && c < p.width) w = load_eight((part == 0 ? q_weight : k_weight) + c);
  for (int64_t first = static_cast<int64_t>(blockIdx.x) * kGroups; first < rows; first += gridDim.x * kGroups) {
    const int64_t row = first + group;
    const bool inside = row < rows && c < p.width;
    const int64_t at = s.at(p, row) + c;
    Eight<T> held{};
    if (inside) held = load_eight(x + at);
    if (part == 2) {
      if (inside) store_eight(y + at, held);
      continue;
    }
    float square = 0;
#pragma unroll
    for (int i = 0; i < kN; ++i) square = fmaf(held[i], held[i], square);
    const float scale = 1.f / sqrtf(group_sum<LANES>(square) / static_cast<float>(p.width) + s.eps);
    if (!inside) continue;
    if (c == 0) rstd[s.rstd_at(p, row)] = scale;
    Vec<float, kN> out;
#pragma unroll
    for (int i = 0; i < kN; ++i) out.at[i] = held[i] * scale * (w[i] + s.plus);
    store_eight(y + at, round_eight<T>(out));
  }
}

/// What the backward kernels read and write. dx may be dy. partial: one row of the weight's size per block, or null.
template <class T>
struct Backward {
  const T *x, *q_weight, *k_weight;
  const float* rstd;
  const T* dy;
  T* dx;
  float *q_partial, *k_partial;

  __device__ const T* weight(int part) const { return part == 0 ? q_weight : k_weight; }
  __device__ float* partial(int part) const { return part == 0 ? q_partial : k_partial; }
};

template <int LANES, class T>
__global__ void __launch_bounds__(kThreads) qk_norm_backward_kernel(Layout s, Backward<T> io) {
  constexpr int kGroups = kThreads / LANES;
  __shared__ float combine[kGroups][LANES * kN];
  const int part = blockIdx.y, group = threadIdx.x / LANES, c = threadIdx.x % LANES * kN;
  const Part p = s.part[part];
  const int64_t rows = s.tokens * p.rows;
  Eight<T> w{};
  Vec<float, kN> dweight{};
  if (part < 2 && c < p.width) w = load_eight(io.weight(part) + c);
  for (int64_t first = static_cast<int64_t>(blockIdx.x) * kGroups; first < rows; first += gridDim.x * kGroups) {
    const int64_t row = first + group;
    const bool inside = row < rows && c < p.width;
    const int64_t at = s.at(p, row) + c;
    Eight<T> dy{};
    if (inside) dy = load_eight(io.dy + at);
    if (part == 2) {
      if (inside) store_eight(io.dx + at, dy);
      continue;
    }
    Eight<T> x{};
    if (inside) x = load_eight(io.x + at);
    const float rstd = inside ? io.rstd[s.rstd_at(p, row)] : 0.f;
    float dot = 0;
#pragma unroll
    for (int i = 0; i < kN; ++i) {
      const float n = x[i] * rstd;
      dweight.at[i] = fmaf(dy[i], n, dweight.at[i]);
      dot = fmaf(dy[i] * (w[i] + s.plus), n, dot);
    }
    const float mean = group_sum<LANES>(inside ? dot : 0.f) / static_cast<float>(p.width);
    if (!inside) continue;
    Vec<float, kN> out;
#pragma unroll
    for (int i = 0; i < kN; ++i) out.at[i] = rstd * (dy[i] * (w[i] + s.plus) - x[i] * rstd * mean);
    store_eight(io.dx + at, round_eight<T>(out));
  }
  if (part == 2 || !io.partial(part)) return;
  store<kN>(&combine[group][c], dweight);
  __syncthreads();
  for (int i = threadIdx.x; i < p.width; i += kThreads) {
    float sum = 0;
    for (int g = 0; g < kGroups; ++g) sum += combine[g][i];
    io.partial(part)[static_cast<int64_t>(blockIdx.x) * p.width + i] = sum;
  }
}

// --- rows of any length: a block each, which reads them twice --------------------------------------------------------

template <class T>
__global__ void __launch_bounds__(kThreads)
    qk_norm_any_kernel(Layout s, const T* x, const T* __restrict__ q_weight, const T* __restrict__ k_weight, T* y,
                       float* __restrict__ rstd) {
  __shared__ float scratch[kWarp];
  const Part p = s.part[blockIdx.y];
  const int64_t row = blockIdx.x, at = s.at(p, row);
  if (row >= s.tokens * p.rows) return;  // a whole block
  if (blockIdx.y == 2) {
    for (int c = threadIdx.x; c < p.width; c += kThreads) y[at + c] = x[at + c];
    return;
  }
  const T* weight = blockIdx.y == 0 ? q_weight : k_weight;
  float square = 0;
  for (int c = threadIdx.x; c < p.width; c += kThreads) square = fmaf(to_float(x[at + c]), to_float(x[at + c]), square);
  square = block_reduce<kThreads>(square, Sum{}, scratch);
  const float scale = 1.f / sqrtf(square / static_cast<float>(p.width) + s.eps);
  if (threadIdx.x == 0) rstd[s.rstd_at(p, row)] = scale;
  for (int c = threadIdx.x; c < p.width; c += kThreads)
    y[at + c] = from_float<T>(to_float(x[at + c]) * scale * (to_float(weight[c]) + s.plus));
}

template <class T>
__global__ void __launch_bounds__(kThreads) qk_norm_backward_any_kernel(Layout s, Backward<T> io) {
  __shared__ float scratch[2][kWarp];
  const int part = blockIdx.y;
  const Part p = s.part[part];
  const int64_t rows = s.tokens * p.rows;
  float* dweight =
      part < 2 && io.partial(part) ? io.partial(part) + static_cast<int64_t>(blockIdx.x) * p.width : nullptr;
  for (int c = threadIdx.x; dweight && c < p.width; c += kThreads) dweight[c] = 0;  // a block may have no row
  int parity = 0;
  for (int64_t row = blockIdx.x; row < rows; row += gridDim.x, parity ^= 1) {
    const int64_t at = s.at(p, row);
    if (part == 2) {
      for (int c = threadIdx.x; c < p.width; c += kThreads) io.dx[at + c] = io.dy[at + c];
      continue;
    }
    const T* weight = io.weight(part);
    const float rstd = io.rstd[s.rstd_at(p, row)];
    float dot = 0;
    for (int c = threadIdx.x; c < p.width; c += kThreads) {
      const float n = to_float(io.x[at + c]) * rstd, d = to_float(io.dy[at + c]);
      if (dweight) dweight[c] += d * n;
      dot = fmaf(d * (to_float(weight[c]) + s.plus), n, dot);
    }
    const float mean = block_reduce<kThreads>(dot, Sum{}, scratch[parity]) / static_cast<float>(p.width);
    for (int c = threadIdx.x; c < p.width; c += kThreads) {
      const float n = to_float(io.x[at + c]) * rstd, g = to_float(io.dy[at + c]) * (to_float(weight[c]) + s.plus);
      io.dx[at + c] = from_float<T>(rstd * (g - n * mean));
    }
  }
}

/// Calls f(integral_constant<int, LANES>) with the lanes that hold a head; false if none do.
template <class F>
bool with_lanes(const QkNormOptions& o, int64_t head_dim, F&& f) {
  using std::integral_constant;
  if (o.across_heads || head_dim % kN != 0 || head_dim > kWarp * kN) return false;
  if (head_dim <= 32) f(integral_constant<int, 4>{});
  else if (head_dim <= 64) f(integral_constant<int, 8>{});
  else if (head_dim <= 128) f(integral_constant<int, 16>{});
  else f(integral_constant<int, 32>{});
  return true;
}

/// Rows of the longest part.
int64_t most_rows(const Layout& s) { return s.tokens * std::max(s.part[0].rows, s.part[1].rows); }

}  // namespace

void qk_norm_forward(const QkNormOptions& options, const Tensor& qkv, const Tensor& q_weight, const Tensor& k_weight,
                     const Tensor& y, const Tensor& rstd) {
  const Layout s = layout_of(qkv, options);
  const int64_t parts = y.raw() == qkv.raw() ? 2 : 3;  // in place the v heads are there already
  dispatch(qkv.dtype(), "qk_norm", [&](auto zero) {
    using T = decltype(zero);
    const bool wide = aligned16(as<T>(qkv), as<T>(q_weight), as<T>(k_weight), as<T>(y));
    if (wide && with_lanes(options, qkv.size(3), [&](auto lanes) {
          const int64_t blocks = std::min<int64_t>(8 * multiprocessors(), ceil_div(most_rows(s), kThreads / lanes()));
          launch({"qk_norm", bytes_of(qkv, y)}, qk_norm_kernel<lanes(), T>, Grid(blocks, parts), kThreads, 0, s,
                 as<const T>(qkv), as<const T>(q_weight), as<const T>(k_weight), as<T>(y), as<float>(rstd));
        }))
      return;
    launch({"qk_norm_any", bytes_of(qkv, y)}, qk_norm_any_kernel<T>, Grid(most_rows(s), parts), kThreads, 0, s,
           as<const T>(qkv), as<const T>(q_weight), as<const T>(k_weight), as<T>(y), as<float>(rstd));
  });
}

void qk_norm_backward(const QkNormOptions& options, const SavedQkNorm& saved, const Tensor& dy, const Tensor& dx,
                      const GradTarget& dq_weight, const GradTarget& dk_weight) {
  const Layout s = layout_of(saved.qkv, options);
  const int64_t parts = dx.raw() == dy.raw() ? 2 : 3;
  Tensor q_partial, k_partial;
  dispatch(dy.dtype(), "qk_norm_backward", [&](auto zero) {
    using T = decltype(zero);
    const auto prepare = [&](int64_t blocks) {
      q_partial = Tensor::empty({blocks, s.part[0].width}, DType::f32, dy.device());
      k_partial = Tensor::empty({blocks, s.part[1].width}, DType::f32, dy.device());
      return Backward<T>{.x = as<const T>(saved.qkv),
                         .q_weight = as<const T>(saved.q_weight),
                         .k_weight = as<const T>(saved.k_weight),
                         .rstd = as<const float>(saved.rstd),
                         .dy = as<const T>(dy),
                         .dx = as<T>(dx),
                         .q_partial = dq_weight.tensor.defined() ? as<float>(q_partial) : nullptr,
                         .k_partial = dk_weight.tensor.defined() ? as<float>(k_partial) : nullptr};
    };
    const Label label("qk_norm_backward", bytes_of(saved.qkv, dy, dx));
    const bool wide = aligned16(as<T>(saved.qkv), as<T>(saved.q_weight), as<T>(saved.k_weight), as<T>(dy), as<T>(dx));
    // Blocks of the shape and the card alone, so that the order of additions repeats; four rows per group at least.
    if (wide && with_lanes(options, dy.size(3), [&](auto lanes) {
          const int64_t blocks =
              std::min<int64_t>(4 * multiprocessors(), ceil_div(most_rows(s), 4 * (kThreads / lanes())));
          launch(label, qk_norm_backward_kernel<lanes(), T>, Grid(blocks, parts), kThreads, 0, s, prepare(blocks));
        }))
      return;
    const int64_t blocks = std::min<int64_t>(4 * multiprocessors(), most_rows(s));
    launch(label, qk_norm_backward_any_kernel<T>, Grid(blocks, parts), kThreads, 0, s, prepare(blocks));
  });
  if (dq_weight.tensor.defined()) add_partial_rows(q_partial, dq_weight.tensor, dq_weight.add);
  if (dk_weight.tensor.defined()) add_partial_rows(k_partial, dk_weight.tensor, dk_weight.add);
}

}  // namespace rw::cuda
