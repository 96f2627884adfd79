// AdamW over the flat arena (the formula is in adamw.h): the norm in one read of the
// gradient, then everything else in one pass.
#include <cstring>

#include "nn/cuda_optim.h"
#include "nn/moment_codes.h"
#include "nn/split_master.h"
#include "tensor/launch.cuh"

namespace rw::cuda {
namespace {

constexpr int kThreads = 256;
constexpr int kN = 4;                  // elements per 16-byte access
constexpr int kBlock = kThreads * kN;  // elements per block of the update

// --- |grad|^2: 4 bytes per parameter, or 2 --------------------------------------------------------------------------
//
// f64 from the first square on: a sum of billions of squares, and converting costs nothing beside the reading.

constexpr int kNormBlocks = 1056;  // independent of the card, so that the order of additions is too
constexpr int kUnroll = 4;

/// N elements are one access of 16 bytes.
template <int N, class G>
__global__ void __launch_bounds__(kThreads)
    squares_kernel(int64_t n, const G* __restrict__ grad, double* __restrict__ partial) {
  __shared__ double scratch[kThreads / kWarp];
  const int64_t step = static_cast<int64_t>(gridDim.x) * kThreads * N;
  double sum = 0;
  int64_t i = (static_cast<int64_t>(blockIdx.x) * kThreads + threadIdx.x) * N;
  const auto add = [&](const Vec<G, N>& g) {
#pragma unroll
    for (int j = 0; j < N; ++j) {
      const double x = static_cast<double>(to_float(g.at[j]));
      sum = fma(x, x, sum);
    }
  };
  for (; i + (kUnroll - 1) * step + N <= n; i += kUnroll * step) {
    Vec<G, N> g[kUnroll];
#pragma unroll
    for (int u = 0; u < kUnroll; ++u) g[u] = load<N>(grad + i + u * step);
#pragma unroll
    for (int u = 0; u < kUnroll; ++u) add(g[u]);
  }
  for (; i + N <= n; i += step) add(load<N>(grad + i));
  for (; i < n; ++i) {  // the tail: fewer than N
    const double x = static_cast<double>(to_float(grad[i]));
    sum = fma(x, x, sum);
  }
  sum = block_reduce<kThreads>(sum, Sum{}, scratch);
  if (threadIdx.x == 0) partial[blockIdx.x] = sum;
}

__global__ void __launch_bounds__(kThreads)
    squares_total_kernel(int blocks, const double* __restrict__ partial, double* result) {
  __shared__ double scratch[kThreads / kWarp];
  double sum = 0;
  for (int i = threadIdx.x; i < blocks; i += kThreads) sum += partial[i];
  sum = block_reduce<kThreads>(sum, Sum{}, scratch);
  if (threadIdx.x == 0) result[0] = sum;
}

// --- the update ------------------------------------------------------------------------------------------------------
//
// Reads 16 bytes per parameter and writes 16 (master, m, v, zeroed gradient) and 2 for the bf16 copy: 34. A bf16
// gradient makes it 30, split masters, whose copy is their upper half, 32, both 28.

__global__ void scalars_kernel(AdamWScalars values, AdamWScalars* to) { *to = values; }

__device__ __forceinline__ float joined(uint16_t high, int16_t low) { return __uint_as_float(join_float({high, low})); }

/// A thread's part of the moments. F32 is read and written as it is, which keeps the bits of what was there before.
struct MomentPointers {
  void *m, *v;
  float *m_scales, *v_scales;  // of 8 bits
};

constexpr int kPeers = kMomentBlock / kN;  // threads that share scales: half a warp

template <MomentFormat FORMAT>
struct Moments {
  using Word = std::conditional_t<FORMAT == MomentFormat::f32, float,
                                  std::conditional_t<FORMAT == MomentFormat::bf16, uint16_t, uint8_t>>;

