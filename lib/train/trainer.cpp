// The training loop, and what it sets up.
#include "train/trainer.h"

#include <chrono>
#include <cmath>
#include <deque>
#include <filesystem>
#include <nlohmann/json.hpp>
#include <utility>

#include "autograd/tape.h"
#include "data/demo_corpus.h"
#include "eval/perplexity.h"
#include "nn/io/checkpoint.h"
#include "nn/io/hf.h"
#include "nn/parallel/data_parallel.h"
#include "nn/train_step.h"
#include "tensor/allocator.h"
#include "tensor/file.h"
#include "tensor/hash.h"
#include "train/loader.h"
#include "train/metrics_file.h"
#include "train/text.h"

namespace rw {
namespace {

constexpr const char* kOp = "train";

double now() { return std::chrono::duration<double>(std::chrono::steady_clock::now().time_since_epoch()).count(); }

std::unique_ptr<Tokenizer> choose_tokenizer(const TrainConfig& config) {
  if (!config.tokenizer.empty()) return load_tokenizer(config.tokenizer);
  if (!config.from.empty()) return load_tokenizer(model_folder(config.from));
  return make_byte_tokenizer();
}

/// The built-in stories that a new user trains on: --data demo, or no --data.
bool is_demo(const TrainConfig& config) {
  return config.data.empty() || (config.data.size() == 1 && config.data[0] == "demo");
}

TokenCorpus text_of(const TrainConfig& config, const std::vector<Document>& given, const Tokenizer& tokenizer,
                    const TrainCallbacks& callbacks) {
  const bool demo = given.empty() && is_demo(config);
  if (demo && config.data.empty() && callbacks.on_notice)
    callbacks.on_notice("no --data: training on built-in stories (--data demo says so)");
  const TokenCorpus corpus =
      demo            ? tokenize_corpus(make_demo_corpus(config.seed, 64, 20000), tokenizer, callbacks.on_tokenize)
      : given.empty() ? load_tokens(config.data, tokenizer, callbacks.on_tokenize)
                      : tokenize_corpus(given, tokenizer, callbacks.on_tokenize);
  if (!config.packed) return corpus;
  check(tokenizer.eos_id().has_value(), kOp, "--packed needs a tokenizer with an end-of-text token");
  return corpus.packed(*tokenizer.eos_id(), tokenizer.bos_id());
}

/// The model that a run begins with: new, or --from's under the recipe's configuration.
std::unique_ptr<CausalLm> make_model(const TrainConfig& config, const Recipe& recipe, DType dtype, Device device) {
  check(!config.lean || dtype == DType::bf16, kOp, "--lean needs --dtype bf16, got ", dtype);
  check(!config.lean || config.method != "clex", kOp,
        "--lean: the frequencies that clex learns are f32, expected another --method");
  const ArenaMemory memory = config.lean ? ArenaMemory::lean() : ArenaMemory{};
  if (config.from.empty()) return std::make_unique<CausalLm>(recipe.model, dtype, device, config.seed, memory);
  return load_hf(model_folder(config.from), {.compute = dtype,
                                             .device = device,
                                             .adjust = [&](ModelConfig& c) { c = recipe.model; },
                                             .seed = config.seed,
                                             .memory = memory});
}

/// Errors: `text`, which says what decides the result, is not the same on all ranks.
void check_same_on_all(Communicator& comm, const std::string& what, const std::string& text) {
  const uint64_t hash = fnv1a<char>(text);
  const double low = static_cast<double>(hash & 0xffffffffu), high = static_cast<double>(hash >> 32);
  const auto all = comm.gather({low, high});
  for (size_t r = 0; r < all.size(); ++r) {
    check(all[r] == all[0], "parallel", "rank ", r, " has another ", what, " than rank 0");
  }
}

BatchShare share_of(const TrainConfig& config, const Communicator* comm) {
  const int64_t ranks = comm ? comm->size() : 1;
  check(config.batch % ranks == 0, kOp, "--batch ", config.batch, " does not divide by ", ranks, " ranks");
  check(!config.lean || ranks == 1, kOp, "--lean is for one process, got ", ranks, " ranks");
  const int64_t count = config.batch / ranks;
  return {comm ? comm->rank() * count : 0, count};
}

std::optional<DataParallel> shared(Communicator* comm, Device device, CausalLm& model) {
  if (!comm) return std::nullopt;
  comm->use(device);
  return std::optional<DataParallel>(std::in_place, *comm, model.arena());
}

}  // namespace

/// With several ranks each makes one of these, and rank 0's writes.
class Trainer::Run {
 public:
  Run(const TrainConfig& config, const TrainPlace& place, TrainCallbacks callbacks)
      : config_(config),
        device_(place.device),
        comm_(place.ranks),
        root_(!comm_ || comm_->root()),
        callbacks_(std::move(callbacks)),
        share_(share_of(config, comm_)),
        tokenizer_(choose_tokenizer(config)),
        recipe_(make_recipe(config, *tokenizer_)),
        corpus_(text_of(config, place.documents, *tokenizer_, callbacks_)),
        bos_(config.no_bos ? std::nullopt : tokenizer_->bos_id()),
        loader_(config_, recipe_, *tokenizer_, corpus_, bos_, share_),
        dtype_(config.dtype == "bf16" || (config.dtype == "auto" && device_.is_cuda()) ? DType::bf16 : DType::f32),
        model_(make_model(config_, recipe_, dtype_, device_)),
        parallel_(shared(comm_, device_, *model_)),
        optimizer_(model_->arena(), config.adamw),
        schedule_(config.schedule) {
    schedule_.steps = config.steps;
    model_->enable_grad();
    model_->set_recompute(config.recompute);
    check(config.matmul == "native" || config.matmul == "fp8", kOp, "--matmul is native or fp8, got '", config.matmul,
          "'");
    if (config.matmul == "fp8") model_->set_matmul(Matmul::fp8);
    state_ = {.step = 0, .tokens = 0, .seed = config.seed, .recipe = recipe_.description};
    state_.recipe["dtype"] = dtype_ == DType::bf16 ? "bf16" : "f32";
    if (config.matmul != "native") state_.recipe["matmul"] = config.matmul;
    state_.recipe["data"] = fingerprint(corpus_);
    description_ = state_.recipe;
  }

