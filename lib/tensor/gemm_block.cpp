// Packing, and products of packed blocks on one thread, in the widest registers of the level that is compiled for.
//
// Compiled once for the build's own flags and, in builds for any x86-64, once more for each RW_LEVEL (CMakeLists.txt).
// Code that the standard library leaves to the linker to share must not get in here: it could be shared with the rest
// of the program, on a CPU that cannot run it.
#include "tensor/gemm_block.h"

#include <utility>

#include "tensor/registers.h"

namespace rw::cpu::RW_LEVEL {

// gemm_few.cpp
void few_dots(const FewVectors<float>& x);
void few_dots(const FewVectors<double>& x);
void few_sums(const FewVectors<float>& x);
void few_sums(const FewVectors<double>& x);

namespace {

// A tile of C is kHeight rows of kRegisters registers: with those of B and one of A they fill the register file.
#if defined(__AVX512F__)
constexpr int kHeight = 14, kRegisters = 2, kCached = 512 << 10;
#elif defined(__AVX2__) && defined(__FMA__)
constexpr int kHeight = 6, kRegisters = 2, kCached = 192 << 10;
#else
constexpr int kHeight = 6, kRegisters = 2, kCached = 192 << 10;
#endif
constexpr int64_t kDepthBytes = 1536;  // of a block's row of A: a panel of A stays in the first cache
constexpr int kAhead = 8;              // rows of B's panel that are fetched before they are needed

template <class R>
constexpr int kWidth = kRegisters* kLanes<R>;

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

/// The tile of panel i of A's block and panel j of B's.
template <class R, class T>
RW_INLINE void multiply_panels(const PackedBlock<T>& x, int64_t i, int64_t j) {
  const int64_t height = smaller(kHeight, x.rows - i), width = smaller(kWidth<R>, x.columns - j);
  const T *const a = x.a + i * x.depth, *const b = x.b + j * x.depth;
  T* const c = x.c + i * x.c_stride + j;
  const Tile<R> whole = tile_of<R>(height, (width + kLanes<R> - 1) / kLanes<R>);
  if (width % kLanes<R> == 0) {
    whole(x.depth, a, b, c, x.c_stride, x.alpha, x.beta);
  } else {
    edge_tile<R>(whole, x, a, b, c, height, width);
  }
}

/// A panel of A stays in the first cache, and some of B's panels in the second, while they pass by.
template <class R, class T>
void multiply(const PackedBlock<T>& x) {
  const int64_t panels = kCached / static_cast<int64_t>(sizeof(T)) / (x.depth * kWidth<R>);
  const int64_t together = (panels > 1 ? panels : 1) * kWidth<R>;
  for (int64_t begin = 0; begin < x.columns; begin += together) {
    const int64_t end = smaller(begin + together, x.columns);
    for (int64_t i = 0; i < x.rows; i += kHeight) {
      for (int64_t j = begin; j < end; j += kWidth<R>) multiply_panels<R>(x, i, j);
    }
  }
}

#if defined(__AVX2__)
constexpr int kQuads = 2;  // of numbers of a vector that are transposed at a time
RW_INLINE auto low_pairs(auto a, auto b) { return __builtin_shufflevector(a, b, 0, 8, 1, 9, 4, 12, 5, 13); }
RW_INLINE auto high_pairs(auto a, auto b) { return __builtin_shufflevector(a, b, 2, 10, 3, 11, 6, 14, 7, 15); }
RW_INLINE auto low_halves(auto a, auto b) { return __builtin_shufflevector(a, b, 0, 1, 8, 9, 4, 5, 12, 13); }
RW_INLINE auto high_halves(auto a, auto b) { return __builtin_shufflevector(a, b, 2, 3, 10, 11, 6, 7, 14, 15); }
#else
constexpr int kQuads = 1;
RW_INLINE auto low_pairs(auto a, auto b) { return __builtin_shufflevector(a, b, 0, 4, 1, 5); }
RW_INLINE auto high_pairs(auto a, auto b) { return __builtin_shufflevector(a, b, 2, 6, 3, 7); }
RW_INLINE auto low_halves(auto a, auto b) { return __builtin_shufflevector(a, b, 0, 1, 4, 5); }
RW_INLINE auto high_halves(auto a, auto b) { return __builtin_shufflevector(a, b, 2, 3, 6, 7); }
#endif
using Quad [[gnu::vector_size(16)]] = float;
using Quads [[gnu::vector_size(16 * kQuads)]] = float;

/// out[p * P + i] = v[i * stride + p] for four vectors i and the numbers p of Quads.
template <int P>
RW_INLINE void transpose_quads(const float* v, int64_t stride, float* out) {
  const Quads v0 = load<Quads>(v), v1 = load<Quads>(v + stride), v2 = load<Quads>(v + 2 * stride),
              v3 = load<Quads>(v + 3 * stride);
  const Quads low01 = low_pairs(v0, v1), high01 = high_pairs(v0, v1), low23 = low_pairs(v2, v3),
              high23 = high_pairs(v2, v3);
  const Quads rows[4] = {low_halves(low01, low23), high_halves(low01, low23), low_halves(high01, high23),
                         high_halves(high01, high23)};
#pragma GCC unroll 4
  for (int p = 0; p < 4; ++p) {
    store(out + p * P, __builtin_shufflevector(rows[p], rows[p], 0, 1, 2, 3));
    if constexpr (kQuads == 2) store(out + (p + 4) * P, __builtin_shufflevector(rows[p], rows[p], 4, 5, 6, 7));
  }
}

#if defined(__AVX512F__)
constexpr int kSide = 16;  // of a square that is transposed in registers
using Sixteen [[gnu::vector_size(64)]] = float;

/// Swaps blocks of S lanes: those of a with an odd number for those of b with an even one.
template <int S, int... lane>
RW_INLINE void swap_blocks(Sixteen& a, Sixteen& b, std::integer_sequence<int, lane...>) {
  const Sixteen low = __builtin_shufflevector(a, b, (lane & S ? 16 + lane - S : lane)...);
  b = __builtin_shufflevector(a, b, (lane & S ? 16 + lane : lane + S)...);
  a = low;
}

/// out[p * P + i] = v[i * stride + p] for 16 vectors i and 16 numbers p.
template <int P>
RW_INLINE void transpose_square(const float* v, int64_t stride, float* out) {
  Sixteen rows[kSide];
#pragma GCC unroll 16
  for (int i = 0; i < kSide; ++i) rows[i] = load<Sixteen>(v + i * stride);
  const auto stage = [&](auto s) {
    constexpr int S = s();
#pragma GCC unroll 16
    for (int i = 0; i < kSide; ++i) {
      if (!(i & S)) swap_blocks<S>(rows[i], rows[i + S], std::make_integer_sequence<int, kSide>());
    }
  };
  stage(std::integral_constant<int, 8>());
  stage(std::integral_constant<int, 4>());
  stage(std::integral_constant<int, 2>());
  stage(std::integral_constant<int, 1>());
#pragma GCC unroll 16
  for (int p = 0; p < kSide; ++p) store(out + p * P, rows[p]);
}
#endif

/// panel[p * P + i] = number p of vector i, for `count` of P vectors whose numbers lie side by side. Whole panels go in
/// squares of 16 where registers have 16 lanes. The rest goes four vectors at a time, a cache line of each before the
/// next four.
template <int P>
RW_INLINE void transpose_into(const float* from, int64_t stride, int64_t count, int64_t depth, float* panel) {
  constexpr int64_t kLine = 16, kNumbers = 4 * kQuads;
  int64_t p = 0;
#if defined(__AVX512F__)
  for (; P % kSide == 0 && count == P && p + kSide <= depth; p += kSide) {
    for (int64_t i = 0; i < P; i += kSide) {
      for (int64_t r = 0; r < kSide; ++r) __builtin_prefetch(from + (i + P + r) * stride + p);  // of the next panel
      transpose_square<P>(from + i * stride + p, stride, panel + p * P + i);
    }
  }
#endif
  while (count >= 4 && p + kNumbers <= depth) {
    const int64_t end = p + smaller(kLine, (depth - p) / kNumbers * kNumbers);
    for (int64_t i = 0; i < count; i += 4) {
      const int64_t at = smaller(i, count - 4);  // the last four may have come before: the same numbers again
      for (int64_t r = 0; r < 4; ++r) __builtin_prefetch(from + (at + P + r) * stride + p);  // of the next panel
      for (int64_t q = p; q < end; q += kNumbers) {
        transpose_quads<P>(from + at * stride + q, stride, panel + q * P + at);
      }
    }
    p = end;
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

/// Whole panels of vectors that lie side by side, some numbers of some panels at a time: a row of memory is read at
/// some width, and few lines are written to, since those of all panels may compete for the same place in the cache.
template <int P, class T>
RW_INLINE void copy_into(const T* from, int64_t stride, int64_t count, int64_t depth, T* panels) {
  constexpr int64_t kNumbers = 8, kLine = 64 / sizeof(T), kTogether = 4 * kLine / P + 1;
  for (int64_t begin = 0; begin < count; begin += kTogether) {
    const int64_t end = smaller(begin + kTogether, count);
    for (int64_t p = 0; p < depth; p += kNumbers) {
      const int64_t p_end = smaller(p + kNumbers, depth);
      for (int64_t q = p; q < p_end; ++q) {
        const T* const next = from + (q + kNumbers) * stride;
        for (int64_t i = begin * P; i < end * P; i += kLine) __builtin_prefetch(next + i);
      }
      for (int64_t panel = begin; panel < end; ++panel) {
        for (int64_t q = p; q < p_end; ++q) {
          __builtin_memcpy(panels + (panel * depth + q) * P, from + q * stride + panel * P, P * sizeof(T));
        }
      }
    }
  }
}

/// Panels of P vectors each. What lies behind the last vector is 0 in B's panels (kFill), whose registers it shares;
/// in A's it is not read.
template <class T, int P, bool kFill>
void pack(const VectorsOf<T>& x, int64_t count, int64_t depth, T* panels) {
  const int64_t whole = count / P, rest = count % P;
  if (x.vector == 1 && x.along != 1) {
    copy_into<P>(x.data, x.along, whole, depth, panels);
    for (int64_t p = 0; p < depth && rest > 0; ++p) {
      for (int64_t i = 0; i < rest; ++i) panels[(whole * depth + p) * P + i] = x.data[p * x.along + whole * P + i];
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
          .lanes = kLanes<R>,
          .depth = kDepthBytes / static_cast<int64_t>(sizeof(T)),
          .cached_bytes = kCached,
          .pack_a = pack<T, kHeight, false>,
          .pack_b = pack<T, kWidth<R>, true>,
          .multiply = multiply<R, T>,
          .few_dots = few_dots,
          .few_sums = few_sums};
}

}  // namespace

constinit const GemmKernels gemm_kernels = {kernel<F32>(), kernel<F64>()};

}  // namespace rw::cpu::RW_LEVEL