  /// Elements [begin, begin + kN), of which `count` exist.
  static __device__ void load_part(const MomentPointers& at, int64_t begin, int count, Vec<float, kN>& m,
                                   Vec<float, kN>& v) {
    const Word *pm = static_cast<const Word*>(at.m) + begin, *pv = static_cast<const Word*>(at.v) + begin;
    Vec<Word, kN> wm{}, wv{};
    if (count == kN) {
      wm = load<kN>(pm), wv = load<kN>(pv);
    } else {
      for (int j = 0; j < count; ++j) wm.at[j] = pm[j], wv.at[j] = pv[j];
    }
    if constexpr (FORMAT == MomentFormat::f32) {
      m = wm, v = wv;
    } else if constexpr (FORMAT == MomentFormat::bf16) {
#pragma unroll
      for (int j = 0; j < kN; ++j) {
        m.at[j] = __uint_as_float(static_cast<uint32_t>(wm.at[j]) << 16);
        v.at[j] = __uint_as_float(static_cast<uint32_t>(wv.at[j]) << 16);
      }
    } else {
      const bool there = count > 0;
      const float step = (there ? at.m_scales[begin / kMomentBlock] : 0.f) / 127.f;
      const int32_t base = square_base(__float_as_uint(there ? at.v_scales[begin / kMomentBlock] : 0.f));
#pragma unroll
      for (int j = 0; j < kN; ++j) {
        m.at[j] = static_cast<float>(static_cast<int8_t>(wm.at[j])) * step;
        v.at[j] = __uint_as_float(square_bits(wv.at[j], base));
      }
    }
  }

