// A training run with its progress on standard error.
#include "train.h"

#include <cmath>
#include <cstdio>
#include <optional>

#include "common.h"
#include "ranks.h"
#include "tensor/allocator.h"

using namespace rw;

namespace {

std::string note(double loss, double rate) {
  char text[80];
  std::snprintf(text, sizeof text, "loss %.4f  %s tok/s", loss, with_commas(std::llround(rate)).c_str());
  return text;
}

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
    if (!globals_.quiet)
      std::fprintf(stderr, "%s parameters  %s  %s  %s tokens in %s documents\n", with_commas(r.parameters).c_str(),
                   cat(r.device).c_str(), cat(r.dtype).c_str(), with_commas(r.tokens).c_str(),
                   with_commas(r.documents).c_str());
    bar_.emplace("train", r.steps, globals_);
  }
  void step(const StepReport& r) { bar_->update(r.step, note(r.loss, r.tokens_per_s)); }
  void finish(const TrainResult& result) {
    if (bar_)
      bar_->finish(note(result.losses.empty() ? 0.0 : result.losses.back(),
                        static_cast<double>(result.tokens) / std::max(result.seconds, 1e-9)));
  }

 private:
  const Globals& globals_;
  std::optional<ProgressBar> text_, bar_;
};

}  // namespace

TrainResult run_training(const TrainConfig& config, const Globals& globals, const std::vector<Document>& documents,
                         Communicator* comm) {
  const Device device = use(globals);
  RunProgress progress(globals);
  std::optional<RunState> state;
  if (comm) state.emplace(*comm);
  const bool root = !comm || comm->root();
  TrainCallbacks callbacks{
      .on_start = [&](const StartReport& r) { progress.start(r); },
      .on_step = [&](const StepReport& r) { progress.step(r); },
      .on_progress =
          [&](int64_t step, const std::string& checkpoint) {
            if (!state) return;
            state->set_step(step);
            if (!checkpoint.empty()) state->set_checkpoint(checkpoint);
          },
      .on_notice =
          [&](const std::string& line) {
            if (root) std::fprintf(stderr, "ropewalk: %s\n", line.c_str());
          },
      .on_tokenize = [&](int64_t done, int64_t total) { progress.tokenized(done, total); },
      .on_rank_lost =
          [&](const RankLost& lost) {
            if (state) state->leave(lost.what());
          }};
  Trainer trainer(config, {.device = device, .ranks = comm, .documents = documents}, std::move(callbacks));
  const TrainResult result = trainer.run();
  progress.finish(result);
  return result;
}

TrainResult run_training_and_record(const TrainConfig& config, const Globals& globals,
                                    const std::vector<Document>& documents, Communicator* comm) {
  const Device device = use(globals);
  reset_peak_memory(device);
  const TrainResult result = run_training(config, globals, documents, comm);
  if (!comm || comm->root()) write_cost(config.out, result, device);
  return result;
}
