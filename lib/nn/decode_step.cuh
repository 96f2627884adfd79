// What the parts of the decoder's kernel (decoder.cu) share: its arguments, the barrier over its grid, and how the
// weights come to the lanes. decode_attention.cuh has the attention over the cache.
#pragma once
#include "tensor/int8_codes.cuh"
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

// --- the weights' way -----------------------------------------------------------------------------------------------
//
// A warp knows from the start which rows it will read, through all matrices of all layers, and keeps SLOTS pieces of
// them on their way into a ring of its own: while the activations are being waited for, weights keep coming until the
// ring is full. On sm_90 lane 0 asks the copy engine (cp.async.bulk), whose requests do not stand in the way of the
// activations'; before, each lane copies what it will read itself. Scales of int8 weights, whose rows need not be
// aligned, the lanes copy four bytes at a time, everywhere.

constexpr int kRowBytes = 2048;            // of one row, in a slot
constexpr int kSlotBytes = 2 * kRowBytes;  // of the two rows of an item
template <class T>
constexpr int kColumns = kRowBytes / static_cast<int>(sizeof(T));
template <class T>
constexpr int kEights = kColumns<T> / (8 * kWarp);  // columns per lane, by eight

constexpr int kScalesPerRow = kRowBytes / kInt8Block;  // of int8 weights, in a slot
constexpr int kSlotScaleBytes = 2 * kScalesPerRow * 4;
static_assert(kScalesPerRow == kWarp);  // a lane copies one of each row

/// The warps' rings: their pieces, then the scales of these.
__host__ __device__ constexpr int ring_bytes(int slots, bool int8) {
  return slots * kWarps * (kSlotBytes + (int8 ? kSlotScaleBytes : 0));
}
/// Shared memory of a launch, in this order: rings, layers, activations.
template <class T>
__host__ __device__ constexpr int64_t shared_bytes(int slots, int64_t n_layers, int64_t vector_floats, bool int8) {
  return ring_bytes(slots, int8) + n_layers * static_cast<int64_t>(sizeof(Layer<T>)) + vector_floats * 4;
}

/// INT8: the weights are codes in blocks of 64, and products lack the factor 1 / 127.
template <class T, int SLOTS, bool INT8>
class WeightStream {
 public:
  using Weight = std::conditional_t<INT8, int8_t, T>;
  static constexpr int kPiece = kColumns<Weight>;
  static constexpr int kParts = kEights<Weight>;

  /// `layers` and `shares` [kMatrices] in shared memory; `ready` [SLOTS] of this warp.
  __device__ WeightStream(const Model<T>& model, const Layer<T>* layers, const Share* shares, unsigned char* ring,
                          uint64_t* ready)
      : m_(model), layers_(layers), shares_(shares) {
    const int warp = threadIdx.x / kWarp;
    lane_ = threadIdx.x % kWarp;
    ring_ = shared_address(ring) + warp * SLOTS * kSlotBytes;
    scales_ = shared_address(ring) + kWarps * SLOTS * kSlotBytes + warp * SLOTS * kSlotScaleBytes;
    ready_ = shared_address(ready);
#if __CUDA_ARCH__ >= 900
    if (lane_ == 0) {
#pragma unroll
      for (int i = 0; i < SLOTS; ++i)
        asm volatile("mbarrier.init.shared::cta.b64 [%0], 1;" ::"r"(ready_ + i * 8) : "memory");
      asm volatile("fence.mbarrier_init.release.cluster;" ::: "memory");
    }
    __syncwarp();
#endif
    matrix_ = kQkv;
    enter();
#pragma unroll
    for (int i = 0; i < SLOTS; ++i) ask(i);
  }

  /// The first item of a matrix that is this warp's; the next ones are kWarps further on each. Matrices go on where the
  /// one before ended, so that the warps have equal shares in the long run.
  static __device__ __forceinline__ int first_item(const Share& share, int items_before) {
    return share.begin + ((static_cast<int>(threadIdx.x / kWarp) - items_before) & (kWarps - 1));
  }

