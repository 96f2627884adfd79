// The GPU at the level of bytes: devices, the compute stream, memory, and conversion between dtypes.
#include <array>
#include <cstdlib>
#include <mutex>

#include "tensor/cuda.h"
#include "tensor/launch.cuh"

namespace rw::cuda {

// --- devices and streams --------------------------------------------------------------------------------------------

namespace {

struct DeviceState {
  cudaStream_t stream = nullptr;
  int multiprocessors = 0;
  int shared_bytes = 0;
};

/// Made when a device is first used; kept for the life of the process.
const DeviceState& state() {
  static std::array<DeviceState, 16> states;
  static std::array<std::once_flag, 16> once;
  int device = 0;
  check_cuda(cudaGetDevice(&device), "cudaGetDevice");
  check(device < 16, "cuda", "device ", device, " of at most 16");
  const size_t i = static_cast<size_t>(device);
  std::call_once(once[i], [&] {
    check_cuda(cudaStreamCreateWithFlags(&states[i].stream, cudaStreamNonBlocking), "cudaStreamCreateWithFlags");
    check_cuda(cudaDeviceGetAttribute(&states[i].multiprocessors, cudaDevAttrMultiProcessorCount, device),
               "cudaDeviceGetAttribute");
    check_cuda(cudaDeviceGetAttribute(&states[i].shared_bytes, cudaDevAttrMaxSharedMemoryPerBlockOptin, device),
               "cudaDeviceGetAttribute");
  });
  return states[i];
}

}  // namespace

cudaStream_t stream() { return state().stream; }
void announce_write(void* p, int64_t bytes, int64_t rows, int64_t pitch) {
  static const bool on = [] {
    const char* set = std::getenv("ROPEWALK_INITCHECK");
    return set && *set;
  }();
  if (!on) return;
  check_cuda(cudaMemset2DAsync(p, static_cast<size_t>(rows > 1 ? pitch : bytes), 0, static_cast<size_t>(bytes),
                               static_cast<size_t>(rows), stream()),
             "cudaMemset2DAsync");
}

int multiprocessors() { return state().multiprocessors; }
int max_shared_bytes() { return state().shared_bytes; }

int device_count() {
  static const int count = [] {
    int n = 0;
    // No driver, or one too old for this toolkit: there is no GPU that we can use, which is an answer and not an error.
    if (cudaGetDeviceCount(&n) != cudaSuccess) {
      cudaGetLastError();
      return 0;
    }
    return n;
  }();
  return count;
}

std::string device_name(int index) {
  if (device_count() == 0) {
    int driver = 0;
    return cudaDriverGetVersion(&driver) == cudaSuccess && driver > 0 ? "no usable GPU" : "no CUDA driver";
  }
  cudaDeviceProp properties;
  check_cuda(cudaGetDeviceProperties(&properties, index), "cudaGetDeviceProperties");
  return properties.name;
}

void set_device(int index) { check_cuda(cudaSetDevice(index), "cudaSetDevice"); }

void synchronize() {
  if (device_count() > 0) check_cuda(cudaStreamSynchronize(stream()), "cudaStreamSynchronize");
}

// --- memory ---------------------------------------------------------------------------------------------------------

namespace {

/// Makes a device current for a scope.
class DeviceScope {
 public:
  explicit DeviceScope(int index) {
    cudaGetDevice(&previous_);
    if (index != previous_) check_cuda(cudaSetDevice(index), "cudaSetDevice");
    changed_ = index != previous_;
  }
  ~DeviceScope() {
    if (changed_) cudaSetDevice(previous_);
  }

