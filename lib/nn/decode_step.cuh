// What the parts of the decoder's kernels share: their arguments, the barriers, and which rows a block multiplies.
// decode_weights.cuh brings these to the lanes, decode_exchange.cuh the blocks' results to all blocks, and
// decode_attention.cuh has the attention over the cache.
#pragma once
#include <type_traits>

#include "tensor/launch.cuh"

namespace rw::cuda::decode {

constexpr int kThreads = 256;
constexpr int kWarps = kThreads / kWarp;

/// Of one block of the model. Weights [N,K] row-major, cache [capacity,K,D]. With int8 weights qkv, o, gate_up and down
/// point to codes, a byte each.
template <class T>
struct Layer {
  const T *input_norm, *qkv, *o, *post_norm, *gate_up, *down;
  T *k, *v;
};

/// With int8 weights: the scales of a block's matrices, each [N, ceil(K / 64)].
struct LayerScales {
  const float *qkv, *o, *gate_up, *down;
};

/// A number and its stamp, as blocks send it to each other (decode_exchange.cuh): 32 bits of number and of stamp, or 24
/// and 8.
using LongWord = unsigned long long;
using ShortWord = unsigned;
template <class T>
using Word = std::conditional_t<std::is_same_v<T, b16>, ShortWord, LongWord>;

/// What the blocks of a launch tell each other. All zero but `best` between two launches.
struct GridState {
  unsigned long long top;  // the best logit so far: see best_key
  unsigned arrived, done;  // arrivals at barriers so far; blocks that have finished
  int32_t bad;             // a logit is not a number
  int32_t best;            // the most likely next token, -1 if there is none
};

template <class T>
struct Model {
  const Layer<T>* layers;
  const T *embedding, *norm, *head;  // [V,C], [C], [V,C]
  const double* inv_freq;            // [pairs]
  const float* query_scale;          // [capacity] or null
  float *x, *q, *o, *h, *logits;     // [C], [H,D], [H,D], [F], [V]
  float* partial;                    // [H,splits,D+2]: numerator, top, sum of a split of the cache
  int* heads_arrived;                // [K * parts], zero between two layers
  // The same vectors as words with stamps (decode_exchange.cuh): x, q with k and v of the token, o, h, partial.
  Word<T>*x_words, *qkv_words, *o_words, *h_words;
  LongWord* partial_words;
  GridState* grid;
  int n_layers, hidden, ffn, vocab, n_heads, n_kv_heads, head_dim, pairs;
  int parts, splits;   // attention: blocks that share a kv head's query heads, and that share the cache's length
  int vector_floats;   // shared memory for the activations
  float eps, scale;    // of the norms; 1 / sqrt(D)
  double rope_factor;  // A of RoPE
  bool half;           // pair j is (j, j + pairs), not (2j, 2j + 1)
  bool gated;          // gate_up holds gate and up [2F,C], not up alone [F,C]
  // With int8 weights, whose head are codes, too; else null:
  const LayerScales* layer_scales;  // [n_layers]
  const float* head_scales;
  unsigned token;  // how many tokens were started, this one included; begins anew at 1 (Decoder::start)
};

// --- all blocks -----------------------------------------------------------------------------------------------------

/// Waits until every block of the launch is here; what they wrote before can be read after (past the L1 cache: __ldcg).
/// All blocks must be running at once. `target` counts along, from 0.
__device__ __forceinline__ void grid_barrier(GridState* grid, unsigned& target) {
  target += gridDim.x;
  __syncthreads();
  if (threadIdx.x == 0) {
    asm volatile("red.release.gpu.global.add.u32 [%0], 1;" ::"l"(&grid->arrived) : "memory");
    unsigned seen;
    do {
      asm volatile("ld.acquire.gpu.global.u32 %0, [%1];" : "=r"(seen) : "l"(&grid->arrived) : "memory");
    } while (seen < target);
  }
  __syncthreads();
}

/// A barrier of the kThreads threads that read weights.
__device__ __forceinline__ void sync_readers() { asm volatile("bar.sync 1, %0;" ::"n"(kThreads) : "memory"); }

// --- rows that are read together -----------------------------------------------------------------------------------

enum Matrix { kQkv, kO, kGateUp, kDown, kHead, kMatrices };  // in the order of a token

/// Of a matrix: an item is two of its rows, whose results belong together or lie side by side.
struct Share {
  int k;           // columns
  int begin, end;  // this block's items
};

/// The two elements of a head that pair j is made of; those that do not rotate pair up with their neighbours.
__device__ __forceinline__ int2 pair_of(int j, int pairs, bool half) {
  if (half && j < pairs) return {j, j + pairs};
  return {2 * j, 2 * j + 1};
}

template <class T>
__device__ __forceinline__ Share share_of(const Model<T>& m, int matrix) {
  const int heads = m.n_heads + 2 * m.n_kv_heads;
  const int items = matrix == kQkv      ? heads * m.head_dim / 2
                    : matrix == kGateUp ? (m.gated ? m.ffn : m.ffn / 2)
                    : matrix == kHead   ? (m.vocab + 1) / 2
                                        : m.hidden / 2;
  const int k = matrix == kO ? m.n_heads * m.head_dim : matrix == kDown ? m.ffn : m.hidden;
  const auto first = [&](unsigned block) { return static_cast<int>(static_cast<int64_t>(block) * items / gridDim.x); };
  return {k, first(blockIdx.x), first(blockIdx.x + 1)};
}
template <class T>
__device__ __forceinline__ int2 rows_of(const Model<T>& m, int matrix, int item) {
  if (matrix == kGateUp && m.gated) return {item, m.ffn + item};
  if (matrix == kQkv) {
    const int pairs_per_head = m.head_dim / 2, head = item / pairs_per_head;
    const int2 pair = pair_of(item % pairs_per_head, m.pairs, m.half && head < m.n_heads + m.n_kv_heads);
    return {head * m.head_dim + pair.x, head * m.head_dim + pair.y};
  }
  return {2 * item, matrix == kHead ? min(2 * item + 1, m.vocab - 1) : 2 * item + 1};
}

}  // namespace rw::cuda::decode
