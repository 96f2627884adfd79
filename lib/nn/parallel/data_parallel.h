// Data parallelism with the optimizer's state shared out over the ranks (ZeRO-1, Rajbhandari et al. 2020, section 5.1).
//
//   DataParallel parallel(*comm, model.arena());       // before enable_grad()
//   AdamW optimizer(model.arena(), {});
//   TrainStep step(model, optimizer, true, &parallel);
//
// Rank r owns a contiguous part of the arena. Of a step:
//   backward      buckets of gradients, from the arena's end to its begin, are added up on their owners as soon as all
//                 their parameters have theirs, while the backward pass goes on
//   norm          each owner's sum of squares, added up
//   AdamW         each rank its own part: it has moments for no other
//   gather        each owner's new compute parameters (bf16 or f32) go to all
// Why contiguous parts and not a slice of each bucket: AdamW and the norm stay one pass over contiguous memory. The
// moments of all ranks, one after the other, are those of a single process.
#pragma once
#include <initializer_list>
#include <vector>

#include "nn/parallel/communicator.h"
#include "nn/param_arena.h"

namespace rw {

/// AdamW's moments of the whole arena, where each rank's optimizer has only a part of them.
struct WholeMoments {
  Tensor m, v;
};

/// Thread safety: none.
class DataParallel {
 public:
  static constexpr int64_t kBucketBytes = int64_t{25} << 20;

  /// Claims this rank's part of the arena, whose gradients must not be enabled yet, and gives all ranks rank 0's
  /// weights. Errors: arenas of different sizes; enabled gradients.
  DataParallel(Communicator& comm, ParamArena& arena, int64_t bucket_bytes = kBucketBytes);

  Communicator& comm() const { return comm_; }
  ParamArena& arena() const { return arena_; }
  int64_t begin() const { return begins_[static_cast<size_t>(comm_.rank())]; }
  int64_t end() const { return begins_[static_cast<size_t>(comm_.rank()) + 1]; }

  /// Rank 0's master weights and their copy go to all. Waits for nobody on a GPU.
  void share_weights();

  // --- of one step, in this order ---
  /// A backward pass begins after which the gradients are complete.
  void start();
  /// Parameters [first, last) have their whole gradient; full buckets set off. Calls go from the arena's end to its
  /// begin without a gap; what is never announced travels in finish().
  void ready(size_t first, size_t last);
  /// The rest sets off. What follows on the compute stream comes after all sums.
  void finish();
  /// values = sum over ranks, element by element, of small tensors on the arena's device.
  void sum(std::initializer_list<Tensor> values);
  /// The compute parameters of every owner go to all.
  void gather_weights();

  // --- for a checkpoint: of use on rank 0, but every rank must call ---
  /// Makes rank 0's master weights whole.
  void gather_master();
  /// The moments of the whole arena, on the CPU; undefined on other ranks than 0.
  WholeMoments gather_moments();

 private:
  void reduce(int64_t begin, int64_t end);

  Communicator& comm_;
  ParamArena& arena_;
  int64_t bucket_;                            // elements
  std::vector<int64_t> begins_;               // of each rank's part, and the arena's end
  int64_t part_ = 0;                          // elements that each rank has; the last one's part has the remainder too
  int64_t low_ = 0, waiting_ = 0, high_ = 0;  // announced: [low_, high_); of it not yet sent: [low_, waiting_)
  bool announced_ = false;
};

}  // namespace rw