  TrainResult run() {
    open_folder();
    if (config_.resume) resume();
    if (state_.step > 0) report_progress(checkpoint_folder(config_.out, state_.step));
    if (root_) metrics_.emplace(config_.out + "/metrics.jsonl", state_.step);
    if (root_ && !config_.validation.empty()) {
      validations_.emplace(config_.out + "/validation.jsonl", state_.step + 1);
      validation_ = load_tokens(config_.validation, *tokenizer_, callbacks_.on_tokenize);
    }
    report_start();
    Tape::current().set_fast_atomics(config_.fast_atomics);
    step_.emplace(*model_, optimizer_, !config_.eager, parallel_ ? &*parallel_ : nullptr);
    seen_ = state_.step;
    start_ = previous_ = now();
    try {
      while (state_.step < config_.steps) one_step();
      while (step_->pending() > 0) look();
      if (config_.validate_every == 0 || state_.step % config_.validate_every != 0) validate();
      result_.seconds = now() - start_ - validating_;
      if (parallel_) parallel_->gather_master();
    } catch (const RankLost& lost) {
      if (callbacks_.on_rank_lost) callbacks_.on_rank_lost(lost);
      throw;
    }
    if (root_) write_model();
    return result_;
  }

  CausalLm& model() { return *model_; }
  const Tokenizer& tokenizer() const { return *tokenizer_; }
  const Recipe& recipe() const { return recipe_; }

 private:
  /// --out, made and free of what a killed run left half written.
  void open_folder() {
    if (root_) {
      make_folder(kOp, config_.out);
      remove_unfinished(config_.out);
    }
    if (comm_) check_same_on_all(*comm_, "recipe or text", to_toml(description_));  // and the folder is there for all
    if (!root_ || config_.resume) return;
    // Two runs would mix: the older one's later steps would be taken for the newest, and resumed.
    const auto earlier = config_.save_every > 0 ? latest_checkpoint(config_.out) : std::nullopt;
    check(!earlier.has_value(), kOp, "'", config_.out, "' holds checkpoints of another run (", earlier.value_or(""),
          "): go on with it by --resume, or remove them, or name another --out");
  }

