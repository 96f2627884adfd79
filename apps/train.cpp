// Training: the loop, and what it sets up. Options are in train_options.cpp.
#include "train.h"

#include <cmath>
#include <cstdio>
#include <deque>
#include <filesystem>
#include <nlohmann/json.hpp>
#include <utility>

#include "autograd/fast_atomics.h"
#include "common.h"
#include "data/batch.h"
#include "data/demo_corpus.h"
#include "data/retrieval_mix.h"
#include "eval/perplexity.h"
#include "nn/io/checkpoint.h"
#include "nn/io/hf.h"
#include "nn/parallel/data_parallel.h"
#include "nn/train_step.h"
#include "ranks.h"
#include "recipe.h"
#include "tensor/allocator.h"
#include "tensor/file.h"
#include "tensor/hash.h"

using namespace rw;
namespace fs = std::filesystem;

namespace {

/// metrics.jsonl, one object per step, or validation.jsonl. After a resume, lines from `first_step` on, which will come
/// again, are dropped.
class Metrics {
 public:
  Metrics(const std::string& path, int64_t first_step) {
    std::string kept;
    if (first_step > 0 && fs::exists(path)) {
      std::istringstream in(read_file(path));
      for (std::string line; std::getline(in, line);) {
        const auto j = nlohmann::json::parse(line, nullptr, false);
        if (j.is_object() && j.value("step", INT64_MAX) < first_step) kept += line + "\n";
      }
    }
    write_file_atomic(path, kept);
    file_ = std::fopen(path.c_str(), "a");
    check(file_ != nullptr, "train", "cannot write '", path, "'");
  }
  ~Metrics() { std::fclose(file_); }
  Metrics(const Metrics&) = delete;
  Metrics& operator=(const Metrics&) = delete;
  void write(const nlohmann::json& line) {
    std::fprintf(file_, "%s\n", line.dump().c_str());
    std::fflush(file_);
  }

 private:
  std::FILE* file_;
};

/// Text, positions and targets of each step; any (step, micro) can be asked for in any order.
class Loader {
 public:
  Loader(const TrainConfig& config, const Recipe& recipe, const Tokenizer& tokenizer, TokenCorpus corpus,
         std::optional<int32_t> bos, const Communicator* comm)
      : config_(config),
        share_(config.batch / (comm ? comm->size() : 1)),
        before_(comm ? comm->rank() * share_ : 0),
        recipe_(recipe),
        corpus_(std::move(corpus)),
        bos_(bos),
        sampler_(make_position_sampler(recipe.positions)),
        chooser_(corpus_, {.window = recipe.window, .region = recipe.region, .seed = config.seed}) {
    if (config.retrieval_share == 0) return;
    mix_.emplace(tokenizer, RetrievalMixOptions{.share = config.retrieval_share,
                                                .parts = choose_retrieval_template(config.retrieval_template),
                                                .answer_weight = config.retrieval_weight,
                                                .window = recipe.window,
                                                .seed = config.seed});
  }

  struct Item {
    Batch batch;              // ids, targets i32 [B,T]
    PositionBatch positions;  // f32 [B,T], t [B]
  };
  Item next(int64_t step, int64_t micro) const {
    const int64_t first = micro * config_.batch + before_;
    const std::vector<Region> where =
        chooser_.choose(static_cast<uint64_t>(step), static_cast<uint64_t>(first), share_);
    SampleSpec spec{.seed = config_.seed,
                    .step = step,
                    .sample_ids = {},
                    .window = recipe_.window,
                    .target = recipe_.target,
                    .original_window = recipe_.original_window,
                    .document_lengths = {}};
    for (int64_t b = 0; b < share_; ++b) {
      spec.sample_ids.push_back(first + b);
      spec.document_lengths.push_back(where[static_cast<size_t>(b)].available);
    }
    Item item;
    item.positions = sampler_->sample(spec);
    item.batch = make_batch(corpus_, where, item.positions.content, {.bos = bos_, .mask_seams = config_.mask_seams});
    if (mix_) mix_->apply(corpus_, where, bos_, static_cast<uint64_t>(step), static_cast<uint64_t>(first), item.batch);
    return item;
  }

