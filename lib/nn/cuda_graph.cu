// CUDA graphs: recording what is put on the compute stream, and playing it again.
#include <vector>

#include "nn/cuda_graph.h"
#include "tensor/allocator.h"
#include "tensor/launch.cuh"

namespace rw::cuda {
namespace {

class Graph final : public RecordedWork {
 public:
  Graph(Device device, const std::function<void()>& work, const Graph* other)
      : memory_(other ? other->memory_ : std::make_shared<PrivatePool>(device)) {
    cudaGraph_t graph = nullptr;
    check_cuda(cudaStreamBeginCapture(stream(), cudaStreamCaptureModeRelaxed), "cudaStreamBeginCapture");
    try {
      const PrivatePool::Scope scope(*memory_);
      work();
    } catch (...) {
      cudaStreamEndCapture(stream(), &graph);
      if (graph) cudaGraphDestroy(graph);
      cudaGetLastError();
      throw;
    }
    check_cuda(cudaStreamEndCapture(stream(), &graph), "cudaStreamEndCapture");
    const cudaError_t status = cudaGraphInstantiate(&executable_, graph, 0);
    cudaGraphDestroy(graph);
    check_cuda(status, "cudaGraphInstantiate");
  }
  ~Graph() override {
    cudaStreamSynchronize(stream());
    cudaGraphExecDestroy(executable_);
  }
  void replay() override {
    const Timed timed("replay of a CUDA graph");  // a profile does not see its kernels one by one
    check_cuda(cudaGraphLaunch(executable_, stream()), "cudaGraphLaunch");
  }

 private:
  std::shared_ptr<PrivatePool> memory_;
  cudaGraphExec_t executable_ = nullptr;
};

class PinnedStaging final : public Staging {
 public:
  PinnedStaging(int64_t bytes, int slots) : bytes_((bytes + 255) / 256 * 256), events_(static_cast<size_t>(slots)) {
    void* pointer = nullptr;
    check_cuda(cudaHostAlloc(&pointer, static_cast<size_t>(bytes_ * slots), 0), "cudaHostAlloc");
    memory_ = static_cast<char*>(pointer);
    for (cudaEvent_t& e : events_) check_cuda(cudaEventCreateWithFlags(&e, cudaEventDisableTiming), "cudaEventCreate");
  }
  ~PinnedStaging() override {
    cudaStreamSynchronize(stream());
    for (cudaEvent_t e : events_) cudaEventDestroy(e);
    cudaFreeHost(memory_);
  }
  void* next(int& slot) override {
    slot = next_;
    next_ = (next_ + 1) % static_cast<int>(events_.size());
    check_cuda(cudaEventSynchronize(events_[static_cast<size_t>(slot)]), "cudaEventSynchronize");
    return at(slot, 0);
  }
  void to_device(int slot, int64_t offset, const Tensor& to) override {
    const Timed timed({"copy host to device", to.bytes()});
    check_cuda(
        cudaMemcpyAsync(to.raw(), at(slot, offset), static_cast<size_t>(to.bytes()), cudaMemcpyHostToDevice, stream()),
        "cudaMemcpyAsync");
  }
  void from_device(int slot, int64_t offset, const Tensor& from) override {
    const Timed timed({"copy device to host", from.bytes()});
    check_cuda(cudaMemcpyAsync(at(slot, offset), from.raw(), static_cast<size_t>(from.bytes()), cudaMemcpyDeviceToHost,
                               stream()),
               "cudaMemcpyAsync");
  }
  void mark(int slot) override {
    cudaStreamCaptureStatus status = cudaStreamCaptureStatusNone;
    check_cuda(cudaStreamIsCapturing(stream(), &status), "cudaStreamIsCapturing");
    const bool capturing = status == cudaStreamCaptureStatusActive;
    check_cuda(cudaEventRecordWithFlags(events_[static_cast<size_t>(slot)], stream(),
                                        capturing ? cudaEventRecordExternal : cudaEventRecordDefault),
               "cudaEventRecord");
  }
  const void* wait(int slot) override {
    check_cuda(cudaEventSynchronize(events_[static_cast<size_t>(slot)]), "cudaEventSynchronize");
    return at(slot, 0);
  }

 private:
  char* at(int slot, int64_t offset) const { return memory_ + slot * bytes_ + offset; }

  int64_t bytes_;
  std::vector<cudaEvent_t> events_;
  char* memory_ = nullptr;
  int next_ = 0;
};

}  // namespace

std::unique_ptr<RecordedWork> record_work(Device device, const std::function<void()>& work, const RecordedWork* other) {
  return std::make_unique<Graph>(device, work, static_cast<const Graph*>(other));
}
std::unique_ptr<Staging> make_staging(int64_t bytes, int slots) {
  return std::make_unique<PinnedStaging>(bytes, slots);
}

}  // namespace rw::cuda
