// How the blocks of the decoder's kernel give each other vectors. A barrier over the grid would cost a fence, an
// atomic, and after it the loads. Here every number travels with the stamp of its pass in one word of 64 or 32 bits. A
// word is read and written whole: who sees the stamp sees the number. So the readers wait on the words themselves, and
// nobody waits for a block whose numbers it does not read.
//
// A word may be written anew only when all have read it. That needs no signal of its own: a pass reads the whole vector
// before it, so what a block sends in pass p + 1 says that it has read all of pass p. A vector is written again two
// passes later at the earliest.
#pragma once
#include "nn/decode_step.cuh"

namespace rw::cuda::decode {

// A LongWord holds a float and a stamp of 32 bits. A ShortWord holds the 24 upper bits of a float, rounded to nearest
// (one part in 2^16), and a stamp of 8 bits. The blocks of models in bf16 send short words: every block reads every
// vector, and half the bytes come sooner. The residual stream is added up in f32 and rounded only for being sent.
//
// A short stamp is never 0, which is what words hold at first. It repeats after 255 passes. But every block writes all
// its words of a vector in every layer, so the only other stamp that a reader can find is that of the time before.

// --- one number -----------------------------------------------------------------------------------------------------

__device__ __forceinline__ LongWord word_of(float value, unsigned stamp, LongWord) {
  return static_cast<LongWord>(stamp) << 32 | __float_as_uint(value);
}
__device__ __forceinline__ ShortWord word_of(float value, unsigned stamp, ShortWord) {
  // What is not a number stays so: rounding could carry it over to 0.
  const unsigned bits = isnan(value) ? 0x7fc00000u : __float_as_uint(value) + 0x80u;
  return (bits & ~0xffu) | (stamp % 255u + 1u);
}
__device__ __forceinline__ float value_of(LongWord word) { return __uint_as_float(static_cast<unsigned>(word)); }
__device__ __forceinline__ float value_of(ShortWord word) { return __uint_as_float(word & ~0xffu); }
/// The bits of a word that hold its stamp.
__device__ __forceinline__ LongWord stamp_bits(LongWord word) { return word >> 32; }
__device__ __forceinline__ unsigned stamp_bits(ShortWord word) { return word & 0xffu; }

__device__ __forceinline__ void store_word(LongWord* to, LongWord word) {
  asm volatile("st.relaxed.gpu.global.b64 [%0], %1;" ::"l"(to), "l"(word) : "memory");
}
__device__ __forceinline__ void store_word(ShortWord* to, ShortWord word) {
  asm volatile("st.relaxed.gpu.global.b32 [%0], %1;" ::"l"(to), "r"(word) : "memory");
}
template <class W>
__device__ __forceinline__ void send(W* to, float value, unsigned stamp) {
  store_word(to, word_of(value, stamp, W{}));
}

// --- two and four side by side --------------------------------------------------------------------------------------

template <class W, int N>
struct Words {
  W at[N];
  __device__ __forceinline__ bool have(unsigned stamp) const {
    const auto expected = stamp_bits(word_of(0.f, stamp, W{}));
    bool all = true;
#pragma unroll
    for (int i = 0; i < N; ++i) all = all && stamp_bits(at[i]) == expected;
    return all;
  }
};
template <class W>
__device__ __forceinline__ float2 values_of(const Words<W, 2>& words) {
  return {value_of(words.at[0]), value_of(words.at[1])};
}

/// Two, from an even index on.
__device__ __forceinline__ void send(LongWord* to, float2 values, unsigned stamp) {
  asm volatile("st.relaxed.gpu.global.v2.b64 [%0], {%1, %2};" ::"l"(to), "l"(word_of(values.x, stamp, LongWord{})),
               "l"(word_of(values.y, stamp, LongWord{}))
               : "memory");
}
__device__ __forceinline__ void send(ShortWord* to, float2 values, unsigned stamp) {
  asm volatile("st.relaxed.gpu.global.v2.b32 [%0], {%1, %2};" ::"l"(to), "r"(word_of(values.x, stamp, ShortWord{})),
               "r"(word_of(values.y, stamp, ShortWord{}))
               : "memory");
}

/// Words as they are now, from a multiple of N on.
template <int N>
__device__ __forceinline__ Words<LongWord, N> look(const LongWord* from) {
  Words<LongWord, N> words;
#pragma unroll
  for (int i = 0; i < N; i += 2)
    asm volatile("ld.relaxed.gpu.global.v2.b64 {%0, %1}, [%2];"
                 : "=l"(words.at[i]), "=l"(words.at[i + 1])
                 : "l"(from + i)
                 : "memory");
  return words;
}
template <int N>
__device__ __forceinline__ Words<ShortWord, N> look(const ShortWord* from) {
  static_assert(N == 2 || N == 4);
  Words<ShortWord, N> words;
  if constexpr (N == 2) {
    asm volatile("ld.relaxed.gpu.global.v2.b32 {%0, %1}, [%2];"
                 : "=r"(words.at[0]), "=r"(words.at[1])
                 : "l"(from)
                 : "memory");
  } else {
    asm volatile("ld.relaxed.gpu.global.v4.b32 {%0, %1, %2, %3}, [%4];"
                 : "=r"(words.at[0]), "=r"(words.at[1]), "=r"(words.at[2]), "=r"(words.at[3])
                 : "l"(from)
                 : "memory");
  }
  return words;
}
/// The words when they have come.
template <int N, class W>
__device__ __forceinline__ Words<W, N> receive(const W* from, unsigned stamp) {
  Words<W, N> words;
  do words = look<N>(from);
  while (!words.have(stamp));
  return words;
}

// --- what load_vector reads, four numbers at a time -----------------------------------------------------------------

template <class W>
struct WordsSource {
  const W* words;
  unsigned stamp;
  using Four = Words<W, 4>;
  /// Waits until the four from i on have come. One warp of a block does it: if all threads of all blocks read what they
  /// need over and over, they would slow down those that are still to send.
  __device__ __forceinline__ void wait(int i) const { receive<2>(words + i + 2, stamp); }
  __device__ __forceinline__ Four ask(int i) const { return look<4>(words + i); }
  __device__ __forceinline__ float4 take(Four four, int i) const {
    if (!four.have(stamp)) four = receive<4>(words + i, stamp);
    return {value_of(four.at[0]), value_of(four.at[1]), value_of(four.at[2]), value_of(four.at[3])};
  }
};

/// A row of a matrix that nobody writes, times a factor.
template <class T>
struct RowSource {
  const T* row;
  float factor = 1;
  using Four = Vec<T, 4>;
  __device__ __forceinline__ void wait(int) const {}
  __device__ __forceinline__ Four ask(int i) const { return load<4>(row + i); }
  __device__ __forceinline__ float4 take(const Four& four, int) const {
    const Vec<float, 4> v = widen<4>(four);
    return {v.at[0] * factor, v.at[1] * factor, v.at[2] * factor, v.at[3] * factor};
  }
};

}  // namespace rw::cuda::decode
