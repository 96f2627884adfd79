// Training runs as `ropewalk train`, `demo` and `compare` start them: with progress on standard error.
#pragma once
#include <optional>
#include <string>

#include "common.h"
#include "interrupt.h"
#include "train/trainer.h"
#include "verbs.h"

/// The bars of one run: one while text is read, one while it trains. From the first step
/// on, Ctrl-C and SIGTERM end the run in order.
class TrainingDisplay {
 public:
  explicit TrainingDisplay(const Globals& globals) : globals_(globals) {}
  TrainingDisplay(const TrainingDisplay&) = delete;
  TrainingDisplay& operator=(const TrainingDisplay&) = delete;
  /// They refer to this object.
  rw::TrainCallbacks callbacks();
  /// The last line of the bar; signals end the process at once again.
  void finish();

 private:
  void tokenized(int64_t done, int64_t total);
  void start(const rw::StartReport& r);
  void step(const rw::StepReport& r);
  std::string note() const;

  const Globals& globals_;
  std::optional<ProgressBar> text_, bar_;
  std::optional<GracefulStop> graceful_;
  std::string validation_;
  rw::StepReport last_;
};

/// Trains, and leaves a model folder at recipe.out. `place` says for whom; its device and ranks are set here: `comm`
/// makes this process one of several ranks, which all make this call, and losing a rank ends the process. Ctrl-C and
/// SIGTERM end the run early, with a checkpoint. Errors: Trainer's.
rw::TrainResult run_training(const rw::Recipe& recipe, const Globals& globals, rw::TrainPlace place = {},
                             rw::Communicator* comm = nullptr);

/// Declares the options of `ropewalk train` that fill `recipe`.
void add_train_options(CLI::App& app, rw::Recipe& recipe);
