// Elementwise kernels: every input read once, the output written once, 8 elements per thread. All are bound by memory.
//
//   y = f(x...)    computed in f32, rounded once
#include "autograd/ops/column_sums.cuh"
#include "autograd/ops/cuda_ops.h"
#include "autograd/ops/detail/map.cuh"
#include "tensor/launch.cuh"

namespace rw::cuda {
namespace {

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
struct SoftCap {
  float cap;
  __device__ float operator()(int64_t, float x) const { return cap * tanhf(x / cap); }
};
struct SoftCapBackward {
  float cap;
  __device__ float operator()(int64_t, float y, float dy) const {
    const float t = y / cap;
    return dy * (1.f - t * t);
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
constexpr int kBiasThreads = 256;

/// y[r,c] = x[r,c] + bias[c]; y may be x. Bytes: x and y once each, bias from L1. The division is in 32 bits.
template <int N, class T>
__global__ void __launch_bounds__(kBiasThreads)
    add_bias_kernel(uint32_t vectors, uint32_t per_row, const T* x, const T* __restrict__ bias, T* y) {
  const uint32_t vector = blockIdx.x * kBiasThreads + threadIdx.x;
  if (vector >= vectors) return;
  const Vec<float, N> b = load_float<N>(bias + static_cast<int64_t>(vector % per_row) * N);
  Vec<float, N> v = load_float<N>(x + static_cast<int64_t>(vector) * N);
#pragma unroll
  for (int i = 0; i < N; ++i) v.at[i] += b.at[i];
  store_float<N>(y + static_cast<int64_t>(vector) * N, v);
}

// --- column sums ----------------------------------------------------------------------------------------------------
//
//   out[c] (+)= sum over rows of x[row,c]
//
// In two stages (column_sums.cuh). Bytes: x once; the partial sums are at most 1/64 of it for many rows.

/// N elements of x from `at` on.
template <int N, class X>
struct Elements {
  const X* x;
  __device__ Vec<float, N> operator()(int64_t at) const { return load_float<N>(x + at); }
};

constexpr int kTotalRows = 32;  // many rows at a time: the partial rows are few, and latency is all that counts

template <class Out>
__global__ void __launch_bounds__(kLanes* kTotalRows)
    column_totals_kernel(int64_t parts, int64_t columns, bool add, const float* __restrict__ partial,
                         Out* __restrict__ out) {
  __shared__ float sums[kTotalRows][kLanes];
  const int lane = threadIdx.x % kLanes, first = threadIdx.x / kLanes;
  const int64_t c = static_cast<int64_t>(blockIdx.x) * kLanes + lane;
  float sum = 0;
  if (c < columns) {
#pragma unroll 8
    for (int64_t p = first; p < parts; p += kTotalRows) sum += partial[p * columns + c];
  }
  sums[first][lane] = sum;
  __syncthreads();
  if (first == 0 && c < columns) {
    float total = 0;
    for (int i = 0; i < kTotalRows; ++i) total += sums[i][lane];
    out[c] = from_float<Out>(add ? to_float(out[c]) + total : total);
  }
}

}  // namespace

void binary(Binary op, const Tensor& a, const Tensor& b, const Tensor& y) {
  dispatch(a.dtype(), "binary", [&](auto zero) {
    using T = decltype(zero);
    const auto go = [&](const char* name, auto f) {
      map(name, y.numel(), f, as<T>(y), as<const T>(a), as<const T>(b));
    };
    switch (op) {
      case Binary::add:
        return go("add", Add{});
      case Binary::sub:
        return go("sub", Sub{});
      case Binary::mul:
        return go("mul", Mul{});
    }
  });
}

void unary(Unary op, const Tensor& x, const Tensor& y) {
  dispatch(x.dtype(), "unary", [&](auto zero) {
    using T = decltype(zero);
    const auto go = [&](const char* name, auto f) { map(name, y.numel(), f, as<T>(y), as<const T>(x)); };
    switch (op) {
      case Unary::exp:
        return go("exp", Exp{});
      case Unary::log:
        return go("log", Log{});
      case Unary::tanh:
        return go("tanh", Tanh{});
      case Unary::silu:
        return go("silu", Silu{});
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
      case Unary::exp:
        return go("exp_backward", ExpBackward{}, y);
      case Unary::log:
        return go("log_backward", LogBackward{}, x);
      case Unary::tanh:
        return go("tanh_backward", TanhBackward{}, y);
      case Unary::silu:
        return go("silu_backward", SiluBackward{}, x);
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
        map("add_scaled", to.numel(), AddScaled<S>{static_cast<float>(factor), as<const S>(scalar)}, as<To>(to),
            as<const To>(to), as<const From>(from));
      });
    });
  });
}

void add_bias(const Tensor& x, const Tensor& bias, const Tensor& y) {
  dispatch(x.dtype(), "add_bias", [&](auto zero) {
    using T = decltype(zero);
    const int64_t columns = bias.numel();
    dispatch_width(columns % 8 == 0 && aligned16(as<T>(x), as<T>(bias), as<T>(y)), [&](auto width) {
      const int64_t vectors = y.numel() / width();
      check(vectors <= int64_t{UINT32_MAX} - kBiasThreads, "add_bias", vectors, " vectors in one call");
      launch({"add_bias", bytes_of(x, y)}, add_bias_kernel<width(), T>, ceil_div(vectors, kBiasThreads), kBiasThreads,
             0, vectors, columns / width(), as<const T>(x), as<const T>(bias), as<T>(y));
    });
  });
}

void soft_cap(const Tensor& x, double cap, const Tensor& y) {
  dispatch(x.dtype(), "soft_cap", [&](auto zero) {
    using T = decltype(zero);
    map("soft_cap", y.numel(), SoftCap{static_cast<float>(cap)}, as<T>(y), as<const T>(x));
  });
}

void soft_cap_backward(const Tensor& y, double cap, const Tensor& dy, const Tensor& dx) {
  dispatch(dy.dtype(), "soft_cap_backward", [&](auto zero) {
    using T = decltype(zero);
    map("soft_cap_backward", dx.numel(), SoftCapBackward{static_cast<float>(cap)}, as<T>(dx), as<const T>(y),
        as<const T>(dy));
  });
}

Tensor slab_sums(const Tensor& x) {
  const int64_t columns = x.size(-1), rows = columns ? x.numel() / columns : 0;
  Tensor partial;
  dispatch(x.dtype(), "column_sums", [&](auto zero) {
    using X = decltype(zero);
    dispatch_width(columns % 8 == 0 && aligned16(x.raw()), [&](auto width) {
      const Elements<width(), X> source{as<const X>(x)};
      partial = column_partials<width()>({"column_partials", x.bytes()}, rows, columns, source, x.device());
    });
  });
  return partial;
}

void column_sums(const Tensor& x, const Tensor& out, bool add) {
  if (out.numel() > 0) add_partial_rows(slab_sums(x), out, add);
}

void add_partial_rows(const Tensor& partial, const Tensor& out, bool add) {
  const int64_t columns = out.numel();
  dispatch(out.dtype(), "add_partial_rows", [&](auto zero) {
    using Out = decltype(zero);
    launch({"column_totals", partial.bytes()}, column_totals_kernel<Out>, ceil_div(columns, kLanes),
           kLanes * kTotalRows, 0, partial.size(0), columns, add, as<const float>(partial), as<Out>(out));
  });
}

}  // namespace rw::cuda
