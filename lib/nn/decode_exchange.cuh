// How the blocks of the decoder's kernel give each other vectors. A barrier over the grid would cost a fence, an
// atomic, and after it the loads. Here every number travels with the stamp of its pass in one 64-bit word, and a
// 64-bit access is one: who sees the stamp sees the number. So the readers wait on the words themselves, and nobody
// waits for a block whose numbers it does not read.
//
// A word may be written anew only when all have read it. That needs no signal of its own: a pass reads the whole vector
// before it, so what a block sends in pass p + 1 says that it has read all of pass p. A vector is written again two
// passes later at the earliest.
#pragma once
#include "nn/decode_step.cuh"

namespace rw::cuda::decode {

/// A float (the low half) and its stamp.
using Word = unsigned long long;

__device__ __forceinline__ Word word_of(float value, unsigned stamp) {
  return static_cast<Word>(stamp) << 32 | __float_as_uint(value);
}
__device__ __forceinline__ float value_of(Word word) { return __uint_as_float(static_cast<unsigned>(word)); }
__device__ __forceinline__ bool has(const ulonglong2& words, unsigned stamp) {
  return static_cast<unsigned>(words.x >> 32) == stamp && static_cast<unsigned>(words.y >> 32) == stamp;
}
__device__ __forceinline__ float2 values_of(const ulonglong2& words) { return {value_of(words.x), value_of(words.y)}; }

__device__ __forceinline__ void send(Word* to, float value, unsigned stamp) {
  asm volatile("st.relaxed.gpu.global.b64 [%0], %1;" ::"l"(to), "l"(word_of(value, stamp)) : "memory");
}
/// Two words side by side, from an even index on.
__device__ __forceinline__ void send(Word* to, float2 values, unsigned stamp) {
  asm volatile("st.relaxed.gpu.global.v2.b64 [%0], {%1, %2};" ::"l"(to), "l"(word_of(values.x, stamp)),
               "l"(word_of(values.y, stamp))
               : "memory");
}

/// Two words as they are now, from an even index on.
__device__ __forceinline__ ulonglong2 look(const Word* from) {
  ulonglong2 words;
  asm volatile("ld.relaxed.gpu.global.v2.b64 {%0, %1}, [%2];" : "=l"(words.x), "=l"(words.y) : "l"(from) : "memory");
  return words;
}
/// The two words when they have come.
__device__ __forceinline__ ulonglong2 receive(const Word* from, unsigned stamp) {
  ulonglong2 words;
  do words = look(from);
  while (!has(words, stamp));
  return words;
}

/// A vector of words, as load_vector reads it: four at a time.
struct WordsSource {
  const Word* words;
  unsigned stamp;
  struct Four {
    ulonglong2 low, high;
  };
  /// Waits until the four from i on have come. One warp of a block does it: all threads of all blocks, reading what they
  /// need over and over, would slow down those that are still to send.
  __device__ __forceinline__ void wait(int i) const { receive(words + i + 2, stamp); }
  __device__ __forceinline__ Four ask(int i) const { return {look(words + i), look(words + i + 2)}; }
  __device__ __forceinline__ float4 take(Four four, int i) const {
    if (!has(four.low, stamp)) four.low = receive(words + i, stamp);
    if (!has(four.high, stamp)) four.high = receive(words + i + 2, stamp);
    const float2 low = values_of(four.low), high = values_of(four.high);
    return {low.x, low.y, high.x, high.y};
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
