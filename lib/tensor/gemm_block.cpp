// Packing, and products of packed blocks on one thread, in the widest registers of the level that they are compiled for.
//
// Compiled once for the build's own flags and, in builds for any x86-64, once more for each RW_LEVEL (CMakeLists.txt).
// Code that the standard library leaves to the linker to share must not get in here: it could be shared with the rest of
// the program, on a CPU that cannot run it.
#include "tensor/gemm_block.h"

#if defined(__AVX512F__) || (defined(__AVX2__) && defined(__FMA__))
#include <immintrin.h>
#endif

#ifndef RW_LEVEL
#define RW_LEVEL build
#endif
#define RW_INLINE [[gnu::always_inline]] inline

namespace rw::cpu::RW_LEVEL {
namespace {

// A tile of C is kHeight rows of kRegisters registers: with those of B and one of A they fill the register file.
#if defined(__AVX512F__)
constexpr int kBytes = 64, kHeight = 14, kRegisters = 2, kSecondCache = 1 << 20;
#elif defined(__AVX2__) && defined(__FMA__)
constexpr int kBytes = 32, kHeight = 6, kRegisters = 2, kSecondCache = 1 << 18;
#else  // any machine, by GCC's and clang's vector types
constexpr int kBytes = 16, kHeight = 6, kRegisters = 2, kSecondCache = 1 << 18;
#endif
constexpr int64_t kDepthBytes = 1536;  // of a block's row of A: a panel of A stays in the first cache
constexpr int kAhead = 8;              // rows of B's panel that are fetched before they are needed

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
template <class R>
constexpr int kWidth = kRegisters * kLanes<R>;

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

// a * b + c in every lane
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

/// H rows and W registers of C: sums over the depth of a panel of A and one of B, from zero on, then times alpha.
template <class R, int H, int W>
void tile(int64_t depth, const typename R::Number* a, const typename R::Number* b, typename R::Number* c,
          int64_t c_stride, typename R::Number alpha, typename R::Number beta) {
  using V = typename R::Register;
  V sums[H][W];
#pragma GCC unroll 16
  for (int i = 0; i < H; ++i) {
#pragma GCC unroll 4
    for (int w = 0; w < W; ++w) {
      sums[i][w] = V{};
      __builtin_prefetch(c + i * c_stride + w * kLanes<R>, 1);
    }
  }
  for (int64_t p = 0; p < depth; ++p, a += kHeight, b += kWidth<R>) {
    V column[W];
#pragma GCC unroll 4
    for (int w = 0; w < W; ++w) {
      column[w] = load<V>(b + w * kLanes<R>);
      __builtin_prefetch(b + kAhead * kWidth<R> + w * kLanes<R>);
    }
#pragma GCC unroll 16
    for (int i = 0; i < H; ++i) {
      const V row = a[i] - V{};
#pragma GCC unroll 4
      for (int w = 0; w < W; ++w) sums[i][w] = multiply_add(row, column[w], sums[i][w]);
    }
  }
  const V factor = alpha - V{}, old = beta - V{};
#pragma GCC unroll 16
  for (int i = 0; i < H; ++i) {
#pragma GCC unroll 4
    for (int w = 0; w < W; ++w) {
      auto* const out = c + i * c_stride + w * kLanes<R>;
      if (beta == 0) {
        store(out, factor * sums[i][w]);
      } else {
        store(out, multiply_add(factor, sums[i][w], old * load<V>(out)));
      }
    }
  }
}

template <class R>
using Tile = void (*)(int64_t depth, const typename R::Number* a, const typename R::Number* b, typename R::Number* c,
                      int64_t c_stride, typename R::Number alpha, typename R::Number beta);

/// A tile of H rows at most and W registers; those of every smaller size follow by recursion.
template <class R, int H = kHeight, int W = kRegisters>
RW_INLINE Tile<R> tile_of(int64_t height, int64_t registers) {
  if constexpr (W > 1) {
    if (registers < W) return tile_of<R, H, W - 1>(height, registers);
  }
  if constexpr (H > 1) {
    if (height < H) return tile_of<R, H - 1, W>(height, registers);
  }
  return tile<R, H, W>;
}

/// A tile whose last register reaches beyond C's columns, by way of a buffer.
template <class R, class T>
void edge_tile(Tile<R> whole, const PackedBlock<T>& x, const T* a, const T* b, T* c, int64_t height, int64_t width) {
  alignas(64) T buffer[kHeight * kWidth<R>];
  for (int64_t i = 0; i < height; ++i) {
    for (int64_t j = 0; j < kWidth<R>; ++j) {
      buffer[i * kWidth<R> + j] = j < width && x.beta != 0 ? c[i * x.c_stride + j] : T(0);
    }
  }
  whole(x.depth, a, b, buffer, kWidth<R>, x.alpha, x.beta);
  for (int64_t i = 0; i < height; ++i) {
    for (int64_t j = 0; j < width; ++j) c[i * x.c_stride + j] = buffer[i * kWidth<R> + j];
  }
}

/// A panel of A stays in the first cache while all of B's pass by, from the second.
template <class R, class T>
void multiply(const PackedBlock<T>& x) {
  for (int64_t i = 0; i < x.rows; i += kHeight) {
    const int64_t height = smaller(kHeight, x.rows - i);
    const Tile<R> whole = tile_of<R>(height, kRegisters);
    const T* const a = x.a + i * x.depth;
    for (int64_t j = 0; j < x.columns; j += kWidth<R>) {
      const int64_t width = smaller(kWidth<R>, x.columns - j);
      const T* const b = x.b + j * x.depth;
      T* const c = x.c + i * x.c_stride + j;
      if (width == kWidth<R>) {
        whole(x.depth, a, b, c, x.c_stride, x.alpha, x.beta);
        continue;
      }
      const Tile<R> part = tile_of<R>(height, (width + kLanes<R> - 1) / kLanes<R>);
      if (width % kLanes<R> == 0) {
        part(x.depth, a, b, c, x.c_stride, x.alpha, x.beta);
      } else {
        edge_tile<R>(part, x, a, b, c, height, width);
      }
    }
  }
}

/// panel[p * P + i] = number p of vector i, for `count` of P vectors whose numbers lie side by side: four of four
/// vectors at a time, a cache line of each before the next four.
template <int P>
RW_INLINE void transpose_into(const float* from, int64_t stride, int64_t count, int64_t depth, float* panel) {
  using Four [[gnu::vector_size(16)]] = float;
  constexpr int64_t kLine = 16;
  int64_t p = 0;
  if (count >= 4) {
    for (; p + 4 <= depth;) {
      const int64_t end = p + smaller(kLine, (depth - p) / 4 * 4);
      for (int64_t i = 0; i < count; i += 4) {
        const int64_t at = smaller(i, count - 4);  // the last four may have come before: the same numbers again
        const float* const v = from + at * stride;
        for (int64_t q = p; q < end; q += 4) {
          const Four v0 = load<Four>(v + q), v1 = load<Four>(v + stride + q), v2 = load<Four>(v + 2 * stride + q),
                     v3 = load<Four>(v + 3 * stride + q);
          const Four low01 = __builtin_shufflevector(v0, v1, 0, 4, 1, 5),
                     high01 = __builtin_shufflevector(v0, v1, 2, 6, 3, 7),
                     low23 = __builtin_shufflevector(v2, v3, 0, 4, 1, 5),
                     high23 = __builtin_shufflevector(v2, v3, 2, 6, 3, 7);
          float* const out = panel + q * P + at;
          store(out, __builtin_shufflevector(low01, low23, 0, 1, 4, 5));
          store(out + P, __builtin_shufflevector(low01, low23, 2, 3, 6, 7));
          store(out + 2 * P, __builtin_shufflevector(high01, high23, 0, 1, 4, 5));
          store(out + 3 * P, __builtin_shufflevector(high01, high23, 2, 3, 6, 7));
        }
      }
      p = end;
    }
  }
  for (int64_t i = 0; i < count; ++i) {
    for (int64_t q = p; q < depth; ++q) panel[q * P + i] = from[i * stride + q];
  }
}
template <int P>
RW_INLINE void transpose_into(const double* from, int64_t stride, int64_t count, int64_t depth, double* panel) {
  for (int64_t i = 0; i < count; ++i) {
    for (int64_t q = 0; q < depth; ++q) panel[q * P + i] = from[i * stride + q];
  }
}

/// Panels of P vectors each. What lies behind the last vector is 0 in B's panels (kFill), whose registers it shares;
/// in A's it is not read.
template <class T, int P, bool kFill>
void pack(const VectorsOf<T>& x, int64_t count, int64_t depth, T* panels) {
  const int64_t whole = count / P, rest = count % P;
  if (x.vector == 1 && x.along != 1) {  // panel after panel for each p: a row of memory is read as far as it goes
    for (int64_t p = 0; p < depth; ++p) {
      const T* const from = x.data + p * x.along;
      for (int64_t panel = 0; panel < whole; ++panel) {
        __builtin_memcpy(panels + (panel * depth + p) * P, from + panel * P, P * sizeof(T));
      }
      T* const last = panels + (whole * depth + p) * P;
      for (int64_t i = 0; i < rest; ++i) last[i] = from[whole * P + i];
    }
  } else {
    for (int64_t panel = 0; panel <= whole; ++panel) {
      const int64_t vectors = panel < whole ? P : rest;
      transpose_into<P>(x.data + panel * P * x.vector, x.vector, vectors, depth, panels + panel * P * depth);
    }
  }
  if (!kFill || rest == 0) return;
  for (int64_t p = 0; p < depth; ++p) {
    for (int64_t i = rest; i < P; ++i) panels[(whole * depth + p) * P + i] = T(0);
  }
}

template <class R, class T = typename R::Number>
constexpr GemmKernel<T> kernel() {
  return {.height = kHeight,
          .width = kWidth<R>,
          .depth = kDepthBytes / static_cast<int64_t>(sizeof(T)),
          .b_bytes = kSecondCache,
          .pack_a = pack<T, kHeight, false>,
          .pack_b = pack<T, kWidth<R>, true>,
          .multiply = multiply<R, T>};
}

}  // namespace

constinit const GemmKernels gemm_kernels = {kernel<F32>(), kernel<F64>()};

}  // namespace rw::cpu::RW_LEVEL