 private:
  int previous_ = 0;
  bool changed_ = false;
};

}  // namespace

void* device_malloc(int64_t bytes, int index) {
  const DeviceScope scope(index);
  void* pointer = nullptr;
  const cudaError_t status = cudaMalloc(&pointer, static_cast<size_t>(bytes));
  if (status == cudaErrorMemoryAllocation) {
    cudaGetLastError();  // not sticky: the caller may free something and try again
    return nullptr;
  }
  check_cuda(status, "cudaMalloc");
  return pointer;
}

void device_free(void* pointer, int index) noexcept {
  int previous = 0;
  cudaGetDevice(&previous);
  if (index != previous) cudaSetDevice(index);
  cudaFree(pointer);  // waits for the work that may still use it
  if (index != previous) cudaSetDevice(previous);
}

void copy(void* to, const void* from, int64_t bytes, CopyKind kind) {
  static constexpr const char* kNames[] = {"copy host to device", "copy device to host", "copy"};
  static constexpr cudaMemcpyKind kKinds[] = {cudaMemcpyHostToDevice, cudaMemcpyDeviceToHost, cudaMemcpyDeviceToDevice};
  const int i = static_cast<int>(kind);
  {
    const Timed timed({kNames[i], kind == CopyKind::device_to_device ? 2 * bytes : bytes});
    check_cuda(cudaMemcpyAsync(to, from, static_cast<size_t>(bytes), kKinds[i], stream()), "cudaMemcpyAsync");
  }
  if (kind != CopyKind::device_to_device) synchronize();
}

// --- fill, convert, accumulate: one pass, 8 elements per thread -----------------------------------------------------

namespace {

constexpr int kThreads = 256;

/// Integers stay exact on their way through f64; the floating pairs go through f32.
template <class To, class From>
__device__ __forceinline__ To convert_one(From x) {
  if constexpr (std::is_same_v<To, From>) return x;
  if constexpr (std::is_same_v<To, b16>) return __float2bfloat16_rn(static_cast<float>(x));
  if constexpr (std::is_same_v<From, b16>) return static_cast<To>(__bfloat162float(x));
  return static_cast<To>(x);
}

/// to = from, or to += from. Both are read and written once.
template <int N, bool ADD, class To, class From>
__global__ void __launch_bounds__(kThreads) convert_kernel(To* to, const From* from, int64_t n) {
  const int64_t begin = (static_cast<int64_t>(blockIdx.x) * kThreads + threadIdx.x) * N;
  const auto one = [](To old, From x) {
    if constexpr (!ADD) return convert_one<To>(x);
    else if constexpr (std::is_same_v<To, b16>) return __float2bfloat16_rn(to_float(old) + convert_one<float>(x));
    else return static_cast<To>(old + convert_one<To>(x));
  };
  if (begin + N <= n) {
    const Vec<From, N> x = load<N>(from + begin);
    Vec<To, N> y;
    if constexpr (ADD) y = load<N>(to + begin);
#pragma unroll
    for (int i = 0; i < N; ++i) y.at[i] = one(y.at[i], x.at[i]);
    store<N>(to + begin, y);
  } else {
    for (int64_t i = begin; i < n; ++i) to[i] = one(ADD ? to[i] : To{}, from[i]);
  }
}

template <int N, class T>
__global__ void __launch_bounds__(kThreads) fill_kernel(T* to, int64_t n, T value) {
  const int64_t begin = (static_cast<int64_t>(blockIdx.x) * kThreads + threadIdx.x) * N;
  if (begin + N <= n) {
    Vec<T, N> v;
#pragma unroll
    for (int i = 0; i < N; ++i) v.at[i] = value;
    store<N>(to + begin, v);
  } else {
    for (int64_t i = begin; i < n; ++i) to[i] = value;
  }
}

template <class F>
void dispatch_all(DType t, F&& f) {
  switch (t) {
    case DType::f32:
      return f(float{});
    case DType::bf16:
      return f(b16{});
    case DType::f64:
      return f(double{});
    case DType::i32:
      return f(int32_t{});
    case DType::e4m3:
    case DType::e5m2:
      fail("cuda", "8-bit floats are made by quantize(), got ", t);
  }
}

template <bool ADD>
void convert_launch(const char* name, void* to, DType to_type, const void* from, DType from_type, int64_t n) {
  dispatch_all(to_type, [&](auto to_zero) {
    dispatch_all(from_type, [&](auto from_zero) {
      using To = decltype(to_zero);
      using From = decltype(from_zero);
      dispatch_width(aligned16(to, from), [&](auto width) {
        launch({name, n * ((ADD ? 2 : 1) * size_of(to_type) + size_of(from_type))},
               convert_kernel<width(), ADD, To, From>, ceil_div(n, kThreads * width()), kThreads, 0,
               static_cast<To*>(to), static_cast<const From*>(from), n);
      });
    });
  });
}

}  // namespace

void fill(void* to, DType dtype, int64_t n, double value) {
  if (value == 0.0) {  // all dtypes write zero as zero bits
    const Timed timed({"zero", n * size_of(dtype)});
    check_cuda(cudaMemsetAsync(to, 0, static_cast<size_t>(n * size_of(dtype)), stream()), "cudaMemsetAsync");
    return;
  }
  dispatch_all(dtype, [&](auto zero) {
    using T = decltype(zero);
    T v;
    if constexpr (std::is_same_v<T, b16>) v = __float2bfloat16_rn(static_cast<float>(value));
    else v = static_cast<T>(value);
    dispatch_width(aligned16(to), [&](auto width) {
      launch({"fill", n * size_of(dtype)}, fill_kernel<width(), T>, ceil_div(n, kThreads * width()), kThreads, 0,
             static_cast<T*>(to), n, v);
    });
  });
}

void convert(void* to, DType to_type, const void* from, DType from_type, int64_t n) {
  convert_launch<false>("convert", to, to_type, from, from_type, n);
}

void accumulate(void* to, DType to_type, const void* from, DType from_type, int64_t n) {
  convert_launch<true>("accumulate", to, to_type, from, from_type, n);
}

// --- timing ---------------------------------------------------------------------------------------------------------

Event::Event() {
  cudaEvent_t event;
  check_cuda(cudaEventCreate(&event), "cudaEventCreate");
  handle_ = event;
}
Event::~Event() { cudaEventDestroy(static_cast<cudaEvent_t>(handle_)); }
void Event::record() { check_cuda(cudaEventRecord(static_cast<cudaEvent_t>(handle_), stream()), "cudaEventRecord"); }
double Event::milliseconds_since(const Event& earlier) const {
  check_cuda(cudaEventSynchronize(static_cast<cudaEvent_t>(handle_)), "cudaEventSynchronize");
  float ms = 0;
  check_cuda(cudaEventElapsedTime(&ms, static_cast<cudaEvent_t>(earlier.handle_), static_cast<cudaEvent_t>(handle_)),
             "cudaEventElapsedTime");
  return static_cast<double>(ms);
}

}  // namespace rw::cuda
