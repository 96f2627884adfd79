// Internal: w . x, inlined into what is compiled for a CPU's level (tensor/cpu_levels.h). For the library's own .cpp
// files (GCC's and clang's vector types: narrower machines get several registers).
#pragma once
#include <cstdint>
#include <cstring>

namespace rw {

/// Sixteen numbers that are added and multiplied at once.
template <class T>
using Lanes [[gnu::vector_size(16 * sizeof(T))]] = T;

template <class T>
[[gnu::always_inline]] inline Lanes<T> load_lanes(const T* p) {
  Lanes<T> v;
  std::memcpy(&v, p, sizeof v);
  return v;
}

/// The sum of all lanes, by halves: adding them one after another would take as long as a row of 300.
template <class T>
[[gnu::always_inline]] inline T sum_lanes(const Lanes<T>& v) {
  const auto a = __builtin_shufflevector(v, v, 0, 1, 2, 3, 4, 5, 6, 7) +
                 __builtin_shufflevector(v, v, 8, 9, 10, 11, 12, 13, 14, 15);
  const auto b = __builtin_shufflevector(a, a, 0, 1, 2, 3) + __builtin_shufflevector(a, a, 4, 5, 6, 7);
  return (b[0] + b[2]) + (b[1] + b[3]);
}

/// sum_j w[j] x[j] in four running sums of 16: one sum would wait for its own previous addition, and memory would idle.
template <class T>
[[gnu::always_inline]] inline T dot(const T* w, const T* x, int64_t k) {
  Lanes<T> s0 = {}, s1 = {}, s2 = {}, s3 = {};
  int64_t j = 0;
  for (; j + 64 <= k; j += 64) {
    s0 += load_lanes(w + j) * load_lanes(x + j);
    s1 += load_lanes(w + j + 16) * load_lanes(x + j + 16);
    s2 += load_lanes(w + j + 32) * load_lanes(x + j + 32);
    s3 += load_lanes(w + j + 48) * load_lanes(x + j + 48);
  }
  for (; j + 16 <= k; j += 16) s0 += load_lanes(w + j) * load_lanes(x + j);
  T sum = sum_lanes<T>((s0 + s1) + (s2 + s3));
  for (; j < k; ++j) sum += w[j] * x[j];
  return sum;
}

}  // namespace rw
