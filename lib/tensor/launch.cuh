// What every kernel file shares: the compute stream, checked launches, 16-byte
// vectors, reductions. Only .cu files include it.
//
// One stream per device carries all work of the library, so memory that the caching allocator hands out again is safe
// to write without waiting, and a whole step can be captured as a CUDA graph: nothing here synchronises or allocates.
#pragma once
#include <cuda_bf16.h>
#include <cuda_runtime.h>

#include <cstdint>
#include <utility>

#include "tensor/error.h"
#include "tensor/profile.h"
#include "tensor/tensor.h"

namespace rw::cuda {

// --- host side ------------------------------------------------------------------------------------------------------

/// The compute stream of the current device (non-blocking: it does not wait for the legacy default stream).
cudaStream_t stream();
/// Streaming multiprocessors of the current device.
int multiprocessors();
/// Bytes of shared memory that one block may ask for.
int max_shared_bytes();

/// Errors: throws with the call's name and CUDA's own words.
inline void check_cuda(cudaError_t status, const char* call) {
  if (status != cudaSuccess) fail("cuda", call, ": ", cudaGetErrorString(status));
}

/// What a launch is called (a string literal, or keep_name) and, where its launcher knows it, the work it has to do.
struct Label {
  const char* name;
  Work work;
  Label(const char* kernel_name, Work least = {}) : name(kernel_name), work(least) {}  // NOLINT: a name is a label
};
/// Bytes of tensors, for a Label; undefined ones count nothing.
template <class... Tensors>
int64_t bytes_of(const Tensors&... t) {
  return ((t.defined() ? t.bytes() : 0) + ...);
}

void begin_timed(const Label& label);  // profile.cu
void end_timed() noexcept;
/// Times what is put on the compute stream while it lives, if a profile is being taken.
class Timed {
 public:
  explicit Timed(const Label& label) : on_(profiling()) {
    if (on_) begin_timed(label);
  }
  ~Timed() {
    if (on_) end_timed();
  }
  Timed(const Timed&) = delete;
  Timed& operator=(const Timed&) = delete;

