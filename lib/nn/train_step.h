// One optimizer step: forward, backward and update, over one or several micro-batches.
//
//   TrainStep step(model, optimizer);
//   step.add({ids, targets, positions, {.length = 2048, .training = true}, {}, scored});
//   step.update(lr, 1.0);
//   const StepResult r = step.result();      // of the oldest update not asked for yet
//
// On a GPU the host does not wait for the card. Inputs and losses travel through pinned memory. From the third
// micro-batch of a shape on, forward and backward are one CUDA graph. Ask for result() one update later than update(),
// and the card never idles.
//
// Learned frequencies (CLEX) are solved on the host between replays. There update() and the next add() wait for the
// gradient of their table, and add() waits for an update before it. So make the next batch before them, while the card
// works. If `graph` is off, there are several ranks or the input has no t, they run without a graph, with their ODE on
// the model's tape. Models with log-n attention run without a graph, too.
#pragma once
#include <deque>
#include <memory>
#include <optional>
#include <vector>

#include "nn/adamw.h"
#include "nn/causal_lm.h"

namespace rw {

class DataParallel;

/// One micro-batch, on the CPU.
struct StepInput {
  Tensor ids, targets;                                // i32 [B,T]
  Tensor positions;                                   // f32 [B,T] or [1,T]
  RopeContext context;                                // what the frequencies depend on
  std::vector<double> t;                              // window scale factor per sample, for CLEX; else empty
  int64_t scored = 0;                                 // targets that count
  Tensor weights = {};                                // f32 [B,T] of the targets' losses; undefined: all 1
  double weight = 0;                                  // their sum over the scored targets; 0: `scored`
  std::optional<CausalLm::DropoutDraw> dropout = {};  // of adapters that have dropout: which masks
};

struct StepResult {
  double loss = 0;       // mean over the scored tokens of all micro-batches, weighted as they are
  double grad_norm = 0;  // before clipping; if it is not finite, nothing was updated
};                       // over all ranks of a data-parallel run, and the same on each

/// Thread safety: none.
class TrainStep {
 public:
  /// `graph`: replay a CUDA graph where possible. `parallel`: this process is one rank of several, each of which adds
  /// its own micro-batches; made for the model's arena before its gradients.
  TrainStep(CausalLm& model, AdamW& optimizer, bool graph = true, DataParallel* parallel = nullptr);
  ~TrainStep();
  TrainStep(const TrainStep&) = delete;
  TrainStep& operator=(const TrainStep&) = delete;

  /// Forward and backward; the gradients add up. `last`: update() comes next, so with several ranks, or with the
  /// optimizer's state on the host, the gradients travel while backward goes on, and not after it.
  void add(const StepInput& input, bool last = false);
  /// The optimizer's update with the mean gradient over all scored tokens since the last one, which it counts: of all
  /// ranks. Errors: nothing added.
  int64_t update(double lr, double clip);
  /// Waits for the oldest update whose result was not asked for. Errors: there is none; a rank was lost.
  StepResult result();
  int64_t pending() const { return static_cast<int64_t>(results_.size()); }
  /// Whether the last add() was a replay.
  bool replayed() const { return replayed_; }

 private:
  class Gpu;
  void forward_backward(const StepInput& input, bool reduce);
  void finish_backward();
  struct Pending {
    double nll = 0, norm = 0;  // CPU: the values
    double scale = 1;
    int slot = 0;  // GPU: where they will arrive
  };
  CausalLm& model_;
  AdamW& optimizer_;
  DataParallel* parallel_;
  std::unique_ptr<Gpu> gpu_;
  double nll_ = 0, weight_ = 0;  // of the micro-batches since the last update
  int64_t scored_ = 0;
  bool reduced_ = false;  // the gradients are added up over the ranks, or are on their way to the host
  bool replayed_ = false;
  std::deque<Pending> results_;
};

}  // namespace rw
