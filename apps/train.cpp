// A training run with its progress on standard error.
#include "train.h"

#include <cmath>
#include <cstdio>
#include <optional>

#include "common.h"
#include "interrupt.h"
#include "ranks.h"
#include "tensor/allocator.h"

using namespace rw;

namespace {

/// The bars of one run: one while text is read, one while it trains.
class RunProgress {
 public:
  explicit RunProgress(const Globals& globals) : globals_(globals) {}

  void tokenized(int64_t done, int64_t total) {
    if (!text_) text_.emplace("tokenize", total, globals_);
    text_->update(done);
    if (done < total) return;
    text_->finish();
    text_.reset();
  }

  void start(const StartReport& r) {
    if (!globals_.quiet) {
      std::fprintf(stderr, "%s parameters  %s  %s  %s tokens in %s documents  window %lld", with_commas(r.parameters).c_str(),
                   cat(r.device).c_str(), cat(r.dtype).c_str(), with_commas(r.tokens).c_str(),
                   with_commas(r.documents).c_str(), static_cast<long long>(r.window));
      if (r.target != r.window) std::fprintf(stderr, " for %lld", static_cast<long long>(r.target));
      if (r.step > 0) std::fprintf(stderr, "  from step %lld", static_cast<long long>(r.step));
      std::fprintf(stderr, "\n");
    }
    bar_.emplace("train", r.steps, globals_);
    if (r.step > 0) bar_->update(r.step);
  }

  void step(const StepReport& r) { bar_->update(r.step, note(r)); }
  void validation(const ValidationReport& r) {
    char text[60];
    std::snprintf(text, sizeof text, "  validation %.4f", r.loss);
    validation_ = text;
  }
  void finish() {
    if (bar_ && last_.step > 0) bar_->finish(note(last_));
  }

 private:
  std::string note(const StepReport& r) {
    last_ = r;
    char text[100];
    std::snprintf(text, sizeof text, "step %lld/%lld  loss %.4f", static_cast<long long>(r.step),
                  static_cast<long long>(r.steps), r.loss);
    char rate[80];
    std::snprintf(rate, sizeof rate, "  lr %.2g  %s tok/s", r.lr, with_commas(std::llround(r.tokens_per_s)).c_str());
    return text + validation_ + rate;
  }

  const Globals& globals_;
  std::optional<ProgressBar> text_, bar_;
  std::string validation_;
  StepReport last_;
};

/// What a run tells the terminal and the other ranks' watcher.
TrainCallbacks callbacks_of(RunProgress& progress, std::optional<RunState>& state, std::optional<GracefulStop>& graceful,
                            bool root) {
  return {.on_start =
              [&progress, &graceful](const StartReport& r) {
                progress.start(r);
                graceful.emplace();
              },
          .on_step = [&progress](const StepReport& r) { progress.step(r); },
          .on_validation = [&progress](const ValidationReport& r) { progress.validation(r); },
          .on_progress =
              [&state](int64_t step, const std::string& checkpoint) {
                if (!state) return;
                state->set_step(step);
                if (!checkpoint.empty()) state->set_checkpoint(checkpoint);
              },
          .stop = [] { return interrupted() != 0; },
          .on_notice =
              [root](const std::string& line) {
                if (root) std::fprintf(stderr, "ropewalk: %s\n", line.c_str());
              },
          .on_tokenize = [&progress](int64_t done, int64_t total) { progress.tokenized(done, total); },
          .on_rank_lost =
              [&state](const RankLost& lost) {
                if (state) state->leave(lost.what());
              }};
}

}  // namespace

TrainResult run_training(const Recipe& config, const Globals& globals, TrainPlace place, Communicator* comm) {
  place.device = use(globals);
  place.ranks = comm;
  reset_peak_memory(place.device);
  RunProgress progress(globals);
  std::optional<RunState> state;
  if (comm) state.emplace(*comm);
  std::optional<GracefulStop> graceful;
  Trainer trainer(config, place, callbacks_of(progress, state, graceful, !comm || comm->root()));
  const TrainResult result = trainer.run();
  progress.finish();
  return result;
}
