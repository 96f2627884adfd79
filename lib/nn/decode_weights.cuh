// How the weights come to the lanes.
//
// It is known from the start which rows a warp will read, through all matrices of all layers. They come in pieces into
// a ring of the warp's own with SLOTS slots: while the activations are being waited for, weights keep coming until the
// ring is full. On sm_90 the copy engine brings them (cp.async.bulk). Before, each lane copies what it will read
// itself. Rows of scales of int8 weights need not be aligned for the copy engine: such ones are copied four bytes at a
// time.
#pragma once
#include "nn/decode_step.cuh"
#include "tensor/int8_codes.cuh"

namespace rw::cuda::decode {

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

__device__ __forceinline__ unsigned shared_address(const void* p) {
  return static_cast<unsigned>(__cvta_generic_to_shared(p));
}

/// The pieces of weights that a warp reads, one after the other, through all matrices of all layers. INT8: the weights
/// are codes in blocks of 64, and products lack the factor 1 / 127.
template <class T, bool INT8>
class WeightWalk {
 public:
  using Weight = std::conditional_t<INT8, int8_t, T>;

  /// `layers` and `shares` [kMatrices] in shared memory.
  __device__ WeightWalk(const Model<T>& model, const Layer<T>* layers, const Share* shares, int warp)
      : m_(model), layers_(layers), shares_(shares), warp_(warp) {
    enter();
  }
  /// The first item of a matrix that is a warp's; the next ones are kWarps further on each. Matrices go on where the
  /// one before ended, so that the warps have equal shares in the long run.
  static __device__ __forceinline__ int first_item(const Share& share, int items_before, int warp) {
    return share.begin + ((warp - items_before) & (kWarps - 1));
  }

  __device__ __forceinline__ bool more() const { return matrix_ < kMatrices; }
  /// How many matrices lie behind; kEnd after the last.
  static constexpr unsigned kEnd = ~0u;
  __device__ __forceinline__ unsigned matrices() const {
    return more() ? static_cast<unsigned>(layer_ * kMatrices + matrix_) : kEnd;
  }
  /// Of the current piece: bytes of a row, a row, its scales, and how many of these.
  __device__ __forceinline__ int bytes() const {
    return min(kRowBytes, (shares_[matrix_].k - column_) * static_cast<int>(sizeof(Weight)));
  }
  __device__ __forceinline__ const Weight* row(int r) const { return rows_[r] + column_; }
  __device__ __forceinline__ const float* scales(int r) const { return row_scales_[r] + column_ / kInt8Block; }
  __device__ __forceinline__ int n_scales() const {
    return min(kScalesPerRow, (shares_[matrix_].k - column_ + kInt8Block - 1) / kInt8Block);
  }
  __device__ __forceinline__ void next() {
    column_ += kColumns<Weight>;
    if (column_ < shares_[matrix_].k) return;
    item_ += kWarps;
    if (item_ < shares_[matrix_].end) return point();
    leave();
    enter();
  }

