// Host memory beside a device's, and copies between the two that go on beside the work of the compute stream.
//
//   const auto copies = make_host_copies(device);
//   const Tensor kept = host_tensor(x.shape(), x.dtype(), device);
//   const int64_t out = copies->start(x, kept);     // x must live until:
//   copies->join(out);                              // what follows on the compute stream comes after the copy
//
// Copies run one after the other, in the order in which they were started. They may be recorded (nn/cuda_graph.h) if
// all that is started in a recording is joined in it. Where the device is the CPU, host memory is its own memory and a
// copy is done when start() returns.
#pragma once
#include <memory>

#include "tensor/tensor.h"

namespace rw {

/// Zeros in host memory: pinned, so that `device` copies at full speed and without waiting, if it is a GPU. It is not
/// counted by the device's allocator. Errors: OutOfMemory.
Tensor host_tensor(const Shape& shape, DType dtype, Device device);

/// Bytes of host memory that this process may come to: the machine's, or its control group's limit if that is less.
int64_t host_memory_size();

/// Thread safety: none.
class HostCopies {
 public:
  virtual ~HostCopies() = default;
  /// to = from once what the compute stream holds so far is done; one of the two is a host_tensor(), or a part of it.
  /// Gives a ticket. Errors: shapes or dtypes that differ.
  virtual int64_t start(const Tensor& from, const Tensor& to) = 0;
  /// What is put on the compute stream from now on comes after that copy, and after all that were started before it.
  virtual void join(int64_t ticket) = 0;
  /// Waits here for that copy and for all that were started before it; not while work is recorded.
  virtual void wait(int64_t ticket) = 0;
};
std::unique_ptr<HostCopies> make_host_copies(Device device);

namespace cuda {
/// The same on a GPU. Implemented in host_copy.cu; host_copy_stub.cpp stands in for it in a build without CUDA.
Tensor pinned_tensor(const Shape& shape, DType dtype);
std::unique_ptr<HostCopies> make_host_copies();
}  // namespace cuda

}  // namespace rw
