// What L0 needs of the GPU. Implemented in cuda.cu, or by cuda_stub.cpp in a build without CUDA (every call there
// throws, except device_count, which is 0). A CUDA build on a machine without a driver also reports 0 devices.
#pragma once
#include <cstdint>
#include <string>

#include "tensor/dtype.h"

namespace rw::cuda {

int device_count();
std::string device_name(int index);
/// The device that this thread's work goes to. Errors: there is none of that number.
void set_device(int index);
/// Raw device memory; nullptr when there is none left.
void* device_malloc(int64_t bytes, int index);
void device_free(void* pointer, int index) noexcept;

enum class CopyKind { host_to_device, device_to_host, device_to_device };
/// Ordered with the work on the compute stream; returns after the copy is done if host memory takes part.
void copy(void* to, const void* from, int64_t bytes, CopyKind kind);
void fill(void* to, DType dtype, int64_t n, double value);
void convert(void* to, DType to_type, const void* from, DType from_type, int64_t n);
/// Waits for all work of the compute stream.
void synchronize();

/// to[i] += from[i], converting.
void accumulate(void* to, DType to_type, const void* from, DType from_type, int64_t n);

/// A point on the compute stream, for timing.
/// Thread safety: none; one thread at a time.
class Event {
 public:
  Event();
  ~Event();
  Event(const Event&) = delete;
  Event& operator=(const Event&) = delete;
  void record();
  /// Waits for this point.
  double milliseconds_since(const Event& earlier) const;

 private:
  void* handle_ = nullptr;
};

}  // namespace rw::cuda