  void resume() {
    if (const auto folder = latest_checkpoint(config_.out)) {
      state_ = load_checkpoint(*folder, *model_, optimizer_);
      check(state_.recipe == description_, kOp, "--resume with other options than '", *folder,
            "' was trained with: ", difference(state_.recipe, description_));
    }
    if (!comm_) return;
    check_same_on_all(*comm_, "checkpoint (is --out on a file system that all hosts share?)", cat(state_.step));
    parallel_->share_weights();
  }

  void one_step() {
    for (int64_t micro = 0; micro < config_.accumulate; ++micro) {
      const Loader::Item item = ahead_ ? *std::exchange(ahead_, std::nullopt) : loader_.next(state_.step, micro);
      step_->add({item.batch.ids,
                  item.batch.targets,
                  item.positions.positions,
                  {.length = recipe_.target, .training = true},
                  recipe_.model.rope.rope_type() == "clex" ? item.positions.t : std::vector<double>{},
                  item.batch.scored,
                  item.batch.weights,
                  item.batch.weight},
                 micro + 1 == config_.accumulate);
      // While the GPU works on this one: with learned frequencies what comes next waits for it.
      if (micro + 1 < config_.accumulate) {
        ahead_ = loader_.next(state_.step, micro + 1);
      } else if (state_.step + 1 < config_.steps) {
        ahead_ = loader_.next(state_.step + 1, 0);
      }
    }
    const int64_t tokens = step_->update(schedule_(state_.step), config_.clip);
    state_.tokens += tokens;
    waiting_.push_back(tokens);
    ++state_.step;
    while (step_->pending() > (device_.is_cuda() ? 1 : 0)) look();
    if (config_.save_every > 0 && state_.step % config_.save_every == 0) {
      while (step_->pending() > 0) look();  // nothing is saved that was not found finite
      save();
    }
    if (config_.validate_every > 0 && state_.step % config_.validate_every == 0) validate();
    report_progress("");
  }

  /// The loss of the model as it is on text that it is not trained on, without retrieval sequences: windows of the
  /// target's length side by side. It costs no training time in the records.
  void validate() {
    if (!validations_) return;
    while (step_->pending() > 0) look();
    const double begin = now();
    ModelScorer scorer(*model_);
    const int64_t documents = validation_->documents();
    const PerplexityTotal total =
        evaluate_perplexity(scorer, *validation_,
                            {.windows = {recipe_.target},
                             .stride = recipe_.target,
                             .max_tokens = (config_.validation_tokens + documents - 1) / documents,
                             .bos = bos_})
            .totals.at(0);
    validations_->write(nlohmann::json{{"step", state_.step}, {"loss", total.nll}, {"tokens", total.tokens}}.dump());
    if (callbacks_.on_validation)
      callbacks_.on_validation({.step = state_.step,
                                .loss = total.nll,
                                .tokens = total.tokens,
                                .documents = total.documents,
                                .window = recipe_.target});
    const double took = now() - begin;
    validating_ += took;
    previous_ += took;
  }

  /// The result of the oldest step that was not looked at.
  void look() {
    const StepResult r = step_->result();
    const int64_t tokens = waiting_.front();
    waiting_.pop_front();
    check(std::isfinite(r.loss), kOp, "the loss is ", r.loss, " at step ", seen_, "; the last checkpoint is kept");
    check(std::isfinite(r.grad_norm), kOp, "the gradient norm is ", r.grad_norm, " at step ", seen_,
          "; the last checkpoint is kept");
    const double moment = now(), rate = static_cast<double>(tokens) / (moment - previous_);
    previous_ = moment;
    result_.losses.push_back(r.loss);
    result_.tokens += tokens;
    if (metrics_ && seen_ % config_.log_every == 0)
      metrics_->write(nlohmann::json{{"step", seen_},
                                     {"loss", r.loss},
                                     {"lr", schedule_(seen_)},
                                     {"grad_norm", r.grad_norm},
                                     {"tokens_per_s", rate},
                                     {"time_s", moment - start_}}
                          .dump());
    ++seen_;
    if (root_ && callbacks_.on_step)
      callbacks_.on_step({.step = seen_,
                          .steps = config_.steps,
                          .loss = r.loss,
                          .grad_norm = r.grad_norm,
                          .lr = schedule_(seen_ - 1),
                          .tokens = tokens,
                          .tokens_per_s = rate,
                          .seconds = moment - start_ - validating_});
  }

