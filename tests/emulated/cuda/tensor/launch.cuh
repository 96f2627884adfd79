// Stands in for lib/tensor/launch.cuh and CUDA where kernels run on the CPU: a thread per lane, one block at a time.
// Slow, and every lane is its own thread, so that a missing barrier shows under -fsanitize=thread. Only what the
// kernels under test use.
#pragma once
#include <algorithm>
#include <barrier>
#include <bit>
#include <cmath>
#include <cstdint>
#include <cstring>
#include <memory>
#include <thread>
#include <vector>

#define __host__
#define __device__
#define __forceinline__ inline

struct float2 {
  float x = 0, y = 0;
};
struct alignas(16) float4 {
  float x = 0, y = 0, z = 0, w = 0;
};
struct alignas(16) uint4 {
  uint32_t x = 0, y = 0, z = 0, w = 0;
};
inline float4 make_float4(float x, float y, float z, float w) { return {x, y, z, w}; }
using std::max, std::min;

namespace rw::cuda {

inline constexpr int kWarp = 32;
inline constexpr unsigned kAllLanes = 0xffffffffu;

namespace emulated {
struct Lane {
  int x = 0;
};
struct Warp {
  std::barrier<> barrier{kWarp};
  float value[kWarp] = {};
  uint32_t a[kWarp][4] = {}, b[kWarp][2] = {};
};
struct Block {
  std::vector<std::unique_ptr<Warp>> warps;
  std::barrier<> barrier;
  explicit Block(int threads) : barrier(threads) {
    for (int i = 0; i < threads / kWarp; ++i) warps.push_back(std::make_unique<Warp>());
  }
};
inline thread_local Block* block = nullptr;
}  // namespace emulated
inline thread_local emulated::Lane threadIdx;

namespace emulated {
inline Warp& warp() { return *block->warps[static_cast<size_t>(threadIdx.x / kWarp)]; }
/// kernel() by all threads of one block.
template <class Kernel>
void run(int threads, const Kernel& kernel) {
  Block shared(threads);
  std::vector<std::jthread> lanes;
  for (int i = 0; i < threads; ++i) {
    lanes.emplace_back([&, i] {
      block = &shared;
      threadIdx.x = i;
      kernel();
    });
  }
}
}  // namespace emulated

inline void __syncthreads() { emulated::block->barrier.arrive_and_wait(); }
inline float __shfl_sync(unsigned, float value, int from) {
  emulated::Warp& w = emulated::warp();
  w.value[threadIdx.x % kWarp] = value;
  w.barrier.arrive_and_wait();
  value = w.value[from];
  w.barrier.arrive_and_wait();
  return value;
}
inline float __shfl_xor_sync(unsigned lanes, float value, int with) {
  return __shfl_sync(lanes, value, threadIdx.x % kWarp ^ with);
}
template <class T>
T __ldcg(const T* p) {
  return *p;
}
inline float __uint_as_float(uint32_t bits) { return std::bit_cast<float>(bits); }
inline uint32_t __byte_perm(uint32_t low, uint32_t high, unsigned selector) {
  const uint64_t bytes = static_cast<uint64_t>(high) << 32 | low;
  uint32_t out = 0;
  for (int i = 0; i < 4; ++i) out |= static_cast<uint32_t>(bytes >> 8 * (selector >> 4 * i & 7) & 0xff) << 8 * i;
  return out;
}

struct b16 {
  uint16_t bits = 0;
};
inline float to_float(b16 x) { return std::bit_cast<float>(static_cast<uint32_t>(x.bits) << 16); }
inline float to_float(float x) { return x; }
template <class T>
T from_float(float x) {
  if constexpr (std::is_same_v<T, float>) {
    return x;
  } else {  // to the nearest, ties to even
    const uint32_t bits = std::bit_cast<uint32_t>(x);
    return {static_cast<uint16_t>((bits + 0x7fff + (bits >> 16 & 1)) >> 16)};
  }
}
template <class T, int N>
struct Vec {
  T at[N];
};
template <class T>
struct Eight {
  T at[8];
  float operator[](int i) const { return to_float(at[i]); }
};
/// A read, so that an address outside of an array shows under -fsanitize=address.
inline void prefetch(const void* p) { static_cast<void>(*static_cast<const volatile char*>(p)); }

struct Sum {
  float operator()(float a, float b) const { return a + b; }
};
struct Max {
  float operator()(float a, float b) const { return std::max(a, b); }
};
template <class Op>
float warp_reduce(float value, Op op) {
  for (int offset = kWarp / 2; offset > 0; offset /= 2) value = op(value, __shfl_xor_sync(kAllLanes, value, offset));
  return value;
}

}  // namespace rw::cuda