 private:
  const TrainConfig& config_;
  int64_t share_, before_;  // samples of a batch that are this rank's, and those of the ranks before it
  const Recipe& recipe_;
  TokenCorpus corpus_;
  std::optional<int32_t> bos_;
  std::unique_ptr<PositionSampler> sampler_;
  SampleChooser chooser_;
  std::optional<RetrievalMix> mix_;
};

std::unique_ptr<Tokenizer> choose_tokenizer(const TrainConfig& config) {
  if (!config.tokenizer.empty()) return load_tokenizer(config.tokenizer);
  if (!config.from.empty()) return load_tokenizer(model_folder(config.from));
  return make_byte_tokenizer();
}

TokenCorpus tokens_of(const TrainConfig& config, const std::vector<Document>& given, const Tokenizer& tokenizer,
                      const Globals& globals) {
  if (given.empty() && config.data.size() == 1 && is_token_file(config.data[0]) && !config.packed) {
    TokenCorpus corpus = TokenCorpus::open(config.data[0]);
    check(corpus.vocab_size() <= tokenizer.vocab_size(), "train", "'", config.data[0], "' has token ids up to ",
          corpus.vocab_size() - 1, ", the tokenizer ", tokenizer.vocab_size(), " tokens");
    return corpus;
  }
  std::vector<Document> documents = given;
  if (documents.empty())
    documents = config.data.empty() ? make_demo_corpus(config.seed, 64, 20000) : load_corpus(config.data);
  int64_t bytes = 0;
  for (const Document& d : documents) bytes += static_cast<int64_t>(d.text.size());
  ProgressBar bar("tokenize", bytes, globals);
  TokenCorpus corpus = tokenize_corpus(documents, tokenizer, [&](int64_t done, int64_t) { bar.update(done); });
  bar.finish(with_commas(corpus.total_tokens()) + " tokens in " + with_commas(corpus.documents()) + " documents");
  if (!config.packed) return corpus;
  check(tokenizer.eos_id().has_value(), "train", "--packed needs a tokenizer with an end-of-text token");
  return corpus.packed(*tokenizer.eos_id(), tokenizer.bos_id());
}

/// Which text: a resume with other data, or another tokenizer, would go on with other batches.
std::string fingerprint(const TokenCorpus& corpus) {
  uint64_t hash = kFnvBegin;
  std::vector<int32_t> part;
  for (int64_t d = 0; d < corpus.documents(); ++d) {
    for (int64_t at = 0; at < corpus.length(d); at += static_cast<int64_t>(part.size())) {
      part.resize(static_cast<size_t>(std::min<int64_t>(corpus.length(d) - at, 1 << 16)));
      corpus.read(d, at, part);
      hash = fnv1a<int32_t>(part, hash);
    }
  }
  char hex[17];
  std::snprintf(hex, sizeof hex, "%016llx", static_cast<unsigned long long>(hash));
  return cat(corpus.total_tokens(), " tokens in ", corpus.documents(), " documents, fnv1a ", hex);
}

/// The model that a run begins with: new, or --from's under the recipe's configuration.
std::unique_ptr<CausalLm> make_model(const TrainConfig& config, const Recipe& recipe, DType dtype, Device device) {
  check(!config.lean || dtype == DType::bf16, "train", "--lean needs --dtype bf16, got ", dtype);
  check(!config.lean || config.method != "clex", "train",
        "--lean: the frequencies that clex learns are f32, expected another --method");
  const ArenaMemory memory = config.lean ? ArenaMemory::lean() : ArenaMemory{};
  if (config.from.empty()) return std::make_unique<CausalLm>(recipe.model, dtype, device, config.seed, memory);
  return load_hf(model_folder(config.from), {.compute = dtype,
                                             .device = device,
                                             .adjust = [&](ModelConfig& c) { c = recipe.model; },
                                             .seed = config.seed,
                                             .memory = memory});
}

/// One run from its first step, or from its newest checkpoint, to the model folder it leaves. With several ranks each
/// makes one of these, and rank 0's writes.
class Training {
 public:
  Training(const TrainConfig& config, const Globals& globals, const std::vector<Document>& documents,
           Communicator* comm)
      : config_(config),
        globals_(globals),
        device_(use(globals)),
        comm_(comm),
        root_(!comm || comm->root()),
        run_(joined(config, comm)),
        tokenizer_(choose_tokenizer(config)),
        recipe_(make_recipe(config, *tokenizer_)),
        corpus_(tokens_of(config, documents, *tokenizer_, globals)),
        loader_(config, recipe_, *tokenizer_, corpus_, config.no_bos ? std::nullopt : tokenizer_->bos_id(), comm),
        dtype_(config.dtype == "bf16" || (config.dtype == "auto" && device_.is_cuda()) ? DType::bf16 : DType::f32),
        model_(make_model(config, recipe_, dtype_, device_)),
        parallel_(shared(comm, device_, *model_)),
        optimizer_(model_->arena(), config.adamw),
        schedule_(config.schedule),
        progress_("train", config.steps, globals) {
    schedule_.steps = config.steps;
    model_->enable_grad();
    model_->set_recompute(config.recompute);
    state_ = {.step = 0, .tokens = 0, .seed = config.seed, .recipe = recipe_.description};
    state_.recipe["dtype"] = dtype_ == DType::bf16 ? "bf16" : "f32";
    state_.recipe["data"] = fingerprint(corpus_);
    description_ = state_.recipe;
  }