  /// Adds the products of the next kPiece columns, from `first` on, of the current item's rows to `sum`.
  __device__ __forceinline__ void take(const float* vector, int k, int first, float (&sum)[2][kParts]) {
    wait();
    const unsigned slot = ring_ + slot_ * kSlotBytes, scales = scales_ + slot_ * kSlotScaleBytes;
#pragma unroll
    for (int e = 0; e < kParts; ++e) {
      const int column = first + (e * kWarp + lane_) * 8;
      if (column >= k) break;
      const float4 a = *reinterpret_cast<const float4*>(vector + column / 2);
      const float4 b = *reinterpret_cast<const float4*>(vector + k / 2 + column / 2);
#pragma unroll
      for (int r = 0; r < 2; ++r) {
        float& sum_of_part = sum[r][e];
        float s = INT8 ? 0.f : sum_of_part;
        const auto w = read(slot + r * kRowBytes + (e * kWarp + lane_) * kEightBytes);
        s = fmaf(w[0], a.x, s), s = fmaf(w[1], a.y, s), s = fmaf(w[2], a.z, s), s = fmaf(w[3], a.w, s);
        s = fmaf(w[4], b.x, s), s = fmaf(w[5], b.y, s), s = fmaf(w[6], b.z, s), s = fmaf(w[7], b.w, s);
        if constexpr (INT8) {  // eight lanes share a block
          const int block = e * (8 * kWarp / kInt8Block) + lane_ / (kInt8Block / 8);
          s = fmaf(read_float(scales + (r * kScalesPerRow + block) * 4), s, sum_of_part);
        }
        sum_of_part = s;
      }
    }
    __syncwarp();
    ask(slot_);
    if (++slot_ == SLOTS) slot_ = 0, phase_ ^= 1;
  }

 private:
  static __device__ __forceinline__ unsigned shared_address(const void* p) {
    return static_cast<unsigned>(__cvta_generic_to_shared(p));
  }
  static constexpr int kEightBytes = 8 * static_cast<int>(sizeof(Weight));
  static __device__ __forceinline__ float read_float(unsigned from) {
    float f;
    asm volatile("ld.shared.f32 %0, [%1];" : "=f"(f) : "r"(from) : "memory");
    return f;
  }
  static __device__ __forceinline__ auto read(unsigned from) {
    if constexpr (INT8) {
      uint32_t low, high;
      asm volatile("ld.shared.v2.u32 {%0, %1}, [%2];" : "=r"(low), "=r"(high) : "r"(from) : "memory");
      return EightCodes{low, high};
    } else {
      return read_eight(from);
    }
  }
  static __device__ __forceinline__ Eight<T> read_eight(unsigned from) {
    constexpr int kEightBytes = static_cast<int>(sizeof(Eight<T>));
    uint4 words[kEightBytes / 16];
#pragma unroll
    for (int i = 0; i < kEightBytes / 16; ++i) {
      asm volatile("ld.shared.v4.u32 {%0, %1, %2, %3}, [%4];"
                   : "=r"(words[i].x), "=r"(words[i].y), "=r"(words[i].z), "=r"(words[i].w)
                   : "r"(from + i * 16)
                   : "memory");
    }
    Eight<T> e;
    memcpy(&e, words, sizeof e);
    return e;
  }

  /// Until the oldest piece has come.
  __device__ __forceinline__ void wait() const {
#if __CUDA_ARCH__ >= 900
    uint32_t there;
    do {
      asm volatile("{\n .reg .pred p;\n mbarrier.try_wait.parity.shared.b64 p, [%1], %2;\n selp.u32 %0, 1, 0, p;\n}"
                   : "=r"(there)
                   : "r"(ready_ + slot_ * 8), "r"(phase_)
                   : "memory");
    } while (!there);
#else
    asm volatile("cp.async.wait_group %0;" ::"n"(SLOTS - 1) : "memory");
#endif
    if constexpr (INT8) {
#if __CUDA_ARCH__ >= 900
      asm volatile("cp.async.wait_group %0;" ::"n"(SLOTS - 1) : "memory");
#endif
      __syncwarp();  // other lanes have copied this lane's scales
    }
  }

