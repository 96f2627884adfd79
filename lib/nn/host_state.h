// An optimizer's state in host memory (ZeRO-Offload, Ren et al. 2021): how gradients come to it and weights go back.
//
// Of a step: in the backward pass after which the gradients are complete, those of each block set off to the host as
// soon as it is done (as in DataParallel, with the same calls). AdamW then runs on the CPU, part after part, and each
// part's weights set off to the device in the dtype of the computation while it updates the next. With the device the
// CPU the copies are plain ones.
#pragma once
#include <memory>

#include "nn/param_arena.h"
#include "tensor/host_copy.h"

namespace rw {

/// For an arena with ArenaMemory::host_state whose gradients are enabled. Thread safety: none.
class HostState {
 public:
  static constexpr int64_t kPart = int64_t{1} << 24;  // elements that are updated and sent at a time

  explicit HostState(const ParamArena& arena);

  /// A backward pass begins after which the gradients are complete.
  void start();
  /// Parameters [first, last) have their whole gradient, which sets off. Calls go from the arena's end to its begin
  /// without a gap; what is never announced travels in finish().
  void ready(size_t first, size_t last);
  /// The rest sets off. What follows on the compute stream comes after all copies.
  void finish();
  /// A pass, or the replay of a recorded one, has sent the gradients: from start() to finish().
  void set_sent() { sent_ = true; }
  /// Waits for the gradients, which are sent whole without set_sent() since the last call.
  void wait_for_gradients();
  /// Master values [begin, end), which are new, set off to where the model computes.
  void send_weights(int64_t begin, int64_t end);
  /// What follows on the compute stream comes after all weights.
  void join_weights();

 private:
  void send(int64_t begin, int64_t end);

  const ParamArena& arena_;
  std::unique_ptr<HostCopies> copies_;
  static constexpr int64_t kSlots = 3;
  Tensor staging_[kSlots];      // [kPart] in the dtype of the computation, if it is not the master's
  int64_t tickets_[kSlots]{};   // of the copy from each
  int64_t part_ = 0;            // sent so far since join_weights()
  int64_t low_ = 0, high_ = 0;  // announced: [low_, high_)
  int64_t last_ = 0;            // ticket of the last copy
  bool announced_ = false, sent_ = false;
};

}  // namespace rw
