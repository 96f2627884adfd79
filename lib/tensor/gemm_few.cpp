// Products of a few vectors with many, on one thread. To pack what is multiplied a few times would cost more than that.
//
// Compiled once for each level, as gemm_block.cpp is: nothing that the linker may share gets in here.
#include "tensor/gemm_block.h"
#include "tensor/registers.h"

namespace rw::cpu::RW_LEVEL {
namespace {

RW_INLINE float sum_of(F32::Register v) {
  using Four [[gnu::vector_size(16)]] = float;
  Four parts[kBytes / 16];
  __builtin_memcpy(&parts, &v, sizeof v);
  Four s = parts[0];
  if constexpr (kBytes == 64) {
    s = (parts[0] + parts[1]) + (parts[2] + parts[3]);
  } else if constexpr (kBytes == 32) {
    s = parts[0] + parts[1];
  }
  return (s[0] + s[2]) + (s[1] + s[3]);
}
RW_INLINE double sum_of(F64::Register v) {
  double s = v[0] + v[1];
  for (int i = 2; i < kLanes<F64>; i += 2) s += v[i] + v[i + 1];
  return s;
}

template <class T>
RW_INLINE void put(const FewVectors<T>& x, int64_t i, int64_t j, T sum) {
  T& c = x.c[i * x.c_few + j * x.c_many];
  c = x.beta == 0 ? x.alpha * sum : x.alpha * sum + x.beta * c;
}

/// Vectors i to i + F of the few with j to j + M of the many. What F and M are changes no sum.
template <class R, int F, int M, class T>
RW_INLINE void dots(const FewVectors<T>& x, int64_t i, int64_t j) {
  using V = typename R::Register;
  const T *const a = x.x.data + i * x.x.vector, *const w = x.w.data + j * x.w.vector;
  V sums[F][M];
#pragma GCC unroll 16
  for (int q = 0; q < F * M; ++q) sums[q / M][q % M] = V{};
  int64_t p = 0;
  for (; p + kLanes<R> <= x.k; p += kLanes<R>) {
    V many[M];
#pragma GCC unroll 4
    for (int m = 0; m < M; ++m) many[m] = load<V>(w + m * x.w.vector + p);
#pragma GCC unroll 4
    for (int f = 0; f < F; ++f) {
      const V one = load<V>(a + f * x.x.vector + p);
#pragma GCC unroll 4
      for (int m = 0; m < M; ++m) sums[f][m] = multiply_add(one, many[m], sums[f][m]);
    }
  }
#pragma GCC unroll 16
  for (int q = 0; q < F * M; ++q) {
    const T *const one = a + q / M * x.x.vector, *const other = w + q % M * x.w.vector;
    T total = sum_of(sums[q / M][q % M]);
    for (int64_t r = p; r < x.k; ++r) total += one[r] * other[r];
    put(x, i + q / M, j + q % M, total);
  }
}

template <class R, int F, class T>
RW_INLINE void dots_of(const FewVectors<T>& x, int64_t i) {
  int64_t j = 0;
  for (; j + 3 <= x.many; j += 3) dots<R, F, 3>(x, i, j);
  for (; j < x.many; ++j) dots<R, F, 1>(x, i, j);
}

template <class R, class T>
RW_INLINE void all_dots(const FewVectors<T>& x) {
  int64_t i = 0;
  for (; i + 4 <= x.few; i += 4) dots_of<R, 4>(x, i);
  if (x.few - i == 3) dots_of<R, 3>(x, i);
  if (x.few - i == 2) dots_of<R, 2>(x, i);
  if (x.few - i == 1) dots_of<R, 1>(x, i);
}

/// sums[f][j] += N numbers of vectors i and i + 1 times the same numbers of the many vectors [0, many).
template <class R, int F, int N, class T>
RW_INLINE void add_numbers(const FewVectors<T>& x, int64_t i, int64_t p, const T* w, int64_t many, T* sums,
                           int64_t stride) {
  using V = typename R::Register;
  V factor[F][N];
#pragma GCC unroll 16
  for (int q = 0; q < F * N; ++q) {
    factor[q / N][q % N] = x.x.data[(i + q / N) * x.x.vector + (p + q % N) * x.x.along] - V{};
  }
  int64_t j = 0;
  for (; j + kLanes<R> <= many; j += kLanes<R>) {
    V sum[F];
#pragma GCC unroll 4
    for (int f = 0; f < F; ++f) sum[f] = load<V>(sums + f * stride + j);
#pragma GCC unroll 4
    for (int n = 0; n < N; ++n) {
      const V numbers = load<V>(w + n * x.w.along + j);
#pragma GCC unroll 4
      for (int f = 0; f < F; ++f) sum[f] = multiply_add(factor[f][n], numbers, sum[f]);
    }
#pragma GCC unroll 4
    for (int f = 0; f < F; ++f) store(sums + f * stride + j, sum[f]);
  }
  for (; j < many; ++j) {
    for (int f = 0; f < F; ++f) {
      for (int n = 0; n < N; ++n) sums[f * stride + j] += factor[f][n][0] * w[n * x.w.along + j];
    }
  }
}

/// As many of the many vectors as fit a buffer for all of their sums; the buffer stays in the first cache.
template <class R, class T>
RW_INLINE void all_sums(const FewVectors<T>& x) {
  constexpr int64_t kNumbers = 2048;
  alignas(64) T sums[kNumbers];
  const int64_t blocks = (x.many * x.few + kNumbers - 1) / kNumbers;
  const int64_t even = (x.many / blocks + kLanes<R>) / kLanes<R> * kLanes<R>;
  const int64_t most = smaller(even, kNumbers / x.few / kLanes<R> * kLanes<R>);
  for (int64_t begin = 0; begin < x.many; begin += most) {
    const int64_t many = smaller(most, x.many - begin);
    for (int64_t i = 0; i < x.few; ++i) {
      for (int64_t j = 0; j < many; ++j) sums[i * most + j] = 0;
    }
    int64_t p = 0;
    const auto add = [&]<int N>() __attribute__((always_inline)) {
      const T* const w = x.w.data + begin + p * x.w.along;
      int64_t i = 0;
      for (; i + 2 <= x.few; i += 2) add_numbers<R, 2, N>(x, i, p, w, many, sums + i * most, most);
      if (i < x.few) add_numbers<R, 1, N>(x, i, p, w, many, sums + i * most, most);
      p += N;
    };
    while (p + 4 <= x.k) add.template operator()<4>();
    while (p < x.k) add.template operator()<1>();
    for (int64_t i = 0; i < x.few; ++i) {
      for (int64_t j = 0; j < many; ++j) put(x, i, begin + j, sums[i * most + j]);
    }
  }
}

}  // namespace

void few_dots(const FewVectors<float>& x) { all_dots<F32>(x); }
void few_dots(const FewVectors<double>& x) { all_dots<F64>(x); }
void few_sums(const FewVectors<float>& x) { all_sums<F32>(x); }
void few_sums(const FewVectors<double>& x) { all_sums<F64>(x); }

}  // namespace rw::cpu::RW_LEVEL