  /// Asks for what comes next, into `slot`, which must have been read.
  __device__ __forceinline__ void ask(int slot) {
    if (matrix_ < kMatrices) {
      const int bytes = min(kRowBytes, (shares_[matrix_].k - column_) * static_cast<int>(sizeof(Weight)));
      const unsigned to = ring_ + slot * kSlotBytes;
#if __CUDA_ARCH__ >= 900
      if (lane_ == 0) {
        const unsigned ready = ready_ + slot * 8;
        asm volatile("mbarrier.arrive.expect_tx.shared.b64 _, [%0], %1;" ::"r"(ready), "r"(2 * bytes) : "memory");
#pragma unroll
        for (int r = 0; r < 2; ++r) {
          asm volatile("cp.async.bulk.shared::cluster.global.mbarrier::complete_tx::bytes [%0], [%1], %2, [%3];" ::"r"(
                           to + r * kRowBytes),
                       "l"(rows_[r] + column_), "r"(bytes), "r"(ready)
                       : "memory");
        }
      }
#else
#pragma unroll
      for (int r = 0; r < 2; ++r) {
#pragma unroll
        for (int i = 0; i < kRowBytes / (16 * kWarp); ++i) {  // the pieces that this lane will read
          constexpr int kEach = INT8 ? 1 : kEightBytes / 16;  // INT8: half of it is another lane's
          const int at = (i / kEach * kWarp + lane_) * (INT8 ? 16 : kEightBytes) + i % kEach * 16;
          if (at < bytes) {
            asm volatile("cp.async.cg.shared.global [%0], [%1], 16;" ::"r"(to + r * kRowBytes + at),
                         "l"(reinterpret_cast<const char*>(rows_[r] + column_) + at)
                         : "memory");
          }
        }
      }
#endif
      if constexpr (INT8) ask_for_scales(slot);
      column_ += kPiece;
      if (column_ >= shares_[matrix_].k) {
        item_ += kWarps;
        if (item_ < shares_[matrix_].end) {
          point();
        } else {
          leave();
          enter();
        }
      }
    }
#if __CUDA_ARCH__ >= 900
    if constexpr (INT8)
#endif
      asm volatile("cp.async.commit_group;" ::: "memory");
  }
  __device__ __forceinline__ void ask_for_scales(int slot) const {
    if (column_ + lane_ * kInt8Block >= shares_[matrix_].k) return;
#pragma unroll
    for (int r = 0; r < 2; ++r) {
      asm volatile("cp.async.ca.shared.global [%0], [%1], 4;" ::"r"(scales_ + slot * kSlotScaleBytes +
                                                                    (r * kScalesPerRow + lane_) * 4),
                   "l"(row_scales_[r] + column_ / kInt8Block + lane_)
                   : "memory");
    }
  }

  /// To the first item of the current matrix or of the next one that has some for this warp.
  __device__ __forceinline__ void enter() {
    for (; matrix_ < kMatrices; leave()) {
      item_ = first_item(shares_[matrix_], items_before_);
      if (item_ >= shares_[matrix_].end) continue;
      if constexpr (INT8) matrix_scales_ = scales_of_matrix();
      return point();
    }
  }
  __device__ __forceinline__ void leave() {
    items_before_ += shares_[matrix_].end - shares_[matrix_].begin;
    if (matrix_ == kDown && ++layer_ < m_.n_layers) {
      matrix_ = kQkv;
    } else {
      ++matrix_;
    }
  }
  __device__ __forceinline__ void point() {
    column_ = 0;
    const T* w = m_.head;
    if (matrix_ == kQkv) w = layers_[layer_].qkv;
    if (matrix_ == kO) w = layers_[layer_].o;
    if (matrix_ == kGateUp) w = layers_[layer_].gate_up;
    if (matrix_ == kDown) w = layers_[layer_].down;
    const int2 rows = rows_of(m_, matrix_, item_);
    rows_[0] = reinterpret_cast<const Weight*>(w) + static_cast<int64_t>(rows.x) * shares_[matrix_].k;
    rows_[1] = reinterpret_cast<const Weight*>(w) + static_cast<int64_t>(rows.y) * shares_[matrix_].k;
    if constexpr (INT8) {
      const int blocks = (shares_[matrix_].k + kInt8Block - 1) / kInt8Block;
      row_scales_[0] = matrix_scales_ + static_cast<int64_t>(rows.x) * blocks;
      row_scales_[1] = matrix_scales_ + static_cast<int64_t>(rows.y) * blocks;
    }
  }
  /// Scales of the current matrix.
  __device__ __forceinline__ const float* scales_of_matrix() const {
    if (matrix_ == kHead) return m_.head_scales;
    const LayerScales& all = m_.layer_scales[layer_];
    return matrix_ == kQkv ? all.qkv : matrix_ == kO ? all.o : matrix_ == kGateUp ? all.gate_up : all.down;
  }

  const Model<T>& m_;
  const Layer<T>* layers_;
  const Share* shares_;
  unsigned ring_, scales_, ready_;  // shared addresses
  int lane_;
  int slot_ = 0;        // the oldest
  unsigned phase_ = 0;  // of its mbarrier
  // What is asked for next.
  int matrix_, layer_ = 0, item_ = 0, column_ = 0, items_before_ = 0;
  const Weight* rows_[2] = {};
  const float* matrix_scales_ = nullptr;  // INT8
  const float* row_scales_[2] = {};
};

}  // namespace rw::cuda::decode