  /// All threads of a warp come here in 8 bits, also those with nothing to write; what does not exist must be zero.
  static __device__ void store_part(const MomentPointers& at, int64_t begin, int count, uint32_t draw,
                                    const Vec<float, kN>& m, const Vec<float, kN>& v) {
    Vec<Word, kN> wm, wv;
    if constexpr (FORMAT == MomentFormat::f32) {
      wm = m, wv = v;
    } else if constexpr (FORMAT == MomentFormat::bf16) {
#pragma unroll
      for (int j = 0; j < kN; ++j) {
        const uint32_t random = moment_bits(draw, begin + j);
        wm.at[j] = moment_bf16(__float_as_uint(m.at[j]), random);
        wv.at[j] = moment_bf16(__float_as_uint(v.at[j]), random >> 16);
      }
    } else {
      float most_m = 0, most_v = 0;
#pragma unroll
      for (int j = 0; j < kN; ++j) most_m = fmaxf(most_m, fabsf(m.at[j])), most_v = fmaxf(most_v, v.at[j]);
#pragma unroll
      for (int peer = kPeers / 2; peer > 0; peer /= 2) {
        most_m = fmaxf(most_m, __shfl_xor_sync(0xffffffffu, most_m, peer));
        most_v = fmaxf(most_v, __shfl_xor_sync(0xffffffffu, most_v, peer));
      }
      const float steps = most_m > 0.f ? 127.f / most_m : 0.f;
      const int32_t base = square_base(__float_as_uint(most_v));
#pragma unroll
      for (int j = 0; j < kN; ++j) {
        const uint32_t random = moment_bits(draw, begin + j);
        wm.at[j] = static_cast<uint8_t>(moment_code(m.at[j] * steps, random));
        wv.at[j] = static_cast<uint8_t>(square_code(__float_as_uint(v.at[j]), base, random >> 13));
      }
      if (count > 0 && begin % kMomentBlock == 0) {
        at.m_scales[begin / kMomentBlock] = most_m;
        at.v_scales[begin / kMomentBlock] = most_v;
      }
    }
    Word *pm = static_cast<Word*>(at.m) + begin, *pv = static_cast<Word*>(at.v) + begin;
    if (count == kN) {
      store<kN>(pm, wm), store<kN>(pv, wv);
    } else {
      for (int j = 0; j < count; ++j) pm[j] = wm.at[j], pv[j] = wv.at[j];
    }
  }
};

/// SPLIT: masters are `high` and `low`; otherwise `master`, whose rounded copy goes to `high` unless that is null.
template <bool SPLIT, class G, MomentFormat FORMAT>
__global__ void __launch_bounds__(kThreads)
    adamw_kernel(int64_t n, float* __restrict__ master, uint16_t* __restrict__ high, int16_t* __restrict__ low,
                 G* __restrict__ grad, MomentPointers moments, const AdamWSegment* __restrict__ segments,
                 const int32_t* __restrict__ first_segment, const AdamWScalars* __restrict__ scalars,
                 const double* __restrict__ squared_norm) {
  const int64_t begin = static_cast<int64_t>(blockIdx.x) * kBlock + threadIdx.x * kN;
  if (FORMAT != MomentFormat::int8 && begin >= n) return;
  const bool whole = begin + kN <= n;
  const int count = whole ? kN : begin < n ? static_cast<int>(n - begin) : 0;
  Vec<float, kN> p, mi, vi;
  Vec<uint16_t, kN> upper;
  Vec<int16_t, kN> lower;
  Vec<G, kN> g;
  if (whole) {  // on their way before anything else is looked up
    if constexpr (SPLIT) upper = load<kN>(high + begin), lower = load<kN>(low + begin);
    else p = load<kN>(master + begin);
    g = load<kN>(grad + begin);
  } else {
    for (int j = 0; j < kN; ++j) {
      const bool inside = begin + j < n;
      if constexpr (SPLIT) upper.at[j] = inside ? high[begin + j] : 0, lower.at[j] = inside ? low[begin + j] : 0;
      else p.at[j] = inside ? master[begin + j] : 0.f;
      g.at[j] = inside ? grad[begin + j] : from_float<G>(0.f);
    }
  }
  Moments<FORMAT>::load_part(moments, begin, count, mi, vi);
  const AdamWScalars s = *scalars;
  const double square = *squared_norm;
  const float norm = static_cast<float>(sqrt(square)) * fabsf(s.grad_scale);
  const bool finite = isfinite(square);
  const float scale = s.grad_scale * (s.clip > 0.f ? fminf(1.f, s.clip / (norm + 1e-6f)) : 1.f);
  const float root = rsqrtf(s.correction2);

  if constexpr (SPLIT) {
#pragma unroll
    for (int j = 0; j < kN; ++j) p.at[j] = joined(upper.at[j], lower.at[j]);
  }

  int at = first_segment[blockIdx.x];
  AdamWSegment segment = segments[at];
  int64_t next = segments[at + 1].offset;
  Vec<float, kN> out = p;
#pragma unroll
  for (int j = 0; j < kN; ++j) {
    while (begin + j >= next && begin + j < n) {  // most blocks lie in one segment and never get in here
      segment = segments[++at];
      next = segments[at + 1].offset;
    }
    const float lr = s.lr * segment.lr_scale, shrink = 1.f - lr * s.weight_decay * segment.decay,
                rate = lr / s.correction1;
    const float d = to_float(g.at[j]) * scale;
    mi.at[j] = finite ? s.beta1 * mi.at[j] + (1.f - s.beta1) * d : mi.at[j];
    vi.at[j] = finite ? s.beta2 * vi.at[j] + (1.f - s.beta2) * d * d : vi.at[j];
    // One rounding, said outright: left to the compiler, it is one or two, depending on the form of the master.
    out.at[j] = finite ? fmaf(p.at[j], shrink, -(rate * mi.at[j] / (sqrtf(vi.at[j]) * root + s.eps))) : p.at[j];
  }
  if constexpr (SPLIT) {
#pragma unroll
    for (int j = 0; j < kN; ++j) {
      const SplitFloat parts = split_float(__float_as_uint(out.at[j]));
      upper.at[j] = parts.high, lower.at[j] = parts.low;
    }
  }
  b16* const compute = reinterpret_cast<b16*>(high);
  if (whole) {
    if constexpr (SPLIT) store<kN>(high + begin, upper), store<kN>(low + begin, lower);
    else store<kN>(master + begin, out);
    store<kN>(grad + begin, Vec<G, kN>{});
    if (!SPLIT && compute) store_float<kN>(compute + begin, out);
  } else {
    for (int j = 0; j < kN && begin + j < n; ++j) {
      if constexpr (SPLIT) high[begin + j] = upper.at[j], low[begin + j] = lower.at[j];
      else master[begin + j] = out.at[j];
      grad[begin + j] = from_float<G>(0.f);
      if (!SPLIT && compute) compute[begin + j] = from_float<b16>(out.at[j]);
    }
  }
  if (finite) Moments<FORMAT>::store_part(moments, begin, count, s.draw, mi, vi);  // the same for all threads
}

}  // namespace

AdamWTable adamw_table(const std::vector<AdamWSegment>& segments, int64_t numel, Device device) {
  check(!segments.empty() && segments[0].offset == 0, "adamw", "the first segment must start at 0");
  for (size_t i = 1; i < segments.size(); ++i) {
    check(segments[i].offset > segments[i - 1].offset && segments[i].offset < numel, "adamw", "segment ", i,
          " starts at ", segments[i].offset, ", the one before it at ", segments[i - 1].offset, ", of ", numel,
          " elements");
  }
  std::vector<AdamWSegment> all = segments;
  all.push_back({numel, 0, 0});
  const int64_t words = static_cast<int64_t>(all.size() * sizeof(AdamWSegment) / 4);
  std::vector<int32_t> bytes(static_cast<size_t>(words)), first;
  std::memcpy(bytes.data(), all.data(), all.size() * sizeof(AdamWSegment));
  for (int64_t begin = 0, at = 0; begin < numel; begin += kBlock) {
    while (all[static_cast<size_t>(at) + 1].offset <= begin) ++at;
    first.push_back(static_cast<int32_t>(at));
  }
  return {Tensor::from(bytes).to(device), Tensor::from(first).to(device)};
}

void set_adamw_scalars(const AdamWScalars& values, const Tensor& scalars) {
  check_shape("adamw", "scalars", scalars, {kAdamWScalars});
  launch("adamw_scalars", scalars_kernel, 1, 1, 0, values, reinterpret_cast<AdamWScalars*>(as<float>(scalars)));
}

void squared_norm(const Tensor& grad, const Tensor& result) {
  check(result.dtype() == DType::f64, "squared_norm", "expected an f64 result, got ", result.dtype());
  check(aligned16(grad.raw()), "squared_norm", "grad must be 16-byte aligned");
  dispatch(grad.dtype(), "squared_norm", [&](auto zero) {
    using G = decltype(zero);
    constexpr int kEach = 16 / sizeof(G);
    const int64_t blocks =
        std::min<int64_t>(kNormBlocks, std::max<int64_t>(1, ceil_div(grad.numel(), kThreads * kEach)));
    const Tensor partial = Tensor::empty({blocks}, DType::f64, grad.device());
    launch({"squared_norm", grad.bytes()}, squares_kernel<kEach, G>, blocks, kThreads, 0, grad.numel(), as<G>(grad),
           as<double>(partial));
    launch("squared_norm_total", squares_total_kernel, 1, kThreads, 0, blocks, as<double>(partial), as<double>(result));
  });
}

namespace {

MomentFormat format_of(const AdamWMoments& moments) {
  return moments.m_scales.defined()         ? MomentFormat::int8
         : moments.m.dtype() == DType::bf16 ? MomentFormat::bf16
                                            : MomentFormat::f32;
}

template <class F>
void dispatch_moments(MomentFormat format, F&& f) {
  switch (format) {
    case MomentFormat::f32:
      return f(std::integral_constant<MomentFormat, MomentFormat::f32>{});
    case MomentFormat::bf16:
      return f(std::integral_constant<MomentFormat, MomentFormat::bf16>{});
    case MomentFormat::int8:
      return f(std::integral_constant<MomentFormat, MomentFormat::int8>{});
  }
}

/// Either form of the update: `master` is undefined for split masters, `low` otherwise.
template <bool SPLIT>
void adamw_launch(const Tensor& master, const Tensor& high, const Tensor& low, const Tensor& grad,
                  const AdamWMoments& moments, const AdamWTable& table, const Tensor& scalars,
                  const Tensor& squared_norm) {
  const int64_t n = grad.numel();
  const auto [m, v, m_scales, v_scales] = moments;
  check(aligned16(as<char>(master), as<char>(high), as<char>(low), grad.raw(), m.raw(), v.raw()), "adamw",
        "the arena must be 16-byte aligned");
  check(table.first_segment.numel() == ceil_div(n, kBlock), "adamw", "the table was made for another arena");
  const int64_t bytes = 2 * bytes_of(master, low, grad, m, v, m_scales, v_scales) + (SPLIT ? 2 : 1) * bytes_of(high);
  const MomentPointers pointers{m.raw(), v.raw(), as<float>(m_scales), as<float>(v_scales)};
  dispatch(grad.dtype(), "adamw", [&](auto zero) {
    using G = decltype(zero);
    dispatch_moments(format_of(moments), [&](auto format) {
      launch({"adamw", bytes}, adamw_kernel<SPLIT, G, format()>, ceil_div(n, kBlock), kThreads, 0, n, as<float>(master),
             as<uint16_t>(high), as<int16_t>(low), as<G>(grad), pointers,
             reinterpret_cast<const AdamWSegment*>(table.segments.raw()), as<int32_t>(table.first_segment),
             reinterpret_cast<const AdamWScalars*>(scalars.raw()), as<double>(squared_norm));
    });
  });
}

/// Errors: a tensor of another dtype than `dtype` or length than n.
void check_flat(const char* argument, const Tensor& t, DType dtype, int64_t n) {
  check(t.defined() && t.dtype() == dtype && t.numel() == n, "adamw", argument, ": expected ", dtype, " [", n,
        "], got ", t.dtype(), " ", t.shape());
}

void check_moments(const AdamWMoments& moments, int64_t n) {
  const MomentFormat format = format_of(moments);
  const int64_t blocks = ceil_div(n, kMomentBlock);
  const bool codes = format == MomentFormat::int8;
  const DType dtype = codes ? DType::i32 : format == MomentFormat::bf16 ? DType::bf16 : DType::f32;
  check_flat("m", moments.m, dtype, codes ? blocks * kMomentBlock / 4 : n);
  check_flat("v", moments.v, dtype, codes ? blocks * kMomentBlock / 4 : n);
  if (!codes) return;
  check_flat("m_scales", moments.m_scales, DType::f32, blocks);
  check_flat("v_scales", moments.v_scales, DType::f32, blocks);
}

}  // namespace

void adamw(const Tensor& master, const Tensor& grad, const AdamWMoments& moments, const Tensor& compute,
           const AdamWTable& table, const Tensor& scalars, const Tensor& squared_norm) {
  const int64_t n = master.numel();
  check_flat("master", master, DType::f32, n);
  check_flat("grad", grad, grad.dtype(), n);
  check_moments(moments, n);
  if (compute.defined()) check_flat("compute", compute, DType::bf16, n);
  adamw_launch<false>(master, compute, Tensor(), grad, moments, table, scalars, squared_norm);
}

void adamw_split(const Tensor& high, const Tensor& low, const Tensor& grad, const AdamWMoments& moments,
                 const AdamWTable& table, const Tensor& scalars, const Tensor& squared_norm) {
  const int64_t n = high.numel();
  check_flat("high", high, DType::bf16, n);
  check_flat("low", low, DType::i32, (n + 1) / 2);
  check_flat("grad", grad, grad.dtype(), n);
  check_moments(moments, n);
  adamw_launch<true>(Tensor(), high, low, grad, moments, table, scalars, squared_norm);
}

}  // namespace rw::cuda
