// Collectives between GPUs through NCCL. Implemented in nccl.cu; nccl_stub.cpp stands in for it in a build without CUDA
// or without NCCL. NCCL's library is loaded when it is first needed, and never linked.
#pragma once
#include <memory>
#include <string>

#include "tensor/tensor.h"

namespace rw::cuda {

/// Everything runs on a stream of its own: between fork() and join() beside the compute stream. Nothing waits for the
/// card, so all of it can be recorded into a CUDA graph. Every rank makes the same calls in the same order.
///
/// Thread safety: one thread makes calls; abort() may come from another.
class Collectives {
 public:
  virtual ~Collectives() = default;
  /// What follows begins after the work that is on the compute stream now.
  virtual void fork() = 0;
  /// The compute stream goes on after what was given since.
  virtual void join() = 0;

  /// Several calls as one: cheaper, and only as a whole free of deadlocks.
  virtual void begin_group() = 0;
  virtual void end_group() = 0;
  /// values on `root` = sum over ranks; elsewhere they stay as they are.
  virtual void reduce(const Tensor& values, int root) = 0;
  /// values = sum over ranks.
  virtual void all_reduce(const Tensor& values) = 0;
  /// values = root's.
  virtual void broadcast(const Tensor& values, int root) = 0;
  /// values has size() parts of one length; each rank's own part goes to all.
  virtual void all_gather(const Tensor& values) = 0;

  /// Ends what is under way on this GPU, whose peers are gone; the results are then worthless.
  virtual void abort() noexcept = 0;
};

inline constexpr int kNcclIdBytes = 128;
/// Made by rank 0 and given to all. Errors: a build without NCCL, no libnccl.so.2.
std::string nccl_id();
/// Waits for all ranks. The GPU is the current device. Errors: NCCL's own.
std::unique_ptr<Collectives> connect_nccl(const std::string& id, int rank, int size);

}  // namespace rw::cuda
