// Products of a matrix's rows with a few vectors, in the widest registers of the level that they are compiled for.
//
// Compiled once for the build's own flags and, in builds for any x86-64, once more for each RW_LEVEL
// (CMakeLists.txt). As in gemm_block.cpp, nothing that the linker may share with the rest of the program gets in here.
#include "tensor/registers.h"
#include "tensor/row_dots.h"

namespace rw::cpu::RW_LEVEL {
namespace {

using Register = F32::Register;
constexpr int kNumbers = kLanes<F32>;  // of a register

float number(float w) { return w; }
float number(int8_t w) { return static_cast<float>(w); }
float number(uint16_t bits) { return __builtin_bit_cast(float, static_cast<uint32_t>(bits) << 16); }

RW_INLINE Register load(const float* p) { return load<Register>(p); }

/// x in every lane. Minus 0, and not plus, keeps the sign of -0.
RW_INLINE Register filled(float x) { return x - Register{}; }

// How many vectors' sums fit the registers: kTogether, or kTogetherInt8 where weights are codes. Then the loads that
// widen bf16 and int8 to f32.
#if defined(__AVX512F__)

constexpr int kTogether = 4, kTogetherInt8 = 4;
RW_INLINE Register load(const uint16_t* p) {
  const __m256i half = _mm256_loadu_si256(reinterpret_cast<const __m256i*>(p));
  return _mm512_castsi512_ps(_mm512_slli_epi32(_mm512_cvtepu16_epi32(half), 16));
}
RW_INLINE Register load(const int8_t* p) {
  return _mm512_cvtepi32_ps(_mm512_cvtepi8_epi32(_mm_loadu_si128(reinterpret_cast<const __m128i*>(p))));
}
RW_INLINE float sum(Register v) { return _mm512_reduce_add_ps(v); }

#elif defined(__AVX2__) && defined(__FMA__)

constexpr int kTogether = 2, kTogetherInt8 = 2;
RW_INLINE Register load(const uint16_t* p) {
  const __m128i half = _mm_loadu_si128(reinterpret_cast<const __m128i*>(p));
  return _mm256_castsi256_ps(_mm256_slli_epi32(_mm256_cvtepu16_epi32(half), 16));
}
RW_INLINE Register load(const int8_t* p) {
  return _mm256_cvtepi32_ps(_mm256_cvtepi8_epi32(_mm_loadl_epi64(reinterpret_cast<const __m128i*>(p))));
}
RW_INLINE float sum(Register v) {
  const __m128 four = _mm_add_ps(_mm256_castps256_ps128(v), _mm256_extractf128_ps(v, 1));
  const __m128 two = _mm_add_ps(four, _mm_movehl_ps(four, four));
  return _mm_cvtss_f32(_mm_add_ss(two, _mm_movehdup_ps(two)));
}

#else

constexpr int kTogether = 2, kTogetherInt8 = 4;
RW_INLINE Register load(const uint16_t* p) {
  using Halves [[gnu::vector_size(8)]] = uint16_t;
  using Words [[gnu::vector_size(16)]] = uint32_t;
  return reinterpret_cast<Register>(__builtin_convertvector(load<Halves>(p), Words) << 16);
}
RW_INLINE Register load(const int8_t* p) {
  using Bytes [[gnu::vector_size(4)]] = int8_t;
  using Words [[gnu::vector_size(16)]] = int32_t;
  return __builtin_convertvector(__builtin_convertvector(load<Bytes>(p), Words), Register);
}
RW_INLINE float sum(Register v) { return (v[0] + v[2]) + (v[1] + v[3]); }

#endif

/// y[s] = w . vector s for s < S, each in four running sums of a register: one sum would wait for its own last
/// addition, and memory would idle. What S is changes no bit.
template <int S, class W>
RW_INLINE void dots(const W* w, int64_t k, const float* x, int64_t stride, float* y) {
  Register sums[S][4];
#pragma GCC unroll 16
  for (int i = 0; i < S * 4; ++i) sums[i / 4][i % 4] = Register{};
  const auto add_lanes = [&](int64_t at, int to) __attribute__((always_inline)) {
    const Register weight = load(w + at);
#pragma GCC unroll 4
    for (int s = 0; s < S; ++s) sums[s][to] = multiply_add(weight, load(x + s * stride + at), sums[s][to]);
  };
  int64_t j = 0;
  for (; j + 4 * kNumbers <= k; j += 4 * kNumbers) {
#pragma GCC unroll 4
    for (int p = 0; p < 4; ++p) add_lanes(j + p * kNumbers, p);
  }
  for (; j + kNumbers <= k; j += kNumbers) add_lanes(j, 0);
#pragma GCC unroll 4
  for (int s = 0; s < S; ++s) {
    float total = sum((sums[s][0] + sums[s][1]) + (sums[s][2] + sums[s][3]));
    for (int64_t i = j; i < k; ++i) total = multiply_add(number(w[i]), x[s * stride + i], total);
    y[s] = total;
  }
}

/// The same for codes in blocks of 64 with a scale each; even and odd blocks have a sum each.
template <int S>
RW_INLINE void dots(const int8_t* w, const float* scale, int64_t k, const float* x, int64_t stride, float* y) {
  constexpr int64_t kBlock = 64;
  Register sums[S][2];
#pragma GCC unroll 16
  for (int i = 0; i < S * 2; ++i) sums[i / 2][i % 2] = Register{};
  // Whole registers of [j, end), which is within a block; returns where they end.
  const auto add_block = [&](int64_t j, int64_t end, int to) __attribute__((always_inline)) {
    Register of_block[S];
#pragma GCC unroll 4
    for (int s = 0; s < S; ++s) of_block[s] = Register{};
    int64_t at = j;
#pragma GCC unroll 16
    for (; at + kNumbers <= end; at += kNumbers) {
      const Register weight = load(w + at);
#pragma GCC unroll 4
      for (int s = 0; s < S; ++s) of_block[s] = multiply_add(weight, load(x + s * stride + at), of_block[s]);
    }
    const Register factor = filled(scale[j / kBlock]);
#pragma GCC unroll 4
    for (int s = 0; s < S; ++s) sums[s][to] = multiply_add(factor, of_block[s], sums[s][to]);
    return at;
  };
  int64_t j = 0;
  for (; j + 2 * kBlock <= k; j += 2 * kBlock) {
    add_block(j, j + kBlock, 0);
    add_block(j + kBlock, j + 2 * kBlock, 1);
  }
  if (j + kBlock <= k) {
    add_block(j, j + kBlock, 0);
    j += kBlock;
  }
  const int64_t rest = j < k ? add_block(j, k, 1) : k;  // what is left of a block
#pragma GCC unroll 4
  for (int s = 0; s < S; ++s) {
    float total = sum(sums[s][0] + sums[s][1]), last = 0;
    for (int64_t i = rest; i < k; ++i) last = multiply_add(number(w[i]), x[s * stride + i], last);
    y[s] = rest < k ? multiply_add(scale[j / kBlock], last, total) : total;
  }
}

/// f<S>(row, first vector) over all. Row after row, which the hardware prefetches: several rows at a time, as several
/// streams, were read at less than half the rate. A row is in the first cache after the first vectors.
template <int kMost, class F>
RW_INLINE void cover(int64_t rows, int64_t count, const F& f) {
  for (int64_t r = 0; r < rows; ++r) {
    int64_t s = 0;
    for (; s + kMost <= count; s += kMost) f.template operator()<kMost>(r, s);
    for (; s < count; ++s) f.template operator()<1>(r, s);
  }
}

template <class W>
void rows_of(const W* w, int64_t k, int64_t rows, const Vectors& x, float* y) {
  cover<kTogether>(
      rows, x.count, [&]<int S>(int64_t r, int64_t s) __attribute__((always_inline)) {
        dots<S>(w + r * k, k, x.data + s * x.stride, x.stride, y + r * x.count + s);
      });
}

void rows_of_blocks(const int8_t* w, const float* scale, int64_t k, int64_t rows, const Vectors& x, float* y) {
  const int64_t blocks = (k + 63) / 64;
  cover<kTogetherInt8>(
      rows, x.count, [&]<int S>(int64_t r, int64_t s) __attribute__((always_inline)) {
        dots<S>(w + r * k, scale + r * blocks, k, x.data + s * x.stride, x.stride, y + r * x.count + s);
      });
}

}  // namespace

constinit const RowDots row_dots = {rows_of<float>, rows_of<uint16_t>, rows_of_blocks};

}  // namespace rw::cpu::RW_LEVEL
