// Internal: the inner loop of everything that is bound by reading a matrix once: w . x with f32 or bf16 weights. For
// the library's own .cpp files (GCC's and clang's vector types: narrower machines get several registers).
#pragma once
#include <cstdint>
#include <cstring>
#ifdef __AVX512F__
#include <immintrin.h>
#endif

#include "tensor/dtype.h"

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
[[gnu::always_inline]] inline Lanes<float> load_lanes(const bf16* p) {  // a bf16 is the upper half of an f32
#ifdef __AVX512F__                                                      // GCC 12 would widen in two halves
  const __m256i half = _mm256_loadu_si256(reinterpret_cast<const __m256i*>(p));
  return reinterpret_cast<Lanes<float>>(_mm512_slli_epi32(_mm512_cvtepu16_epi32(half), 16));
#else
  const Lanes<uint16_t> bits = load_lanes(reinterpret_cast<const uint16_t*>(p));
  return reinterpret_cast<Lanes<float>>(__builtin_convertvector(bits, Lanes<uint32_t>) << 16);
#endif
}

[[gnu::always_inline]] inline Lanes<float> load_lanes(const int8_t* p) {
#ifdef __AVX512F__
  const __m128i bytes = _mm_loadu_si128(reinterpret_cast<const __m128i*>(p));
  return reinterpret_cast<Lanes<float>>(_mm512_cvtepi32_ps(_mm512_cvtepi8_epi32(bytes)));
#else
  Lanes<int8_t> bytes;
  std::memcpy(&bytes, p, sizeof bytes);
  return __builtin_convertvector(__builtin_convertvector(bytes, Lanes<int32_t>), Lanes<float>);
#endif
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
template <class W, class T>
[[gnu::always_inline]] inline T dot(const W* w, const T* x, int64_t k) {
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
  for (; j < k; ++j) sum += static_cast<T>(w[j]) * x[j];
  return sum;
}

/// y[s] = sum_b scale[b] (w_b . x_b), x = x + s * stride, for s < S: w in blocks of 64 that have a scale each (int8 of
/// tensor/block_quantize.h, whose result is this / 127). What S is changes no bit.
template <int S>
[[gnu::always_inline]] inline void dots_of_blocks(const int8_t* w, const float* scale, const float* x, int64_t stride,
                                                  int64_t k, float* y) {
  constexpr int64_t kBlock = 64;
  Lanes<float> sum[2][S] = {};  // of even and odd blocks
  int64_t j = 0;
  for (; j + kBlock <= k; j += kBlock) {
    Lanes<float> of_block[S] = {};
#pragma GCC unroll 4
    for (int p = 0; p < 4; ++p) {
      const Lanes<float> weight = load_lanes(w + j + 16 * p);
#pragma GCC unroll 4
      for (int s = 0; s < S; ++s) of_block[s] += weight * load_lanes(x + s * stride + j + 16 * p);
    }
    Lanes<float>* to = sum[j / kBlock % 2];
#pragma GCC unroll 4
    for (int s = 0; s < S; ++s) to[s] += scale[j / kBlock] * of_block[s];
  }
#pragma GCC unroll 4
  for (int s = 0; s < S; ++s) {
    y[s] = sum_lanes<float>(sum[0][s] + sum[1][s]);
    float rest = 0;
    for (int64_t i = j; i < k; ++i) rest += static_cast<float>(w[i]) * x[s * stride + i];
    if (j < k) y[s] += scale[j / kBlock] * rest;
  }
}

}  // namespace rw
