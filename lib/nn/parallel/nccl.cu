// Collectives between GPUs through NCCL, whose types come from nccl.h and whose functions from a library that is loaded
// at run time: a program that uses one GPU needs no NCCL.
#include <dlfcn.h>
#include <nccl.h>

#include <atomic>
#include <chrono>
#include <cstdlib>
#include <cstring>
#include <mutex>
#include <thread>

#include "nn/parallel/cuda_nccl.h"
#include "tensor/launch.cuh"

namespace rw::cuda {
namespace {

struct Library {
  decltype(&ncclGetUniqueId) get_unique_id;
  decltype(&ncclCommInitRank) init_rank;
  decltype(&ncclCommDestroy) destroy;
  decltype(&ncclCommAbort) abort;
  decltype(&ncclGetErrorString) error_string;
  decltype(&ncclReduce) reduce;
  decltype(&ncclAllReduce) all_reduce;
  decltype(&ncclBroadcast) broadcast;
  decltype(&ncclAllGather) all_gather;
  decltype(&ncclGroupStart) group_start;
  decltype(&ncclGroupEnd) group_end;
};

Library load_library() {
  // Multicast in the switch is not needed for sums of this size. Buffers of a graph are not registered, so that a
  // replayed step takes NCCL's same path, and adds in the same order, as the eager one.
  ::setenv("NCCL_NVLS_ENABLE", "0", 0);
  ::setenv("NCCL_GRAPH_REGISTER", "0", 0);
  const char* chosen = std::getenv("ROPEWALK_NCCL_LIBRARY");
  void* handle = ::dlopen(chosen ? chosen : "libnccl.so.2", RTLD_NOW | RTLD_LOCAL);
  if (!handle) {
    const char* why = ::dlerror();
    fail("parallel", "several GPUs need NCCL's library: ", why ? why : "not found",
         " (ROPEWALK_NCCL_LIBRARY=/path/to/libnccl.so.2 names it)");
  }
  Library lib{};
  const auto find = [&](auto& function, const char* name) {
    function = reinterpret_cast<std::remove_reference_t<decltype(function)>>(::dlsym(handle, name));
    check(function != nullptr, "parallel", "NCCL's library has no ", name);
  };
  find(lib.get_unique_id, "ncclGetUniqueId");
  find(lib.init_rank, "ncclCommInitRank");
  find(lib.destroy, "ncclCommDestroy");
  find(lib.abort, "ncclCommAbort");
  find(lib.error_string, "ncclGetErrorString");
  find(lib.reduce, "ncclReduce");
  find(lib.all_reduce, "ncclAllReduce");
  find(lib.broadcast, "ncclBroadcast");
  find(lib.all_gather, "ncclAllGather");
  find(lib.group_start, "ncclGroupStart");
  find(lib.group_end, "ncclGroupEnd");
  return lib;
}

const Library& nccl() {
  static const Library library = load_library();
  return library;
}

void check_nccl(ncclResult_t status, const char* call) {
  if (status != ncclSuccess) fail("nccl", call, ": ", nccl().error_string(status));
}

ncclDataType_t type_of(DType t) {
  switch (t) {
    case DType::f32:
      return ncclFloat32;
    case DType::bf16:
      return ncclBfloat16;
    case DType::f64:
      return ncclFloat64;
    default:
      fail("nccl", "no sums of ", t);
  }
}

class Nccl final : public Collectives {
 public:
  Nccl(const std::string& id, int rank, int size) : rank_(rank), size_(size) {
    check(id.size() == sizeof(ncclUniqueId), "nccl", "an id of ", id.size(), " bytes");
    check_cuda(cudaGetDevice(&device_), "cudaGetDevice");
    int least = 0, greatest = 0;
    check_cuda(cudaDeviceGetStreamPriorityRange(&least, &greatest), "cudaDeviceGetStreamPriorityRange");
    // Its kernels are few and short, and the other ranks wait for them: they go first.
    check_cuda(cudaStreamCreateWithPriority(&own_, cudaStreamNonBlocking, greatest), "cudaStreamCreateWithPriority");
    for (cudaEvent_t* e : {&forked_, &joined_})
      check_cuda(cudaEventCreateWithFlags(e, cudaEventDisableTiming), "cudaEventCreate");
    ncclUniqueId unique;
    std::memcpy(&unique, id.data(), sizeof unique);
    check_nccl(nccl().init_rank(&comm_, size, unique, rank), "ncclCommInitRank");
  }

