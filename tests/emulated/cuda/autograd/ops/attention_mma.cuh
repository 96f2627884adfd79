// Stands in for lib/autograd/ops/attention_mma.cuh: the products of tensor cores, element by element.
#pragma once
#include "tensor/launch.cuh"

namespace rw::cuda::attn {

constexpr float kLog2e = 1.4426950408889634f;

namespace mma_sync {

inline float exp2_fast(float x) { return std::exp2(x); }
inline uint32_t pack(float low, float high) {
  return from_float<b16>(low).bits | static_cast<uint32_t>(from_float<b16>(high).bits) << 16;
}
/// m16n8k16, c += a b, with PTX's layout of the fragments: lane 4 g + q holds of a rows g and g + 8, columns 2 q, 2 q +
/// 1 and 8 more; of b these rows and column g; of c rows g and g + 8, columns 2 q and 2 q + 1.
inline void mma(float (&c)[4], const uint32_t (&a)[4], uint32_t b0, uint32_t b1) {
  emulated::Warp& w = emulated::warp();
  const int lane = threadIdx.x % kWarp;
  std::copy_n(a, 4, w.a[lane]);
  w.b[lane][0] = b0, w.b[lane][1] = b1;
  w.barrier.arrive_and_wait();
  const auto element = [](uint32_t pair, int k) {
    return to_float(b16{static_cast<uint16_t>(k % 2 ? pair >> 16 : pair & 0xffff)});
  };
  for (int e = 0; e < 4; ++e) {
    const int row = lane / 4 + e / 2 * 8, column = lane % 4 * 2 + e % 2;
    for (int k = 0; k < 16; ++k) {
      const int quad = k % 8 / 2;
      c[e] += element(w.a[row % 8 * 4 + quad][row / 8 + k / 8 * 2], k) * element(w.b[column * 4 + quad][k / 8], k);
    }
  }
  w.barrier.arrive_and_wait();
}

}  // namespace mma_sync
}  // namespace rw::cuda::attn
