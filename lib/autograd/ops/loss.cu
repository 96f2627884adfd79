// Cross-entropy of rows of logits, with the gradient written over the logits:
//
//   nll = log(sum exp(x - max)) + max - x[target],   x <- exp(x - max) / sum - [v = target]
//
// With a soft cap x is cap tanh(z / cap) of the given z, and the gradient gets the factor 1 - tanh^2.
//
// Or, where the logits have to stay, with max and sum kept per row and the gradient made from them in backward.
#include "autograd/ops/cuda_ops.h"
#include "autograd/ops/loss.h"
#include "tensor/launch.cuh"

namespace rw::cuda {
namespace {

/// e^x for x <= 0. bf16 results need no more than the fast one (2 ulp and the rounding of x log2 e; 0 below 2^-126,
/// which spares four of its seven instructions: they, and not memory, would bound the kernels here).
template <class T>
__device__ __forceinline__ float exponential(float x) {
  if constexpr (std::is_same_v<T, b16>) {
    return exp2_fast(x * 1.44269504f);
  } else {
    return expf(x);
  }
}

/// tanh, as exact as the results need: for bf16 within 2e-7 absolutely.
template <class T>
__device__ __forceinline__ float tanh_of(float x) {
  if constexpr (std::is_same_v<T, b16>) return 1.f - __fdividef(2.f, __expf(2.f * x) + 1.f);
  return tanhf(x);
}

/// log(sum exp(x)) of some of a row's elements, as their maximum and the sum of exp(x - max): nothing overflows.
struct LogSum {
  float top = -INFINITY, sum = 0;
  /// What to subtract: the maximum, or anything finite where all elements are -infinity (or there are none).
  __device__ __forceinline__ float shift() const { return top == -INFINITY ? 0.f : top; }
};
/// Over a block, with one barrier; every thread gets the result. The order is fixed.
template <int THREADS>
__device__ __forceinline__ LogSum block_join(LogSum value, LogSum* scratch) {
  const auto over_warp = [](LogSum v) {
    LogSum joined;
    joined.top = warp_reduce(v.top, Max{});
    joined.sum = warp_reduce(v.sum * expf(v.top - joined.shift()), Sum{});
    return joined;
  };
  value = over_warp(value);
  const int lane = threadIdx.x % kWarp, warp = threadIdx.x / kWarp;
  if (lane == 0) scratch[warp] = value;
  __syncthreads();
  return over_warp(lane < THREADS / kWarp ? scratch[lane] : LogSum{});
}

/// The elements of a 16-byte access, packed as in memory.
template <class T>
struct Piece;
template <>
struct alignas(16) Piece<float> {
  static constexpr int kCount = 4;
  float value[4];
  __device__ __forceinline__ float operator[](int i) const { return value[i]; }
  __device__ __forceinline__ void set(int i, float a, float b) { value[i] = a, value[i + 1] = b; }
  __device__ __forceinline__ float max() const { return fmaxf(fmaxf(value[0], value[1]), fmaxf(value[2], value[3])); }
};
template <>
struct alignas(16) Piece<b16> {
  static constexpr int kCount = 8;
  uint32_t pair[4];
  __device__ __forceinline__ float operator[](int i) const {
    return __uint_as_float(i % 2 ? pair[i / 2] & 0xffff0000u : pair[i / 2] << 16);
  }
  __device__ __forceinline__ void set(int i, float a, float b) {
    const __nv_bfloat162 two = __floats2bfloat162_rn(a, b);
    pair[i / 2] = *reinterpret_cast<const uint32_t*>(&two);
  }
  __device__ __forceinline__ float max() const {  // two at a time
    const auto* two = reinterpret_cast<const __nv_bfloat162*>(pair);
    const __nv_bfloat162 top = __hmax2(__hmax2(two[0], two[1]), __hmax2(two[2], two[3]));
    return fmaxf(__low2float(top), __high2float(top));
  }
};

/// 16 bytes from global to shared memory, without passing through registers and without waiting.
__device__ __forceinline__ void copy_async(void* shared, const void* global) {
  const uint32_t to = static_cast<uint32_t>(__cvta_generic_to_shared(shared));
  asm volatile("cp.async.cg.shared.global [%0], [%1], 16;" ::"r"(to), "l"(global) : "memory");
}
__device__ __forceinline__ void wait_for_copies() {
  asm volatile("cp.async.commit_group;\ncp.async.wait_group 0;" ::: "memory");
}

// --- a row in registers, the next one on its way --------------------------------------------------------------------
//
// Bytes: logits read once and, with the gradient, written once. A row of 32000 is too long to have several
// in the registers of one multiprocessor, and with one alone the memory bus would idle while it is
// reduced; so the next row flows into shared memory meanwhile. Every thread copies, and later reads, its
// own pieces only: no barrier is needed for them.

template <int THREADS, int V, class T>
__global__ void __launch_bounds__(THREADS, THREADS <= 512 ? 1024 / THREADS : 1)
    cross_entropy_kernel(int64_t rows, int vocab, bool gradient, T* logits, const int32_t* __restrict__ targets,
                         float* __restrict__ nll) {
  constexpr int kCount = Piece<T>::kCount;
  extern __shared__ char waiting_bytes[];
  Piece<T>* waiting = reinterpret_cast<Piece<T>*>(waiting_bytes);  // [V * THREADS], as far as the row goes
  __shared__ LogSum scratch[2][kWarp];
  const int pieces = vocab / kCount;

  const auto prefetch = [&](int64_t row) {
    if (row >= rows) return;
#pragma unroll
    for (int v = 0; v < V; ++v) {
      const int p = v * THREADS + threadIdx.x;
      if (p < pieces) copy_async(&waiting[p], logits + row * vocab + static_cast<int64_t>(p) * kCount);
    }
  };

  prefetch(blockIdx.x);
  int parity = 0;
  for (int64_t row = blockIdx.x; row < rows; row += gridDim.x, parity ^= 1) {
    T* line = logits + row * vocab;
    const int32_t target = targets[row];
    const bool ignored = target == kIgnoreIndex, valid = target >= 0 && target < vocab;
    const float at_target = threadIdx.x == 0 && valid ? to_float(line[target]) : NAN;  // read before anyone writes

    wait_for_copies();
    Piece<T> mine[V];
    LogSum part;
#pragma unroll
    for (int v = 0; v < V; ++v) {
      const int p = v * THREADS + threadIdx.x;
      if (p < pieces) mine[v] = waiting[p];
    }
    prefetch(row + gridDim.x);
#pragma unroll
    for (int v = 0; v < V; ++v) {
      if (v * THREADS + threadIdx.x < pieces) part.top = fmaxf(part.top, mine[v].max());
    }
    // Each thread sums relative to its own maximum, so that the block has one barrier per row and not two.
    const float own = part.shift();
#pragma unroll
    for (int v = 0; v < V; ++v) {
      if (v * THREADS + threadIdx.x >= pieces) continue;
#pragma unroll
      for (int i = 0; i < kCount; ++i) part.sum += exponential<T>(mine[v][i] - own);
    }
    const LogSum whole = block_join<THREADS>(part, scratch[parity]);
    const float top = whole.top, sum = whole.sum;
    if (threadIdx.x == 0) nll[row] = ignored ? 0.f : logf(sum) + (top - at_target);
    if (!gradient) continue;
    const float inverse = 1.f / sum;
#pragma unroll
    for (int v = 0; v < V; ++v) {
      const int p = v * THREADS + threadIdx.x;
      if (p >= pieces) continue;
      const auto probability = [&](int i) { return exponential<T>(mine[v][i] - top) * inverse; };
      const int hit = target - p * kCount;  // where in this piece the target is, if it is
      Piece<T> out;
      if (ignored) {
#pragma unroll
        for (int i = 0; i < kCount; i += 2) out.set(i, 0.f, 0.f);
      } else if (hit >= 0 && hit < kCount) {
#pragma unroll
        for (int i = 0; i < kCount; i += 2)
          out.set(i, probability(i) - (hit == i ? 1.f : 0.f), probability(i + 1) - (hit == i + 1 ? 1.f : 0.f));
      } else {
#pragma unroll
        for (int i = 0; i < kCount; i += 2) out.set(i, probability(i), probability(i + 1));
      }
      *reinterpret_cast<Piece<T>*>(line + static_cast<int64_t>(p) * kCount) = out;
    }
  }
}

// --- any vocabulary: one pass for the sum, one for the gradient, the second partly from L2 --------------------------
//
// Without the gradient this is also the faster way for rows that would fit: nothing is held, so that many small blocks
// share a multiprocessor and one row's reduction hides behind the reads of the others.

// CAPPED: with a soft cap. Its tanh is computed once per pass.

template <int THREADS, int N, bool CAPPED, class T>
__global__ void __launch_bounds__(THREADS)
    cross_entropy_any_kernel(int64_t vocab, bool gradient, float cap, T* logits, const int32_t* __restrict__ targets,
                             float* __restrict__ nll, float2* __restrict__ stats) {
  __shared__ LogSum scratch[kWarp];
  T* line = logits + static_cast<int64_t>(blockIdx.x) * vocab;
  const int32_t target = targets[blockIdx.x];
  const bool ignored = target == kIgnoreIndex, valid = target >= 0 && target < vocab;
  float at_target = threadIdx.x == 0 && valid ? to_float(line[target]) : NAN;  // read before anyone writes
  if constexpr (CAPPED) at_target = cap * tanh_of<T>(at_target / cap);
  LogSum part;
#pragma unroll 2
  for (int64_t v = threadIdx.x * N; v < vocab; v += THREADS * N) {
    Vec<float, N> x = load_float<N>(line + v);
    if constexpr (CAPPED) {
#pragma unroll
      for (int i = 0; i < N; ++i) x.at[i] = cap * tanh_of<T>(x.at[i] / cap);
    }
    LogSum more = part;
#pragma unroll
    for (int i = 0; i < N; ++i) more.top = fmaxf(more.top, x.at[i]);
    const float shift = more.shift();
    if (more.top > part.top) more.sum = part.sum * exponential<T>(part.top - shift);  // rare after the first few
#pragma unroll
    for (int i = 0; i < N; ++i) more.sum += exponential<T>(x.at[i] - shift);
    part = more;
  }
  const LogSum whole = block_join<THREADS>(part, scratch);
  if (threadIdx.x == 0) {
    nll[blockIdx.x] = ignored ? 0.f : logf(whole.sum) + (whole.top - at_target);
    if (stats) stats[blockIdx.x] = make_float2(whole.top, whole.sum);
  }
  if (!gradient) return;
  const float inverse = 1.f / whole.sum;
#pragma unroll 2
  for (int64_t v = threadIdx.x * N; v < vocab; v += THREADS * N) {
    Vec<float, N> x = load_float<N>(line + v);
#pragma unroll
    for (int i = 0; i < N; ++i) {
      const float t = CAPPED ? tanh_of<T>(x.at[i] / cap) : 0.f, capped = CAPPED ? cap * t : x.at[i];
      float p = exponential<T>(capped - whole.top) * inverse - (v + i == target ? 1.f : 0.f);
      if constexpr (CAPPED) p *= 1.f - t * t;
      x.at[i] = ignored ? 0.f : p;
    }
    store_float<N>(line + v, x);
  }
}

// --- the gradient from each row's maximum and sum: logits read once, the gradient written once ----------------------

constexpr int kGradientThreads = 256;

template <int N, class T>
__global__ void __launch_bounds__(kGradientThreads)
    cross_entropy_gradient_kernel(int64_t vocab, float factor, bool per_row, const T* __restrict__ logits,
                                  const int32_t* __restrict__ targets, const float2* __restrict__ stats,
                                  const float* __restrict__ dnll, T* __restrict__ dlogits) {
  const int64_t row = blockIdx.x;
  const int32_t target = targets[row];
  const bool ignored = target == kIgnoreIndex;
  const float2 top_and_sum = stats[row];
  const float scale = factor * dnll[per_row ? row : 0], times = scale / top_and_sum.y;
#pragma unroll 4
  for (int64_t v = threadIdx.x * N; v < vocab; v += kGradientThreads * N) {
    const Vec<T, N> x = load<N>(logits + row * vocab + v);
    Vec<T, N> d;
#pragma unroll
    for (int i = 0; i < N; ++i) {
      const float p = exponential<T>(to_float(x.at[i]) - top_and_sum.x) * times - (v + i == target ? scale : 0.f);
      d.at[i] = from_float<T>(ignored ? 0.f : p);
    }
    store<N>(dlogits + row * vocab + v, d);
  }
}

/// y[r,c] = x[r,c] s[r]
template <int N, class T, class S>
__global__ void __launch_bounds__(256)
    scale_rows_kernel(int64_t n, uint32_t columns, const T* x, const S* __restrict__ s, T* y) {
  const int64_t i = (static_cast<int64_t>(blockIdx.x) * 256 + threadIdx.x) * N;
  if (i >= n) return;
  const float factor = to_float(s[i / columns]);
  Vec<float, N> v = load_float<N>(x + i);
#pragma unroll
  for (int j = 0; j < N; ++j) v.at[j] *= factor;
  store_float<N>(y + i, v);
}

}  // namespace

void cross_entropy_rows(const Tensor& logits, const Tensor& targets, bool gradient, const Tensor& nll,
                        const Tensor& stats, double soft_cap) {
  const int64_t rows = logits.size(0), vocab = logits.size(1), bytes = vocab * size_of(logits.dtype());
  const int64_t moved = (gradient ? 2 : 1) * logits.bytes();
  check(!gradient || !stats.defined(), "cross_entropy", "the gradient in place leaves nothing to make another from");
  dispatch(logits.dtype(), "cross_entropy", [&](auto zero) {
    using T = decltype(zero);
    const auto go = [&](auto threads, auto v) {
      const auto kernel = cross_entropy_kernel<threads(), v(), T>;
      const int64_t blocks = std::min(rows, resident_blocks("cross_entropy", kernel, threads(), bytes));
      launch({"cross_entropy", moved}, kernel, blocks, threads(), bytes, rows, vocab, gradient, as<T>(logits),
             as<int32_t>(targets), as<float>(nll));
    };
    using std::integral_constant;
    const int64_t pieces = bytes / 16;
    if (gradient && soft_cap == 0 && bytes % 16 == 0 && aligned16(as<T>(logits)) && pieces <= 8192 &&
        bytes + 1024 <= max_shared_bytes()) {
      if (pieces <= 512) return go(integral_constant<int, 128>{}, integral_constant<int, 4>{});
      if (pieces <= 2048) return go(integral_constant<int, 256>{}, integral_constant<int, 8>{});
      if (pieces <= 4096) return go(integral_constant<int, 512>{}, integral_constant<int, 8>{});
      return go(integral_constant<int, 1024>{}, integral_constant<int, 8>{});
    }
    dispatch_width(vocab % 8 == 0 && aligned16(as<T>(logits)), [&](auto width) {
      const auto run = [&](auto threads, auto capped) {
        launch({gradient ? "cross_entropy_any" : "cross_entropy_loss", moved},
               cross_entropy_any_kernel<threads(), width(), capped(), T>, rows, threads(), 0, vocab, gradient, soft_cap,
               as<T>(logits), as<int32_t>(targets), as<float>(nll), as<float2>(stats));
      };
      const auto any = [&](auto threads) {
        if (soft_cap != 0) run(threads, std::true_type{});
        else run(threads, std::false_type{});
      };
      // With the gradient the second pass should find its row in L2: few rows at a time.
      if (!gradient && pieces <= 8192) any(integral_constant<int, 256>{});
      else any(integral_constant<int, 1024>{});
    });
  });
}

void cross_entropy_gradient(const Tensor& logits, const Tensor& targets, const Tensor& stats, const Tensor& dnll,
                            double factor, const Tensor& dlogits) {
  check(dnll.dtype() == DType::f32, "cross_entropy", "the loss's gradient must be f32, got ", dnll.dtype());
  const int64_t rows = logits.size(0), vocab = logits.size(1);
  dispatch(logits.dtype(), "cross_entropy", [&](auto zero) {
    using T = decltype(zero);
    dispatch_width(vocab % 8 == 0 && aligned16(as<T>(logits), as<T>(dlogits)), [&](auto width) {
      launch({"cross_entropy_gradient", bytes_of(logits, dlogits)}, cross_entropy_gradient_kernel<width(), T>, rows,
             kGradientThreads, 0, vocab, factor, dnll.numel() == rows && rows > 1, as<const T>(logits),
             as<int32_t>(targets), as<float2>(stats), as<float>(dnll), as<T>(dlogits));
    });
  });
}

void scale_rows(const Tensor& x, const Tensor& s, const Tensor& y) {
  const int64_t rows = s.numel(), columns = rows ? x.numel() / rows : 0;
  dispatch(x.dtype(), "scale_rows", [&](auto zero) {
    dispatch(s.dtype(), "scale_rows", [&](auto s_zero) {
      using T = decltype(zero);
      using S = decltype(s_zero);
      dispatch_width(columns % 8 == 0 && aligned16(as<T>(x), as<T>(y)), [&](auto width) {
        launch({"scale_rows", bytes_of(x, y)}, scale_rows_kernel<width(), T, S>, ceil_div(x.numel(), 256 * width()),
               256, 0, x.numel(), columns, as<T>(x), as<S>(s), as<T>(y));
      });
    });
  });
}

}  // namespace rw::cuda
