// A training run with its progress on standard error.
#include "train.h"

#include <cmath>
#include <cstdio>
#include <optional>

#include "common.h"
#include "ranks.h"
#include "tensor/allocator.h"

using namespace rw;

void TrainingDisplay::tokenized(int64_t done, int64_t total) {
  if (!text_) text_.emplace("tokenize", total, globals_);
  text_->update(done);
  if (done < total) return;
  text_->finish();
  text_.reset();
}

void TrainingDisplay::start(const StartReport& r) {
  graceful_.emplace();
  if (!globals_.quiet) {
    std::fprintf(stderr, "%s parameters  %s  %s  %s tokens in %s documents  window %lld",
                 with_commas(r.parameters).c_str(), cat(r.device).c_str(), cat(r.dtype).c_str(),
                 with_commas(r.tokens).c_str(), with_commas(r.documents).c_str(), static_cast<long long>(r.window));
    if (r.target != r.window) std::fprintf(stderr, " for %lld", static_cast<long long>(r.target));
    if (r.step > 0) std::fprintf(stderr, "  from step %lld", static_cast<long long>(r.step));
    std::fprintf(stderr, "\n");
  }
  bar_.emplace("train", r.steps, globals_);
  if (r.step > 0) bar_->update(r.step);
}

void TrainingDisplay::step(const StepReport& r) {
  last_ = r;
  bar_->update(r.step, note());
}

void TrainingDisplay::finish() {
  graceful_.reset();
  if (bar_ && last_.step > 0) bar_->finish(note());
}

std::string TrainingDisplay::note() const {
  char loss[80], rate[80];
  std::snprintf(loss, sizeof loss, "step %lld/%lld  loss %.4f", static_cast<long long>(last_.step),
                static_cast<long long>(last_.steps), last_.loss);
  std::snprintf(rate, sizeof rate, "  lr %.2g  %s tok/s", last_.lr,
                with_commas(std::llround(last_.tokens_per_s)).c_str());
  return loss + validation_ + rate;
}

TrainCallbacks TrainingDisplay::callbacks() {
  return {.on_start = [this](const StartReport& r) { start(r); },
          .on_step = [this](const StepReport& r) { step(r); },
          .on_validation =
              [this](const ValidationReport& r) {
                char text[60];
                std::snprintf(text, sizeof text, "  validation %.4f", r.loss);
                validation_ = text;
              },
          .stop = [] { return interrupted() != 0; },
          .on_notice = [](const std::string& line) { std::fprintf(stderr, "ropewalk: %s\n", line.c_str()); },
          .on_tokenize = [this](int64_t done, int64_t total) { tokenized(done, total); }};
}

TrainResult run_training(const Recipe& recipe, const Globals& globals, TrainPlace place, Communicator* comm) {
  place.device = use(globals);
  place.ranks = comm;
  reset_peak_memory(place.device);
  TrainingDisplay display(globals);
  std::optional<RunState> state;
  if (comm) state.emplace(*comm);
  TrainCallbacks callbacks = display.callbacks();
  if (comm && !comm->root()) callbacks.on_notice = {};
  if (state) {
    callbacks.on_progress = [&](int64_t step, const std::string& checkpoint) {
      state->set_step(step);
      if (!checkpoint.empty()) state->set_checkpoint(checkpoint);
    };
    callbacks.on_rank_lost = [&](const RankLost& lost) { state->leave(lost.what()); };
  }
  Trainer trainer(recipe, place, callbacks);
  const TrainResult result = trainer.run();
  display.finish();
  return result;
}