  void save() {
    WholeMoments moments;
    if (parallel_) {
      parallel_->gather_master();
      moments = parallel_->gather_moments();
    }
    const auto save_tokenizer = [&](const std::string& folder) { tokenizer_->save(folder); };
    if (root_) save_checkpoint(config_.out, *model_, optimizer_, state_, config_.keep, save_tokenizer, moments);
    if (comm_) comm_->barrier();
    report_progress(checkpoint_folder(config_.out, state_.step));
  }

  void write_model() {
    tokenizer_->save(config_.out);
    write_file_atomic(config_.out + "/recipe.toml", to_toml(description_));
    save_hf(config_.out, *model_);
  }

  void report_start() const {
    if (!root_ || !callbacks_.on_start) return;
    callbacks_.on_start({.parameters = model_->arena().parameter_count(),
                         .device = device_,
                         .dtype = dtype_,
                         .tokens = corpus_.total_tokens(),
                         .documents = corpus_.documents(),
                         .window = recipe_.window,
                         .target = recipe_.target,
                         .step = state_.step,
                         .steps = config_.steps});
  }

  void report_progress(const std::string& checkpoint) const {
    if (callbacks_.on_progress) callbacks_.on_progress(state_.step, checkpoint);
  }

  const TrainConfig config_;
  Device device_;
  Communicator* comm_;
  bool root_;
  TrainCallbacks callbacks_;
  BatchShare share_;
  std::unique_ptr<Tokenizer> tokenizer_;
  Recipe recipe_;
  TokenCorpus corpus_;
  std::optional<int32_t> bos_;
  Loader loader_;
  std::optional<Loader::Item> ahead_;  // the next micro-batch, if it was made already
  DType dtype_;
  std::unique_ptr<CausalLm> model_;
  std::optional<DataParallel> parallel_;  // before the gradients: it says which moments this rank has
  AdamW optimizer_;
  Schedule schedule_;
  std::optional<TrainStep> step_;
  std::map<std::string, std::string> description_;  // the whole recipe, for recipe.toml and for a resume
  TrainerState state_;
  std::optional<MetricsFile> metrics_, validations_;
  std::optional<TokenCorpus> validation_;
  TrainResult result_;
  double start_ = 0, previous_ = 0;  // when the run began, when the last result came
  double validating_ = 0;            // seconds
  int64_t seen_ = 0;                 // steps whose result was looked at: on a GPU one behind
  std::deque<int64_t> waiting_;      // scored tokens of the steps after that
};

Trainer::Trainer(const TrainConfig& config, const TrainPlace& place, TrainCallbacks callbacks)
    : run_(std::make_unique<Run>(config, place, std::move(callbacks))) {}
Trainer::~Trainer() = default;
TrainResult Trainer::run() { return run_->run(); }
CausalLm& Trainer::model() { return run_->model(); }
const Tokenizer& Trainer::tokenizer() const { return run_->tokenizer(); }
const Recipe& Trainer::recipe() const { return run_->recipe(); }

void write_cost(const std::string& folder, const TrainResult& result, Device device) {
  const nlohmann::json cost = {{"steps", result.losses.size()},
                               {"tokens", result.tokens},
                               {"seconds", result.seconds},
                               {"device", device.is_cuda() ? "cuda" : "cpu"},
                               {"peak_memory_bytes", memory_stats(device).peak_bytes}};
  write_file_atomic(folder + "/cost.json", cost.dump(1) + "\n");
}

}  // namespace rw
