// Recorded GPU work and transfers that wait for nothing. Implemented in cuda_graph.cu; cuda_graph_stub.cpp stands in
// for it in a build without CUDA.
#pragma once
#include <functional>
#include <memory>

#include "tensor/tensor.h"

namespace rw::cuda {

/// Work of the compute stream, recorded once and replayed with what its inputs' memory holds then. The memory it uses
/// in between is kept apart while it lives.
class RecordedWork {
 public:
  virtual ~RecordedWork() = default;
  virtual void replay() = 0;
};
/// Runs `work` in recording mode: its kernels do not run yet. It must not wait for the card, nor leave tensors behind
/// that it allocated. It may work in the memory of `other`, if the two are never replayed at once (nullptr: has its
/// own). Errors: what `work` throws; a call that cannot be recorded.
std::unique_ptr<RecordedWork> record_work(Device device, const std::function<void()>& work,
                                          const RecordedWork* other = nullptr);

/// Pinned host memory, shared out in `slots` that are used in turn.
class Staging {
 public:
  virtual ~Staging() = default;
  /// The next slot's memory, after what was last enqueued from it or into it has finished.
  virtual void* next(int& slot) = 0;
  /// Copies bytes [offset, offset + bytes) of the slot to the device, or back, in stream order.
  virtual void to_device(int slot, int64_t offset, const Tensor& to) = 0;
  virtual void from_device(int slot, int64_t offset, const Tensor& from) = 0;
  /// Marks the point after which the slot is free (or holds its result). May be recorded, like the copies: each replay
  /// then marks it anew.
  virtual void mark(int slot) = 0;
  /// The slot's memory, once its mark is reached.
  virtual const void* wait(int slot) = 0;
};
std::unique_ptr<Staging> make_staging(int64_t bytes, int slots);

}  // namespace rw::cuda
