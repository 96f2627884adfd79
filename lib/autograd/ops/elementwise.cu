// Elementwise kernels: every input read once, the output written once, 8 elements per thread. All are bound by memory.
//
//   y = f(x...)    computed in f32, rounded once
#include "autograd/ops/cuda_ops.h"
#include "tensor/launch.cuh"

namespace rw::cuda {
namespace {

constexpr int kThreads = 256;

/// y[i] = f(i, inputs[i]...). No __restrict__: y may be one of the inputs, and each thread reads before it writes.
template <int N, class Y, class F, class... X>
__global__ void __launch_bounds__(kThreads) map_kernel(int64_t n, F f, Y* y, const X*... x) {
  const int64_t begin = (static_cast<int64_t>(blockIdx.x) * kThreads + threadIdx.x) * N;
  if (begin + N <= n) {
    [&](auto... loaded) {
      Vec<float, N> out;
#pragma unroll
      for (int i = 0; i < N; ++i) out.at[i] = f(begin + i, to_float(loaded.at[i])...);
      store_float<N>(y + begin, out);
    }(load<N>(x + begin)...);
  } else {
    for (int64_t i = begin; i < n; ++i) y[i] = from_float<Y>(f(i, to_float(x[i])...));
  }
}

template <class Y, class F, class... X>
void map(const char* name, int64_t n, F f, Y* y, const X*... x) {
  dispatch_width(aligned16(y, x...), [&](auto width) {
    launch(name, map_kernel<width(), Y, F, X...>, ceil_div(n, kThreads * width()), kThreads, 0, n, f, y, x...);
  });
}

// Functors rather than lambdas, so that kernels have readable names in a profile.
struct Add {
  __device__ float operator()(int64_t, float a, float b) const { return a + b; }
};
struct Sub {
  __device__ float operator()(int64_t, float a, float b) const { return a - b; }
};
struct Mul {
  __device__ float operator()(int64_t, float a, float b) const { return a * b; }
};
struct Exp {
  __device__ float operator()(int64_t, float x) const { return expf(x); }
};
struct Log {
  __device__ float operator()(int64_t, float x) const { return logf(x); }
};
struct Tanh {
  __device__ float operator()(int64_t, float x) const { return tanhf(x); }
};
struct Silu {  // e^-x overflows to infinity for very negative x, and x / infinity is the right limit, -0
  __device__ float operator()(int64_t, float x) const { return x / (1.f + expf(-x)); }
};
struct ExpBackward {
  __device__ float operator()(int64_t, float y, float dy) const { return dy * y; }
};
struct LogBackward {
  __device__ float operator()(int64_t, float x, float dy) const { return dy / x; }
};
struct TanhBackward {
  __device__ float operator()(int64_t, float y, float dy) const { return dy * (1.f - y * y); }
};
struct SiluBackward {
  __device__ float operator()(int64_t, float x, float dy) const {
    const float s = 1.f / (1.f + expf(-x));
    return dy * s * (1.f + x * (1.f - s));
  }
};
struct Scale {
  float factor;
  __device__ float operator()(int64_t, float x) const { return factor * x; }
};
template <class S>
struct AddScaled {
  float factor;
  const S* scalar;  // read on the device: its value is not known when the kernel is launched
  __device__ float operator()(int64_t, float to, float from) const {
    return fmaf(scalar ? factor * to_float(*scalar) : factor, from, to);
  }
};
template <class T>
struct AddBias {
  const T* bias;
  uint32_t columns;
  __device__ float operator()(int64_t i, float x) const {
    return x + to_float(bias[static_cast<uint64_t>(i) % columns]);
  }
};

// --- column sums -----------------------------------------------------------------------------------------------------
//
//   out[c] (+)= sum over rows of x[row,c]
//
// Stage 1 gives one partial row per slab of rows, stage 2 adds the slabs up in order: no atomics, so results repeat.
// Bytes: x once; the partial sums are at most 1/64 of it for many rows.

constexpr int kColumns = 32, kRowLanes = 8;  // a block covers 32 columns with 8 rows at a time

template <class X>
__global__ void __launch_bounds__(kColumns* kRowLanes)
    column_partials_kernel(int64_t rows, int64_t columns, int64_t slab, const X* __restrict__ x, float* __restrict__ partial) {
  __shared__ float sums[kRowLanes][kColumns];
  const int64_t column_blocks = (columns + kColumns - 1) / kColumns;
  const int64_t c = blockIdx.x % column_blocks * kColumns + threadIdx.x % kColumns;
  const int64_t part = blockIdx.x / column_blocks;
  const int lane = threadIdx.x / kColumns;
  const int64_t end = min(rows, (part + 1) * slab);
  float sum = 0;
  if (c < columns) {
#pragma unroll 4
    for (int64_t r = part * slab + lane; r < end; r += kRowLanes) sum += to_float(x[r * columns + c]);
  }
  sums[lane][threadIdx.x % kColumns] = sum;
  __syncthreads();
  if (lane == 0 && c < columns) {
    for (int i = 1; i < kRowLanes; ++i) sum += sums[i][threadIdx.x];
    partial[part * columns + c] = sum;
  }
}

template <class Out>
__global__ void __launch_bounds__(kColumns* kRowLanes)
    column_totals_kernel(int64_t parts, int64_t columns, bool add, const float* __restrict__ partial, Out* __restrict__ out) {
  __shared__ double sums[kRowLanes][kColumns];
  const int64_t c = static_cast<int64_t>(blockIdx.x) * kColumns + threadIdx.x % kColumns;
  const int lane = threadIdx.x / kColumns;
  double sum = 0;
  if (c < columns) {
#pragma unroll 4
    for (int64_t p = lane; p < parts; p += kRowLanes) sum += static_cast<double>(partial[p * columns + c]);
  }
  sums[lane][threadIdx.x % kColumns] = sum;
  __syncthreads();
  if (lane == 0 && c < columns) {
    for (int i = 1; i < kRowLanes; ++i) sum += sums[i][threadIdx.x];
    out[c] = from_float<Out>(static_cast<float>(sum + (add ? static_cast<double>(to_float(out[c])) : 0.0)));
  }
}

}  // namespace

void binary(Binary op, const Tensor& a, const Tensor& b, const Tensor& y) {
  dispatch(a.dtype(), "binary", [&](auto zero) {
    using T = decltype(zero);
    const auto go = [&](const char* name, auto f) { map(name, y.numel(), f, as<T>(y), as<const T>(a), as<const T>(b)); };
    switch (op) {
      case Binary::add: return go("add", Add{});
      case Binary::sub: return go("sub", Sub{});
      case Binary::mul: return go("mul", Mul{});
    }
  });
}

void unary(Unary op, const Tensor& x, const Tensor& y) {
  dispatch(x.dtype(), "unary", [&](auto zero) {
    using T = decltype(zero);
    const auto go = [&](const char* name, auto f) { map(name, y.numel(), f, as<T>(y), as<const T>(x)); };
    switch (op) {
      case Unary::exp: return go("exp", Exp{});
      case Unary::log: return go("log", Log{});
      case Unary::tanh: return go("tanh", Tanh{});
      case Unary::silu: return go("silu", Silu{});
    }
  });
}

void unary_backward(Unary op, const Tensor& x, const Tensor& y, const Tensor& dy, const Tensor& dx) {
  dispatch(dy.dtype(), "unary_backward", [&](auto zero) {
    using T = decltype(zero);
    const auto go = [&](const char* name, auto f, const Tensor& from) {
      map(name, dx.numel(), f, as<T>(dx), as<const T>(from), as<const T>(dy));
    };
    switch (op) {
      case Unary::exp: return go("exp_backward", ExpBackward{}, y);
      case Unary::log: return go("log_backward", LogBackward{}, x);
      case Unary::tanh: return go("tanh_backward", TanhBackward{}, y);
      case Unary::silu: return go("silu_backward", SiluBackward{}, x);
    }
  });
}

void scale(const Tensor& x, double factor, const Tensor& y) {
  dispatch(x.dtype(), "scale", [&](auto zero) {
    using T = decltype(zero);
    map("scale", y.numel(), Scale{static_cast<float>(factor)}, as<T>(y), as<const T>(x));
  });
}

void add_scaled(const Tensor& to, const Tensor& from, double factor, const Tensor& scalar) {
  dispatch(to.dtype(), "add_scaled", [&](auto to_zero) {
    dispatch(from.dtype(), "add_scaled", [&](auto from_zero) {
      dispatch(scalar.defined() ? scalar.dtype() : DType::f32, "add_scaled", [&](auto scalar_zero) {
        using To = decltype(to_zero);
        using From = decltype(from_zero);
        using S = decltype(scalar_zero);
        map("add_scaled", to.numel(), AddScaled<S>{static_cast<float>(factor), as<const S>(scalar)}, as<To>(to), as<const To>(to),
            as<const From>(from));
      });
    });
  });
}

void add_bias(const Tensor& x, const Tensor& bias, const Tensor& y) {
  dispatch(x.dtype(), "add_bias", [&](auto zero) {
    using T = decltype(zero);
    map("add_bias", y.numel(), AddBias<T>{as<const T>(bias), static_cast<uint32_t>(bias.numel())}, as<T>(y), as<const T>(x));
  });
}

void column_sums(const Tensor& x, const Tensor& out, bool add) {
  const int64_t columns = out.numel(), rows = columns ? x.numel() / columns : 0;
  if (columns == 0) return;
  const int64_t column_blocks = ceil_div(columns, kColumns);
  // Slabs of at least 64 rows, and about 2048 blocks; from the shape alone, so that the order of additions is the shape's.
  const int64_t slab = std::max<int64_t>(64, ceil_div(rows, ceil_div(2048, column_blocks)));
  const int64_t parts = ceil_div(rows, slab);
  const Tensor partial = Tensor::empty({parts, columns}, DType::f32, x.device());
  dispatch(x.dtype(), "column_sums", [&](auto zero) {
    using X = decltype(zero);
    launch("column_partials", column_partials_kernel<X>, parts * column_blocks, kColumns * kRowLanes, 0, rows, columns, slab,
           as<const X>(x), as<float>(partial));
  });
  dispatch(out.dtype(), "column_sums", [&](auto zero) {
    using Out = decltype(zero);
    launch("column_totals", column_totals_kernel<Out>, column_blocks, kColumns * kRowLanes, 0, parts, columns, add,
           as<const float>(partial), as<Out>(out));
  });
}

}  // namespace rw::cuda
