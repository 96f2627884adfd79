// What the kernels that decode a token share (decoder.cu, decoder_families.cu): products with vectors in shared memory,
// and the choice of the best token.
#pragma once
#include "nn/decode_attention.cuh"
#include "nn/decode_weights.cuh"

namespace rw::cuda::decode {

/// Asks for a row of n elements, which all blocks will read, by all blocks together.
template <class T>
__device__ __forceinline__ void prefetch_row(const T* row, int n) {
  constexpr int kLine = 128 / static_cast<int>(sizeof(T));
  for (int i = static_cast<int>(blockIdx.x + gridDim.x * threadIdx.x) * kLine; i < n; i += gridDim.x * kThreads * kLine)
    prefetch(row + i);
}

/// A vector in global memory that is whole already.
struct FloatsSource {
  const float* x;
  using Four = float4;
  __device__ __forceinline__ void wait(int) const {}
  __device__ __forceinline__ Four ask(int i) const { return __ldcg(reinterpret_cast<const float4*>(x + i)); }
  __device__ __forceinline__ float4 take(const Four& four, int) const { return four; }
};

/// The vector x [k] of `source` to shared memory, as two planes of four: lane i reads columns 8i.. as one float4 of
/// each, without conflicts. With a norm, x * norm, and the factor that is missing: 1 / rms(x). The block may still be
/// reading the vector before.
template <bool NORM, class T, class Source>
__device__ __forceinline__ float load_vector(const Source& source, const T* norm, int k, float eps, float* vector,
                                             float* scratch) {
  constexpr int kStep = 4 * kThreads, kAhead = 6;  // loads on their way together
  typename Source::Four four[kAhead];
  Vec<T, 4> weight[kAhead];
  const auto ask_for_norm = [&](int first) {
    if constexpr (NORM) {
#pragma unroll
      for (int u = 0; u < kAhead; ++u)
        if (first + u * kStep < k) weight[u] = load<4>(norm + first + u * kStep);
    }
  };
  float square = 0;
  int first = 4 * static_cast<int>(threadIdx.x);
  ask_for_norm(first);
  if (threadIdx.x < kWarp) source.wait(static_cast<int>(threadIdx.x) * (k / kWarp) & ~3);
  sync_readers();  // what comes is there, or nearly, and the vector before this one has been read
  for (; first < k; first += kAhead * kStep) {
#pragma unroll
    for (int u = 0; u < kAhead; ++u)
      if (first + u * kStep < k) four[u] = source.ask(first + u * kStep);
#pragma unroll
    for (int u = 0; u < kAhead; ++u) {
      const int i = first + u * kStep;
      if (i >= k) continue;
      float4 v = source.take(four[u], i);
      if constexpr (NORM) {
        square += v.x * v.x + v.y * v.y + v.z * v.z + v.w * v.w;
        const Vec<float, 4> w = widen<4>(weight[u]);
        v = {v.x * w.at[0], v.y * w.at[1], v.z * w.at[2], v.w * w.at[3]};
      }
      *reinterpret_cast<float4*>(vector + i / 4 % 2 * (k / 2) + i / 8 * 4) = v;
    }
    ask_for_norm(first + kAhead * kStep);
  }
  if constexpr (NORM) {
    square = warp_reduce(square, Sum{});
    if (threadIdx.x % kWarp == 0) scratch[threadIdx.x / kWarp] = square;
  }
  sync_readers();
  if constexpr (!NORM) return 1.f;
  float sum = 0;
#pragma unroll
  for (int w = 0; w < kWarps; ++w) sum += scratch[w];
  return rsqrtf(sum / static_cast<float>(k) + eps);
}

/// Orders logits as unsigned numbers, larger first, then the smaller index.
__device__ __forceinline__ unsigned long long best_key(float logit, int index) {
  const unsigned bits = __float_as_uint(logit + 0.f);  // -0 becomes 0
  const unsigned ordered = bits >> 31 ? ~bits : bits | 0x80000000u;
  return static_cast<unsigned long long>(ordered) << 32 | (0xffffffffu - static_cast<unsigned>(index));
}
__device__ __forceinline__ int best_of_key(unsigned long long key) {
  const unsigned ordered = static_cast<unsigned>(key >> 32);
  const float logit = __uint_as_float(ordered >> 31 ? ordered & 0x7fffffffu : ~ordered);
  return isfinite(logit) ? static_cast<int>(0xffffffffu - static_cast<unsigned>(key)) : -1;
}

/// What a launch has in shared memory.
template <class T>
struct Local {
  const Model<T>& m;
  const Layer<T>* layers;  // [n_layers]
  const Share* shares;     // [kMatrices]
  const float* cos_sin;    // [2,pairs]
  float *vector, *scratch;
};

/// put(item, products of its two rows with the vector), by lane 0; before(item) first, while the weights come.
template <class T, int SLOTS, bool INT8, bool FED, class Before, class Put>
__device__ __forceinline__ void multiply(WeightStream<T, SLOTS, INT8, FED>& weights, const Local<T>& l, int matrix,
                                         float scale, int& items_before, Before&& before, Put&& put) {
  using Stream = WeightStream<T, SLOTS, INT8, FED>;
  constexpr int kPiece = Stream::kPiece, kParts = Stream::kParts;
  if constexpr (INT8) scale /= 127.f;
  const Share share = l.shares[matrix];
  for (int item = weights.first_item(share, items_before); item < share.end; item += kWarps) {
    before(item);
    float sum[2][kParts] = {};
    for (int first = 0; first < share.k; first += kPiece) weights.take(l.vector, share.k, first, sum);
    float of_row[2];
#pragma unroll
    for (int r = 0; r < 2; ++r) {
      of_row[r] = sum[r][0];
#pragma unroll
      for (int e = 1; e < kParts; ++e) of_row[r] += sum[r][e];
      of_row[r] = warp_reduce(of_row[r], Sum{}) * scale;
    }
    if (threadIdx.x % kWarp == 0) put(item, of_row[0], of_row[1]);
  }
  items_before += share.end - share.begin;
}

/// Gives the grid's best token to m.grid->best and to `result`. Every thread calls it with what it found. The last
/// block leaves the state as the next launch expects it.
template <class T>
__device__ __forceinline__ void finish_token(const Model<T>& m, unsigned long long best, bool bad, int32_t* result) {
  __shared__ unsigned long long best_of[kWarps];
  if (threadIdx.x < kThreads && threadIdx.x % kWarp == 0) best_of[threadIdx.x / kWarp] = best;
  if (__syncthreads_or(bad) && threadIdx.x == 0) m.grid->bad = 1;
  if (threadIdx.x != 0) return;
  for (int w = 1; w < kWarps; ++w) best = max(best, best_of[w]);
  atomicMax(&m.grid->top, best);
  __threadfence();
  if (atomicAdd(&m.grid->done, 1u) + 1 != gridDim.x) return;
  __threadfence();
  GridState& all = *m.grid;
  const unsigned long long top = atomicExch(&all.top, 0ull);
  all.best = atomicExch(&all.bad, 0) != 0 ? -1 : best_of_key(top);
  all.arrived = 0;
  all.done = 0;
  *result = all.best;
}

/// Slots of a warp's ring of weights.
inline constexpr int kShallow = 2;
template <class T>
inline constexpr int kDeep = sizeof(T) == 2 ? 5 : kShallow;
template <class T>
inline constexpr int kDeepest = sizeof(T) == 2 ? 6 : kShallow;

}  // namespace rw::cuda::decode
