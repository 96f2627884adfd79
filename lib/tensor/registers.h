// Internal: the widest registers of the level that a file is compiled for, by GCC's and clang's vector types.
#pragma once
#include <cstdint>

#if defined(__AVX512F__) || (defined(__AVX2__) && defined(__FMA__))
#include <immintrin.h>
#endif

#ifndef RW_LEVEL
#define RW_LEVEL build
#endif
#define RW_INLINE [[gnu::always_inline]] inline

namespace rw::cpu::RW_LEVEL {
namespace {

#if defined(__AVX512F__)
constexpr int kBytes = 64;
#elif defined(__AVX2__) && defined(__FMA__)
constexpr int kBytes = 32;
#else
constexpr int kBytes = 16;
#endif

struct F32 {
  using Number = float;
  using Register [[gnu::vector_size(kBytes)]] = float;
};
struct F64 {
  using Number = double;
  using Register [[gnu::vector_size(kBytes)]] = double;
};
template <class R>
constexpr int kLanes = kBytes / static_cast<int>(sizeof(typename R::Number));
template <class V, class T>
RW_INLINE V load(const T* p) {
  V v;
  __builtin_memcpy(&v, p, sizeof v);
  return v;
}
template <class V, class T>
RW_INLINE void store(T* p, V v) {
  __builtin_memcpy(p, &v, sizeof v);
}
constexpr int64_t smaller(int64_t a, int64_t b) { return a < b ? a : b; }

// a * b + c, in every lane of registers; rounded once where the level has such an instruction
#if defined(__AVX512F__) || (defined(__AVX2__) && defined(__FMA__))
RW_INLINE float multiply_add(float a, float b, float c) { return __builtin_fmaf(a, b, c); }
#endif
#if defined(__AVX512F__)
RW_INLINE F32::Register multiply_add(F32::Register a, F32::Register b, F32::Register c) {
  return _mm512_fmadd_ps(a, b, c);
}
RW_INLINE F64::Register multiply_add(F64::Register a, F64::Register b, F64::Register c) {
  return _mm512_fmadd_pd(a, b, c);
}
#elif defined(__AVX2__) && defined(__FMA__)
RW_INLINE F32::Register multiply_add(F32::Register a, F32::Register b, F32::Register c) {
  return _mm256_fmadd_ps(a, b, c);
}
RW_INLINE F64::Register multiply_add(F64::Register a, F64::Register b, F64::Register c) {
  return _mm256_fmadd_pd(a, b, c);
}
#else
template <class V>
RW_INLINE V multiply_add(V a, V b, V c) {
  return a * b + c;
}
#endif

}  // namespace
}  // namespace rw::cpu::RW_LEVEL