 private:
  bool on_;
};

/// For compute-sanitizer's initcheck, which does not see what bulk copies and some of cuBLASLt's kernels write: with
/// ROPEWALK_INITCHECK in the environment, zeroes memory that one of those is going to fill: rows of `bytes` bytes,
/// `pitch` bytes apart. Otherwise nothing.
void announce_write(void* p, int64_t bytes, int64_t rows = 1, int64_t pitch = 0);

/// Blocks of a launch: a number, or up to three of them.
struct Grid {
  int64_t x, y = 1, z = 1;
  Grid(int64_t blocks) : x(blocks) {}  // NOLINT
  Grid(int64_t blocks_x, int64_t blocks_y, int64_t blocks_z = 1) : x(blocks_x), y(blocks_y), z(blocks_z) {}
};

/// Starts `kernel` on the compute stream. Errors: the launch was refused; the message names the kernel.
template <class... Parameters, class... Arguments>
void launch(const Label& label, void (*kernel)(Parameters...), Grid grid, int threads, int64_t shared_bytes,
            Arguments&&... arguments) {
  if (grid.x == 0 || grid.y == 0 || grid.z == 0) return;
  check(grid.x > 0 && grid.x <= INT32_MAX && grid.y > 0 && grid.y <= 65535 && grid.z > 0 && grid.z <= 65535, "cuda",
        label.name, ": a grid of ", grid.x, " x ", grid.y, " x ", grid.z, " blocks");
  if (shared_bytes > 48 * 1024) {  // beyond this a kernel has to ask first
    check_cuda(
        cudaFuncSetAttribute(kernel, cudaFuncAttributeMaxDynamicSharedMemorySize, static_cast<int>(shared_bytes)),
        label.name);
  }
  const Timed timed(label);
  kernel<<<dim3(static_cast<unsigned>(grid.x), static_cast<unsigned>(grid.y), static_cast<unsigned>(grid.z)),
           static_cast<unsigned>(threads), static_cast<size_t>(shared_bytes), stream()>>>(
      static_cast<Parameters>(std::forward<Arguments>(arguments))...);
  check_cuda(cudaGetLastError(), label.name);
}

/// Blocks of `kernel` that the whole card holds at once: the grid of a kernel whose blocks stay and walk over the work.
template <class... Parameters>
int64_t resident_blocks(const char* name, void (*kernel)(Parameters...), int threads, int64_t shared_bytes) {
  int per_multiprocessor = 0;
  if (shared_bytes > 48 * 1024) {
    check_cuda(
        cudaFuncSetAttribute(kernel, cudaFuncAttributeMaxDynamicSharedMemorySize, static_cast<int>(shared_bytes)),
        name);
  }
  check_cuda(cudaOccupancyMaxActiveBlocksPerMultiprocessor(&per_multiprocessor, kernel, threads,
                                                           static_cast<size_t>(shared_bytes)),
             name);
  check(per_multiprocessor > 0, "cuda", name, ": a block of ", threads, " threads and ", shared_bytes,
        " shared bytes does not fit");
  return static_cast<int64_t>(per_multiprocessor) * multiprocessors();
}

inline int64_t ceil_div(int64_t a, int64_t b) { return (a + b - 1) / b; }

/// True if all pointers may be read 16 bytes at a time. Null pointers do not count.
template <class... Pointers>
bool aligned16(Pointers... pointers) {
  return ((reinterpret_cast<uintptr_t>(pointers) % 16 == 0) && ...);
}

/// Device types of the two dtypes that kernels work in.
using b16 = __nv_bfloat16;
template <class T>
T* as(const Tensor& t) {
  return t.defined() ? static_cast<T*>(t.raw()) : nullptr;
}

/// Calls f(T{}) with T = float or __nv_bfloat16. Errors: another dtype (f64 is checked on the CPU, not here).
template <class F>
decltype(auto) dispatch(DType t, const char* op, F&& f) {
  if (t == DType::f32) return f(float{});
  check(t == DType::bf16, op, "expected f32 or bf16 on a GPU, got ", t);
  return f(b16{});
}
/// Calls f(std::integral_constant<int, N>) with N = 8 (a vector path) or 1.
template <class F>
decltype(auto) dispatch_width(bool wide, F&& f) {
  if (wide) return f(std::integral_constant<int, 8>{});
  return f(std::integral_constant<int, 1>{});
}

// --- device side ----------------------------------------------------------------------------------------------------

inline constexpr int kWarp = 32;
inline constexpr unsigned kAllLanes = 0xffffffffu;

__device__ __forceinline__ float to_float(float x) { return x; }
__device__ __forceinline__ float to_float(b16 x) { return __bfloat162float(x); }
__device__ __forceinline__ float to_float(double x) { return static_cast<float>(x); }
template <class T>
__device__ __forceinline__ T from_float(float x) {
  if constexpr (std::is_same_v<T, b16>) {
    return __float2bfloat16_rn(x);
  } else {
    return static_cast<T>(x);
  }
}

/// N elements that travel together, in accesses of up to 16 bytes (8 bf16 are one access, 8 f32 two).
template <class T, int N>
struct alignas(sizeof(T) * N < 16 ? sizeof(T) * N : 16) Vec {
  T at[N];
};

template <int N, class T>
__device__ __forceinline__ Vec<T, N> load(const T* p) {
  return *reinterpret_cast<const Vec<T, N>*>(p);
}
template <int N, class T>
__device__ __forceinline__ void store(T* p, const Vec<T, N>& v) {
  *reinterpret_cast<Vec<T, N>*>(p) = v;
}
template <int N, class T>
__device__ __forceinline__ Vec<float, N> widen(const Vec<T, N>& v) {
  Vec<float, N> f;
#pragma unroll
  for (int i = 0; i < N; ++i) f.at[i] = to_float(v.at[i]);
  return f;
}
template <class T, int N>
__device__ __forceinline__ Vec<T, N> narrow(const Vec<float, N>& f) {
  Vec<T, N> v;
#pragma unroll
  for (int i = 0; i < N; ++i) v.at[i] = from_float<T>(f.at[i]);
  return v;
}
template <int N, class T>
__device__ __forceinline__ Vec<float, N> load_float(const T* p) {
  return widen<N>(load<N>(p));
}
template <int N, class T>
__device__ __forceinline__ void store_float(T* p, const Vec<float, N>& f) {
  store<N>(p, narrow<T, N>(f));
}

/// 2^x within 2 ulp. An x or a result whose magnitude is below 2^-126 counts as 0.
__device__ __forceinline__ float exp2_fast(float x) {
  float y;
  asm("ex2.approx.ftz.f32 %0, %1;" : "=f"(y) : "f"(x));
  return y;
}

/// Eight elements as they lie in memory. bf16 pairs stay packed in 32-bit registers until one is used; an array of
/// eight __nv_bfloat16 would take a register each.
template <class T>
struct Eight;
template <>
struct alignas(16) Eight<b16> {
  uint32_t pair[4];
  __device__ __forceinline__ float operator[](int i) const {  // a bf16 is the upper half of an f32
    return __uint_as_float(i % 2 ? pair[i / 2] & 0xffff0000u : pair[i / 2] << 16);
  }
};
template <>
struct alignas(16) Eight<float> {
  float value[8];
  __device__ __forceinline__ float operator[](int i) const { return value[i]; }
};
template <class T>
__device__ __forceinline__ Eight<T> load_eight(const T* p) {
  return *reinterpret_cast<const Eight<T>*>(p);
}
/// Rounds eight f32.
template <class T>
__device__ __forceinline__ Eight<T> round_eight(const Vec<float, 8>& f) {
  Eight<T> e;
  if constexpr (std::is_same_v<T, b16>) {
#pragma unroll
    for (int i = 0; i < 4; ++i) {
      const __nv_bfloat162 two = __floats2bfloat162_rn(f.at[2 * i], f.at[2 * i + 1]);
      e.pair[i] = *reinterpret_cast<const uint32_t*>(&two);
    }
  } else {
#pragma unroll
    for (int i = 0; i < 8; ++i) e.value[i] = f.at[i];
  }
  return e;
}
template <class T>
__device__ __forceinline__ void store_eight(T* p, const Eight<T>& e) {
  *reinterpret_cast<Eight<T>*>(p) = e;
}

/// Asks the L2 cache for the line at p.
__device__ __forceinline__ void prefetch(const void* p) { asm volatile("prefetch.global.L2 [%0];" ::"l"(p)); }

struct Sum {
  static constexpr float identity = 0.f;
  template <class T>
  __device__ __forceinline__ T operator()(T a, T b) const {
    return a + b;
  }
};
struct Max {
  static constexpr float identity = -INFINITY;
  __device__ __forceinline__ float operator()(float a, float b) const { return fmaxf(a, b); }
};

/// Every lane gets the result. The butterfly's order is fixed, so results repeat bit for bit.
template <class Op, class T>
__device__ __forceinline__ T warp_reduce(T value, Op op) {
#pragma unroll
  for (int offset = kWarp / 2; offset > 0; offset /= 2) value = op(value, __shfl_xor_sync(kAllLanes, value, offset));
  return value;
}

/// Over THREADS threads of a block; every thread gets the result. `scratch` is shared, one T per warp; it may be used
/// again by the same threads after a barrier, or at once if calls alternate between two scratches.
template <int THREADS, class Op, class T>
__device__ __forceinline__ T block_reduce(T value, Op op, T* scratch) {
  static_assert(THREADS % kWarp == 0 && THREADS <= 1024);
  value = warp_reduce(value, op);
  if constexpr (THREADS == kWarp) return value;
  const int lane = threadIdx.x % kWarp, warp = threadIdx.x / kWarp;
  if (lane == 0) scratch[warp] = value;
  __syncthreads();
  value = lane < THREADS / kWarp ? scratch[lane] : static_cast<T>(Op::identity);
  return warp_reduce(value, op);
}

}  // namespace rw::cuda
