// One training run: from its first step, or from its newest checkpoint, to the model folder that it leaves.
//
//   Recipe recipe;
//   recipe.data = {"books"}, recipe.from = "base", recipe.out = "long";
//   recipe.method = "pose", recipe.target = 4096;
//   Trainer trainer(recipe, {.device = parse_device("auto")},
//                   {.on_step = [](const StepReport& r) { std::printf("%lld %.4f\n", r.step, r.loss); }});
//   TrainResult result = trainer.run();
//
// The library prints nothing: what a program shows comes to it by callbacks.
#pragma once
#include <functional>
#include <memory>
#include <string>
#include <vector>

#include "data/corpus.h"
#include "nn/causal_lm.h"
#include "nn/parallel/communicator.h"
#include "train/plan.h"

namespace rw {

/// What a run is before its first step.
struct StartReport {
  int64_t parameters = 0;
  Device device;
  DType dtype = DType::f32;
  int64_t tokens = 0, documents = 0;  // of the text
  int64_t window = 0, target = 0;     // tokens of a sample, window after extension
  int64_t step = 0, steps = 0;        // done already, in all
};

/// One optimizer step.
struct StepReport {
  int64_t step = 0;      // counted from 1
  int64_t steps = 0;     // of the run
  double loss = 0;       // nats per scored token
  double grad_norm = 0;  // before clipping
  double lr = 0;
  int64_t tokens = 0;  // scored in this step
  double tokens_per_s = 0;
  double seconds = 0;  // of training so far
};

/// The loss on text that is not trained on.
struct ValidationReport {
  int64_t step = 0;  // after so many steps
  double loss = 0;   // nats per token
  int64_t tokens = 0, documents = 0, window = 0;
};

/// What happens in a run. Each may be left empty. They are called by the thread that trains, and only on rank 0 but for
/// those that say otherwise.
struct TrainCallbacks {
  std::function<void(const StartReport&)> on_start = {};
  std::function<void(const StepReport&)> on_step = {};
  std::function<void(const ValidationReport&)> on_validation = {};
  /// On every rank, after `step` steps; `folder` is empty if nothing was saved then.
  std::function<void(int64_t step, const std::string& folder)> on_progress = {};
  /// Asked after every step, on every rank: true ends the run early, with a checkpoint.
  std::function<bool()> stop = {};
  /// One line that the user should read: what was chosen for them, what is left out.
  std::function<void(const std::string&)> on_notice = {};
  /// Bytes of text that are tokenized, on every rank.
  Progress on_tokenize = {};
  /// On every rank, before the run ends with RankLost. It may end the process: on a GPU, whatever waits for the lost
  /// rank would hold up an orderly end.
  std::function<void(const RankLost&)> on_rank_lost = {};
};

/// A document as ids of the run's tokenizer.
struct TokenDocument {
  std::string name;
  std::vector<int32_t> ids;
};

/// Where a run is computed, and what it is given beside its settings.
struct TrainPlace {
  Device device = kCpu;
  Communicator* ranks = nullptr;           // this process is one of several, which all make the same run
  std::vector<Document> documents = {};    // the text, in place of recipe.data
  std::vector<TokenDocument> tokens = {};  // the text as tokens, in place of both
  std::string maker = "train";             // who makes the run, for run.json
  bool locked = false;                     // the caller holds the FolderLock of recipe.out
};

enum class TrainEnd {
  finished,
  stopped,      // by TrainCallbacks::stop, with a checkpoint
  was_finished  // an earlier process had finished the run; nothing was done
};

struct TrainResult {
  TrainEnd end = TrainEnd::finished;
  std::vector<double> losses;  // nats per scored token, one per step of this process
  int64_t steps = 0;           // done so far
  int64_t tokens = 0;          // scored, over all processes that the run took
  double seconds = 0;          // of training, likewise; validation does not count
  std::string checkpoint;      // the newest one; empty: none was written
};

/// Thread safety: none; one thread per run.
class Trainer {
 public:
  /// Checks everything that the run will need before anything is written: settings, folder, text, validation text, and
  /// the model that it begins with. Errors: settings out of range, without effect or without meaning together; a folder
  /// that is not this run's to write; bad data.
  Trainer(const Recipe& recipe, const TrainPlace& place, TrainCallbacks callbacks = {});
  ~Trainer();
  Trainer(const Trainer&) = delete;
  Trainer& operator=(const Trainer&) = delete;

  /// Trains and leaves a model folder at recipe.out (run_folder.h says what is in it); with an empty
  /// recipe.out nothing is written. With ranks, rank 0 writes, each has a part of every batch, and the result
  /// is that of one process but for rounding. Errors: a loss that is not finite, with what is kept;
  /// unwritable files; RankLost; --resume of another run.
  TrainResult run();

  /// The model as it is: before run() the one that the run begins with, afterwards the trained one.
  CausalLm& model();
  const Tokenizer& tokenizer() const;
  const RunPlan& plan() const;

 private:
  class Run;
  std::unique_ptr<Run> run_;
};

}  // namespace rw