  TrainResult run() {
    open_folder();
    if (config_.resume) resume();
    if (run_ && state_.step > 0) run_->set_checkpoint(checkpoint_folder(config_.out, state_.step));
    if (root_) metrics_.emplace(config_.out + "/metrics.jsonl", state_.step);
    if (root_ && !config_.validation.empty()) {
      validations_.emplace(config_.out + "/validation.jsonl", state_.step + 1);
      TrainConfig other;
      other.data = config_.validation;
      validation_ = tokens_of(other, {}, *tokenizer_, globals_);
    }
    set_fast_atomics(config_.fast_atomics);
    step_.emplace(*model_, optimizer_, !config_.eager, parallel_ ? &*parallel_ : nullptr);
    seen_ = state_.step;
    start_ = previous_ = now();
    try {
      while (state_.step < config_.steps) one_step();
      while (step_->pending() > 0) look();
      if (config_.validate_every == 0 || state_.step % config_.validate_every != 0) validate();
      result_.seconds = now() - start_ - validating_;
      if (parallel_) parallel_->gather_master();
    } catch (const RankLost& e) {
      run_->leave(e.what());
    }
    if (root_) write_model();
    return result_;
  }

 private:
  static std::optional<RunState> joined(const TrainConfig& config, Communicator* comm) {
    if (!comm) return std::nullopt;
    check(config.batch % comm->size() == 0, "train", "--batch ", config.batch, " does not divide by ", comm->size(),
          " ranks");
    check(!config.lean, "train", "--lean is for one process, got ", comm->size(), " ranks");
    return std::optional<RunState>(std::in_place, *comm);
  }
  static std::optional<DataParallel> shared(Communicator* comm, Device device, CausalLm& model) {
    if (!comm) return std::nullopt;
    comm->use(device);
    return std::optional<DataParallel>(std::in_place, *comm, model.arena());
  }

  /// --out, made and free of what a killed run left half written.
  void open_folder() {
    if (root_) {
      make_folder("train", config_.out);
      remove_unfinished(config_.out);
    }
    if (comm_) check_same_on_all(*comm_, "recipe or text", to_toml(description_));  // and the folder is there for all
    if (!root_ || config_.resume) return;
    // Two runs would mix: the older one's later steps would be taken for the newest, and resumed.
    const auto earlier = config_.save_every > 0 ? latest_checkpoint(config_.out) : std::nullopt;
    check(!earlier.has_value(), "train", "'", config_.out, "' holds checkpoints of another run (", earlier.value_or(""),
          "): go on with it by --resume, or remove them, or name another --out");
  }

  void resume() {
    if (const auto folder = latest_checkpoint(config_.out)) {
      state_ = load_checkpoint(*folder, *model_, optimizer_);
      check(state_.recipe == description_, "train", "--resume with other options than '", *folder,
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
                  recipe_.model.rope.rope_type == "clex" ? item.positions.t : std::vector<double>{},
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
    if (run_) run_->set_step(state_.step);
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
                             .bos = config_.no_bos ? std::nullopt : tokenizer_->bos_id()})
            .totals.at(0);
    validations_->write({{"step", state_.step}, {"loss", total.nll}, {"tokens", total.tokens}});
    const double took = now() - begin;
    validating_ += took;
    previous_ += took;
  }