  ~Nccl() override {
    if (aborter_.joinable()) {
      aborter_.join();
    } else if (comm_) {
      cudaStreamSynchronize(own_);
      nccl().destroy(comm_);
    }
    cudaEventDestroy(forked_);
    cudaEventDestroy(joined_);
    cudaStreamDestroy(own_);
  }

  void fork() override {
    check_cuda(cudaEventRecord(forked_, stream()), "cudaEventRecord");
    check_cuda(cudaStreamWaitEvent(own_, forked_, 0), "cudaStreamWaitEvent");
  }
  void join() override {
    check_cuda(cudaEventRecord(joined_, own_), "cudaEventRecord");
    check_cuda(cudaStreamWaitEvent(stream(), joined_, 0), "cudaStreamWaitEvent");
  }
  void begin_group() override {
    call("ncclGroupStart", [] { return nccl().group_start(); });
  }
  void end_group() override {
    call("ncclGroupEnd", [] { return nccl().group_end(); });
  }
  void reduce(const Tensor& t, int root) override {
    if (t.numel() == 0) return;
    call("ncclReduce",
         [&] { return nccl().reduce(t.raw(), t.raw(), count(t), type_of(t.dtype()), ncclSum, root, comm_, own_); });
  }
  void all_reduce(const Tensor& t) override {
    if (t.numel() == 0) return;
    call("ncclAllReduce",
         [&] { return nccl().all_reduce(t.raw(), t.raw(), count(t), type_of(t.dtype()), ncclSum, comm_, own_); });
  }
  void broadcast(const Tensor& t, int root) override {
    if (t.numel() == 0) return;
    call("ncclBroadcast",
         [&] { return nccl().broadcast(t.raw(), t.raw(), count(t), type_of(t.dtype()), root, comm_, own_); });
  }
  void all_gather(const Tensor& t) override {
    if (t.numel() == 0) return;
    const int64_t part = t.numel() / size_;
    const char* own = static_cast<const char*>(t.raw()) + rank_ * part * size_of(t.dtype());
    call("ncclAllGather",
         [&] { return nccl().all_gather(own, t.raw(), static_cast<size_t>(part), type_of(t.dtype()), comm_, own_); });
  }

  void abort() noexcept override {
    if (aborted_.exchange(true)) return;
    // In a thread of its own: NCCL ends its kernels at once, but returns only when
    // no CUDA graph holds its work any more.
    aborter_ = std::thread([this] {
      cudaSetDevice(device_);
      // Later calls do nothing. One that is under way is waited for, unless it hangs, before NCCL takes all apart.
      if (calls_.try_lock_for(std::chrono::seconds(1))) calls_.unlock();
      nccl().abort(comm_);
    });
  }

 private:
  static size_t count(const Tensor& t) { return static_cast<size_t>(t.numel()); }
  /// Nothing once aborted: the communicator is gone then.
  template <class F>
  void call(const char* name, const F& f) {
    const std::lock_guard lock(calls_);
    if (!aborted_) check_nccl(f(), name);
  }

  int rank_, size_, device_ = 0;
  cudaStream_t own_ = nullptr;
  cudaEvent_t forked_ = nullptr, joined_ = nullptr;
  ncclComm_t comm_ = nullptr;
  std::timed_mutex calls_;
  std::atomic<bool> aborted_{false};
  std::thread aborter_;
};

}  // namespace

std::string nccl_id() {
  ncclUniqueId id;
  check_nccl(nccl().get_unique_id(&id), "ncclGetUniqueId");
  return {reinterpret_cast<const char*>(&id), sizeof id};
}

std::unique_ptr<Collectives> connect_nccl(const std::string& id, int rank, int size) {
  static_assert(sizeof(ncclUniqueId) == kNcclIdBytes);
  return std::make_unique<Nccl>(id, rank, size);
}

}  // namespace rw::cuda
