// Pinned host memory, and copies on a stream of their own.
#include <array>
#include <cstring>

#include "tensor/host_copy.h"
#include "tensor/launch.cuh"

namespace rw::cuda {
namespace {

class StreamCopies final : public HostCopies {
 public:
  StreamCopies() {
    check_cuda(cudaStreamCreateWithFlags(&copies_, cudaStreamNonBlocking), "cudaStreamCreateWithFlags");
    check_cuda(cudaEventCreateWithFlags(&before_, cudaEventDisableTiming), "cudaEventCreate");
    for (cudaEvent_t& e : after_) check_cuda(cudaEventCreateWithFlags(&e, cudaEventDisableTiming), "cudaEventCreate");
  }
  ~StreamCopies() override {
    cudaStreamSynchronize(stream());
    cudaStreamSynchronize(copies_);
    for (cudaEvent_t e : after_) cudaEventDestroy(e);
    cudaEventDestroy(before_);
    cudaStreamDestroy(copies_);
  }
  StreamCopies(const StreamCopies&) = delete;
  StreamCopies& operator=(const StreamCopies&) = delete;

  int64_t start(const Tensor& from, const Tensor& to) override {
    check(from.dtype() == to.dtype() && from.shape() == to.shape(), "host_copy", "from ", from.dtype(), " ",
          from.shape(), " to ", to.dtype(), " ", to.shape());
    check(from.is_cuda() != to.is_cuda(), "host_copy", "one of the two must be in host memory");
    const int64_t ticket = next_++;
    check_cuda(cudaEventRecord(before_, stream()), "cudaEventRecord");
    check_cuda(cudaStreamWaitEvent(copies_, before_, 0), "cudaStreamWaitEvent");
    check_cuda(cudaMemcpyAsync(to.raw(), from.raw(), static_cast<size_t>(from.bytes()),
                               to.is_cuda() ? cudaMemcpyHostToDevice : cudaMemcpyDeviceToHost, copies_),
               "cudaMemcpyAsync");
    check_cuda(cudaEventRecord(after(ticket), copies_), "cudaEventRecord");
    return ticket;
  }
  // An event that was recorded anew since belongs to a later copy, before which the one asked for is done.
  void join(int64_t ticket) override {
    check_cuda(cudaStreamWaitEvent(stream(), after(ticket), 0), "cudaStreamWaitEvent");
  }
  void wait(int64_t ticket) override { check_cuda(cudaEventSynchronize(after(ticket)), "cudaEventSynchronize"); }

 private:
  cudaEvent_t after(int64_t ticket) const { return after_[static_cast<size_t>(ticket) % after_.size()]; }

  cudaStream_t copies_ = nullptr;
  cudaEvent_t before_ = nullptr;
  std::array<cudaEvent_t, 64> after_{};
  int64_t next_ = 0;
};

}  // namespace

Tensor pinned_tensor(const Shape& shape, DType dtype) {
  const int64_t bytes = shape.numel() * size_of(dtype);
  if (bytes == 0) return Tensor::zeros(shape, dtype);
  void* pointer = nullptr;
  const cudaError_t status = cudaHostAlloc(&pointer, static_cast<size_t>(bytes), 0);
  if (status == cudaErrorMemoryAllocation) {
    cudaGetLastError();  // not sticky
    throw OutOfMemory(cat("[host_copy] out of pinned host memory: ", bytes, " bytes asked for"));
  }
  check_cuda(status, "cudaHostAlloc");
  const std::shared_ptr<void> owner(pointer, [](void* p) {
    cudaDeviceSynchronize();  // a copy may still be under way
    cudaFreeHost(p);
  });
  const Tensor t = Tensor::borrow(pointer, shape, dtype, kCpu, owner);
  t.zero();
  return t;
}

std::unique_ptr<HostCopies> make_host_copies() { return std::make_unique<StreamCopies>(); }

}  // namespace rw::cuda