  /// The result of the oldest step that was not looked at.
  void look() {
    const StepResult r = step_->result();
    const int64_t tokens = waiting_.front();
    waiting_.pop_front();
    check(std::isfinite(r.loss), "train", "the loss is ", r.loss, " at step ", seen_, "; the last checkpoint is kept");
    check(std::isfinite(r.grad_norm), "train", "the gradient norm is ", r.grad_norm, " at step ", seen_,
          "; the last checkpoint is kept");
    const double moment = now(), rate = static_cast<double>(tokens) / (moment - previous_);
    previous_ = moment;
    result_.losses.push_back(r.loss);
    result_.tokens += tokens;
    if (metrics_ && seen_ % config_.log_every == 0)
      metrics_->write({{"step", seen_},
                       {"loss", r.loss},
                       {"lr", schedule_(seen_)},
                       {"grad_norm", r.grad_norm},
                       {"tokens_per_s", rate},
                       {"time_s", moment - start_}});
    ++seen_;
    progress_.update(seen_, note(r.loss, rate));
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
    if (run_) run_->set_checkpoint(checkpoint_folder(config_.out, state_.step));
  }

  void write_model() {
    tokenizer_->save(config_.out);
    write_file_atomic(config_.out + "/recipe.toml", to_toml(description_));
    save_hf(config_.out, *model_);
    progress_.finish(note(result_.losses.empty() ? 0.0 : result_.losses.back(),
                          static_cast<double>(result_.tokens) / std::max(result_.seconds, 1e-9)));
  }

  static std::string note(double loss, double rate) {
    char text[80];
    std::snprintf(text, sizeof text, "loss %.4f  %s tok/s", loss, with_commas(std::llround(rate)).c_str());
    return text;
  }

  const TrainConfig& config_;
  const Globals& globals_;
  Device device_;
  Communicator* comm_;
  bool root_;
  std::optional<RunState> run_;
  std::unique_ptr<Tokenizer> tokenizer_;
  Recipe recipe_;
  TokenCorpus corpus_;
  Loader loader_;
  std::optional<Loader::Item> ahead_;  // the next micro-batch, if it was made already
  DType dtype_;
  std::unique_ptr<CausalLm> model_;
  std::optional<DataParallel> parallel_;  // before the gradients: it says which moments this rank has
  AdamW optimizer_;
  Schedule schedule_;
  ProgressBar progress_;
  std::optional<TrainStep> step_;
  std::map<std::string, std::string> description_;  // the whole recipe, for recipe.toml and for a resume
  TrainerState state_;
  std::optional<Metrics> metrics_, validations_;
  std::optional<TokenCorpus> validation_;
  TrainResult result_;
  double start_ = 0, previous_ = 0;  // when the run began, when the last result came
  double validating_ = 0;            // seconds
  int64_t seen_ = 0;                 // steps whose result was looked at: on a GPU one behind
  std::deque<int64_t> waiting_;      // scored tokens of the steps after that
};

}  // namespace

TrainResult run_training(const TrainConfig& config, const Globals& globals, const std::vector<Document>& documents,
                         Communicator* comm) {
  return Training(config, globals, documents, comm).run();
}

TrainResult run_training_and_record(const TrainConfig& config, const Globals& globals,
                                    const std::vector<Document>& documents, Communicator* comm) {
  const Device device = use(globals);
  reset_peak_memory(device);
  const TrainResult result = run_training(config, globals, documents, comm);
  if (comm && !comm->root()) return result;
  const nlohmann::json cost = {{"steps", result.losses.size()},
                               {"tokens", result.tokens},
                               {"seconds", result.seconds},
                               {"device", device.is_cuda() ? "cuda" : "cpu"},
                               {"peak_memory_bytes", memory_stats(device).peak_bytes}};
  write_file_atomic(config.out + "/cost.json", cost.dump(1) + "\n");
  return result;
}