 private:
  /// To the first item of the current matrix or of the next one that has some for this warp.
  __device__ __forceinline__ void enter() {
    for (; matrix_ < kMatrices; leave()) {
      item_ = first_item(shares_[matrix_], items_before_, warp_);
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
  int warp_;
  int matrix_ = kQkv, layer_ = 0, item_ = 0, column_ = 0, items_before_ = 0;
  const Weight* rows_[2] = {};
  const float* matrix_scales_ = nullptr;  // INT8
  const float* row_scales_[2] = {};
};

// --- mbarriers (sm_90) ----------------------------------------------------------------------------------------------

__device__ __forceinline__ void init_barrier(unsigned barrier, int arrivals) {
  asm volatile("mbarrier.init.shared::cta.b64 [%0], %1;" ::"r"(barrier), "r"(arrivals) : "memory");
}
__device__ __forceinline__ void arrive(unsigned barrier) {
  asm volatile("mbarrier.arrive.shared::cta.b64 _, [%0];" ::"r"(barrier) : "memory");
}
/// Whether the barrier's phase of this parity is over, at once.
__device__ __forceinline__ bool was_over(unsigned barrier, unsigned parity) {
  uint32_t over;
  asm volatile("{\n .reg .pred p;\n mbarrier.test_wait.parity.shared.b64 p, [%1], %2;\n selp.u32 %0, 1, 0, p;\n}"
               : "=r"(over)
               : "r"(barrier), "r"(parity)
               : "memory");
  return over != 0;
}
/// The same after some waiting.
__device__ __forceinline__ bool is_over(unsigned barrier, unsigned parity) {
  uint32_t over;
  asm volatile("{\n .reg .pred p;\n mbarrier.try_wait.parity.shared.b64 p, [%1], %2;\n selp.u32 %0, 1, 0, p;\n}"
               : "=r"(over)
               : "r"(barrier), "r"(parity)
               : "memory");
  return over != 0;
}

/// Asks the copy engine for the walk's current piece: weights into `slot`, scales into `scales`. `ready` counts it.
template <class T, bool INT8>
__device__ __forceinline__ void ask_for_piece(const WeightWalk<T, INT8>& walk, unsigned slot, unsigned scales,
                                              unsigned ready, uint64_t policy) {
  const auto copy = [&](unsigned to, const void* from, int bytes) {
    asm volatile(
        "cp.async.bulk.shared::cluster.global.mbarrier::complete_tx::bytes.L2::cache_hint [%0], [%1], %2, [%3], %4;" ::
            "r"(to),
        "l"(from), "r"(bytes), "r"(ready), "l"(policy)
        : "memory");
  };
  const int bytes = walk.bytes();
  int all = 2 * bytes;
  bool aligned = true;  // rows of scales, for the copy engine
  if constexpr (INT8) {
    aligned = (walk.n_scales() % 4 | reinterpret_cast<uintptr_t>(walk.scales(0)) % 16 |
               reinterpret_cast<uintptr_t>(walk.scales(1)) % 16) == 0;
    if (aligned) all += 8 * walk.n_scales();
  }
  asm volatile("mbarrier.arrive.expect_tx.shared.b64 _, [%0], %1;" ::"r"(ready), "r"(all) : "memory");
#pragma unroll
  for (int r = 0; r < 2; ++r) copy(slot + r * kRowBytes, walk.row(r), bytes);
  if constexpr (INT8) {
    if (aligned) {
#pragma unroll
      for (int r = 0; r < 2; ++r) copy(scales + r * kScalesPerRow * 4, walk.scales(r), 4 * walk.n_scales());
      arrive(ready);
    } else {
      for (int i = 0; i < walk.n_scales(); ++i)
#pragma unroll
        for (int r = 0; r < 2; ++r)
          asm volatile("cp.async.ca.shared.global [%0], [%1], 4;" ::"r"(scales + (r * kScalesPerRow + i) * 4),
                       "l"(walk.scales(r) + i)
                       : "memory");
      asm volatile("cp.async.mbarrier.arrive.noinc.shared::cta.b64 [%0];" ::"r"(ready) : "memory");
    }
  }
}

/// Whether a warp of its own feeds the others (feed_warps).
#if defined(__CUDA_ARCH__) && __CUDA_ARCH__ >= 900
inline constexpr bool kCanFeed = true;
#else
inline constexpr bool kCanFeed = false;
#endif

/// Threads of the group of that warp. Registers move by groups of four warps, from these to those that compute.
inline constexpr int kFeeders = 4 * kWarp;
__device__ __forceinline__ void give_registers() {
#if __CUDA_ARCH__ >= 900
  asm volatile("setmaxnreg.dec.sync.aligned.u32 40;");
#endif
}
__device__ __forceinline__ void take_registers() {
#if __CUDA_ARCH__ >= 900
  asm volatile("setmaxnreg.inc.sync.aligned.u32 232;");
#endif
}

/// Pieces of a warp that are on their way at once. These keep the memory busy. More would wait in its queues, and with
/// them the few bytes that all blocks wait for (docs/kernels-log.md).
inline constexpr int kUnderway = 2;

/// A warp for nothing else: lane w asks for the pieces of warp w as there is room in its ring, and not before the piece
/// kUnderway earlier has come. A matrix comes first to the warps that have an item of it more than the others: nothing
/// of the next one is asked for before. ready, emptied: [kWarps][SLOTS].
template <class T, int SLOTS, bool INT8>
__device__ __forceinline__ void feed_warps(const Model<T>& m, const Layer<T>* layers, const Share* shares,
                                           unsigned char* ring, const uint64_t* ready, const uint64_t* emptied) {
  const int warp = threadIdx.x % kWarp;
  if (warp >= kWarps) return;
  uint64_t policy;
  asm volatile("createpolicy.fractional.L2::evict_first.b64 %0, 1.0;" : "=l"(policy));
  const unsigned slots = shared_address(ring) + warp * SLOTS * kSlotBytes,
                 scales = shared_address(ring) + kWarps * SLOTS * kSlotBytes + warp * SLOTS * kSlotScaleBytes;
  const unsigned ready_of = shared_address(ready) + warp * SLOTS * 8,
                 emptied_of = shared_address(emptied) + warp * SLOTS * 8;
  WeightWalk<T, INT8> walk(m, layers, shares, warp);
  static_assert(kUnderway <= SLOTS);
  int slot = 0, earlier = SLOTS - kUnderway;  // of the next piece, and of the one kUnderway before
  unsigned round = 0, earlier_round = ~0u;    // how often these slots were filled before; the latter from 0 on
  while (true) {
    const unsigned first = __reduce_min_sync((1u << kWarps) - 1, walk.matrices());
    if (first == walk.kEnd) return;
    if (walk.matrices() != first) continue;
    if (round > 0 && !was_over(emptied_of + slot * 8, (round - 1) & 1)) continue;
    if (earlier_round != ~0u && !was_over(ready_of + earlier * 8, earlier_round & 1)) continue;
    ask_for_piece(walk, slots + slot * kSlotBytes, scales + slot * kSlotScaleBytes, ready_of + slot * 8, policy);
    walk.next();
    if (++slot == SLOTS) slot = 0, ++round;
    if (++earlier == SLOTS) earlier = 0, ++earlier_round;
  }
}

/// A warp's weights as they come. FED: by feed_warps where the card can; else the warp asks for itself.
template <class T, int SLOTS, bool INT8, bool FED = false>
class WeightStream {
 public:
  using Walk = WeightWalk<T, INT8>;
  using Weight = typename Walk::Weight;
  static constexpr int kPiece = kColumns<Weight>;
  static constexpr int kParts = kEights<Weight>;

  /// Of this warp: ready and emptied [SLOTS]. The block must not read `ready` before its next barrier.
  __device__ WeightStream(const Model<T>& model, const Layer<T>* layers, const Share* shares, unsigned char* ring,
                          const uint64_t* ready, const uint64_t* emptied)
      : walk_(model, layers, shares, threadIdx.x / kWarp) {
    const int warp = threadIdx.x / kWarp;
    lane_ = threadIdx.x % kWarp;
    ring_ = shared_address(ring) + warp * SLOTS * kSlotBytes;
    scales_ = shared_address(ring) + kWarps * SLOTS * kSlotBytes + warp * SLOTS * kSlotScaleBytes;
    ready_ = shared_address(ready), emptied_ = shared_address(emptied);
#if __CUDA_ARCH__ >= 900
    asm volatile("createpolicy.fractional.L2::evict_first.b64 %0, 1.0;" : "=l"(once_));
    if (lane_ == 0) {
#pragma unroll
      for (int i = 0; i < SLOTS; ++i) {
        init_barrier(ready_ + i * 8, kFed && INT8 ? 2 : 1);
        if constexpr (kFed) init_barrier(emptied_ + i * 8, 1);
      }
      asm volatile("fence.mbarrier_init.release.cluster;" ::: "memory");
    }
    __syncwarp();
#endif
    if constexpr (!kFed) {
#pragma unroll
      for (int i = 0; i < SLOTS; ++i) ask(i);
    }
  }

  static __device__ __forceinline__ int first_item(const Share& share, int items_before) {
    return Walk::first_item(share, items_before, static_cast<int>(threadIdx.x / kWarp));
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
    if constexpr (kFed) {
      if (lane_ == 0) arrive(emptied_ + slot_ * 8);
    } else {
      ask(slot_);
    }
    if (++slot_ == SLOTS) slot_ = 0, phase_ ^= 1;
  }

 private:
  static constexpr bool kFed = FED && kCanFeed;
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
    while (!is_over(ready_ + slot_ * 8, phase_)) {
    }
#else
    asm volatile("cp.async.wait_group %0;" ::"n"(SLOTS - 1) : "memory");
#endif
    if constexpr (INT8 && !kFed) {
#if __CUDA_ARCH__ >= 900
      asm volatile("cp.async.wait_group %0;" ::"n"(SLOTS - 1) : "memory");
#endif
      __syncwarp();  // other lanes have copied this lane's scales
    }
  }

  /// Asks for what comes next, into `slot`, which must have been read.
  __device__ __forceinline__ void ask(int slot) {
    if (walk_.more()) {
      const int bytes = walk_.bytes();
      const unsigned to = ring_ + slot * kSlotBytes;
#if __CUDA_ARCH__ >= 900
      if (lane_ == 0) {
        const unsigned ready = ready_ + slot * 8;
        asm volatile("mbarrier.arrive.expect_tx.shared.b64 _, [%0], %1;" ::"r"(ready), "r"(2 * bytes) : "memory");
#pragma unroll
        for (int r = 0; r < 2; ++r) {
          asm volatile(
              "cp.async.bulk.shared::cluster.global.mbarrier::complete_tx::bytes.L2::cache_hint [%0], [%1], %2, [%3], "
              "%4;" ::"r"(to + r * kRowBytes),
              "l"(walk_.row(r)), "r"(bytes), "r"(ready), "l"(once_)
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
                         "l"(reinterpret_cast<const char*>(walk_.row(r)) + at)
                         : "memory");
          }
        }
      }
#endif
      if constexpr (INT8) ask_for_scales(slot);
      walk_.next();
    }
#if __CUDA_ARCH__ >= 900
    if constexpr (INT8)
#endif
      asm volatile("cp.async.commit_group;" ::: "memory");
  }
  __device__ __forceinline__ void ask_for_scales(int slot) const {
    if (lane_ >= walk_.n_scales()) return;
#pragma unroll
    for (int r = 0; r < 2; ++r) {
      asm volatile("cp.async.ca.shared.global [%0], [%1], 4;" ::"r"(scales_ + slot * kSlotScaleBytes +
                                                                    (r * kScalesPerRow + lane_) * 4),
                   "l"(walk_.scales(r) + lane_)
                   : "memory");
    }
  }

  Walk walk_;
  unsigned ring_, scales_, ready_, emptied_;  // shared addresses
  int lane_;
  int slot_ = 0;        // the oldest
  unsigned phase_ = 0;  // of its mbarrier
  uint64_t once_ = 0;   // the L2 cache's policy for weights: they leave before anything else
};

}  // namespace rw::cuda::decode
