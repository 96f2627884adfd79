// One kernel for every elementwise op: each input read once, the output written once, 8 elements per thread. Internal:
// only .cu files include it.
//
//   y = f(i, x...)    computed in f32, rounded once
#pragma once
#include "tensor/launch.cuh"

namespace rw::cuda {

constexpr int kMapThreads = 256;

/// y[i] = f(i, inputs[i]...). No __restrict__: y may be one of the inputs, and each thread reads before it writes.
template <int N, class Y, class F, class... X>
__global__ void __launch_bounds__(kMapThreads) map_kernel(int64_t n, F f, Y* y, const X*... x) {
  const int64_t begin = (static_cast<int64_t>(blockIdx.x) * kMapThreads + threadIdx.x) * N;
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

/// f is a functor rather than a lambda, so that its kernel has a readable name in a profile.
template <class Y, class F, class... X>
void map(const char* name, int64_t n, F f, Y* y, const X*... x) {
  dispatch_width(aligned16(y, x...), [&](auto width) {
    launch({name, n * int64_t{sizeof(Y) + (sizeof(X) + ...)}}, map_kernel<width(), Y, F, X...>,
           ceil_div(n, kMapThreads * width()), kMapThreads, 0, n, f, y, x...);
  });
}

}  // namespace rw::cuda
