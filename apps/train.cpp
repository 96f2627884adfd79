// Training: the loop, and what it sets up. Options are in train_options.cpp.
#include "train.h"

#include <cmath>
#include <cstdio>
#include <deque>
#include <filesystem>
#include <nlohmann/json.hpp>

#include "autograd/fast_atomics.h"
#include "common.h"
#include "data/batch.h"
#include "data/demo_corpus.h"
#include "data/retrieval_mix.h"
#include "nn/io/checkpoint.h"
#include "nn/io/hf.h"
#include "nn/parallel/data_parallel.h"
#include "nn/train_step.h"
#include "parallel.h"
#include "recipe.h"
#include "tensor/allocator.h"
#include "tensor/file.h"
#include "tensor/hash.h"

using namespace rw;
namespace fs = std::filesystem;

namespace {

/// metrics.jsonl: one object per step. After a resume, lines of steps that will be run again are dropped.
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
  void write(int64_t step, double loss, double lr, double norm, double rate, double time) {
    const nlohmann::json j = {{"step", step},      {"loss", loss},         {"lr", lr},
                              {"grad_norm", norm}, {"tokens_per_s", rate}, {"time_s", time}};
    std::fprintf(file_, "%s\n", j.dump().c_str());
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

}  // namespace

TrainResult run_training(const TrainConfig& config, const Globals& globals, const std::vector<Document>& documents,
                         Communicator* comm) {
  const Device device = use(globals);
  const bool root = !comm || comm->root();
  check(!comm || config.batch % comm->size() == 0, "train", "--batch ", config.batch, " does not divide by ",
        comm ? comm->size() : 1, " ranks");
  check(!comm || !config.lean, "train", "--lean is for one process, got ", comm ? comm->size() : 1, " ranks");
  std::optional<RunState> run;
  if (comm) run.emplace(*comm);
  const std::unique_ptr<Tokenizer> tokenizer = choose_tokenizer(config);
  const Recipe recipe = make_recipe(config, *tokenizer);
  const TokenCorpus corpus = tokens_of(config, documents, *tokenizer, globals);
  const std::optional<int32_t> bos = config.no_bos ? std::nullopt : tokenizer->bos_id();
  const Loader loader(config, recipe, *tokenizer, corpus, bos, comm);

  const DType dtype = config.dtype == "bf16" || (config.dtype == "auto" && device.is_cuda()) ? DType::bf16 : DType::f32;
  check(!config.lean || dtype == DType::bf16, "train", "--lean needs --dtype bf16, got ", dtype);
  check(!config.lean || config.method != "clex", "train",
        "--lean: the frequencies that clex learns are f32, expected another --method");
  const ArenaMemory memory = config.lean ? ArenaMemory::lean() : ArenaMemory{};
  std::unique_ptr<Llama> model =
      config.from.empty() ? std::make_unique<Llama>(recipe.model, dtype, device, config.seed, memory)
                          : load_hf(model_folder(config.from), {.compute = dtype,
                                                                .device = device,
                                                                .adjust = [&](LlamaConfig& c) { c = recipe.model; },
                                                                .seed = config.seed,
                                                                .memory = memory});
  std::optional<DataParallel> parallel;
  if (comm) {
    comm->use(device);
    parallel.emplace(*comm, model->arena());
  }
  model->enable_grad();
  model->set_recompute(config.recompute);
  AdamW optimizer(model->arena(), config.adamw);

  std::map<std::string, std::string> description = recipe.description;
  description["dtype"] = dtype == DType::bf16 ? "bf16" : "f32";
  description["data"] = fingerprint(corpus);
  TrainerState state{.step = 0, .tokens = 0, .seed = config.seed, .recipe = description};
  if (root) {
    make_folder("train", config.out);
    remove_unfinished(config.out);
  }
  if (comm) check_same_on_all(*comm, "recipe or text", to_toml(description));  // and the folder is there for all
  if (root && !config.resume) {
    // Two runs would mix: the older one's later steps would be taken for the newest, and resumed.
    const auto earlier = config.save_every > 0 ? latest_checkpoint(config.out) : std::nullopt;
    check(!earlier.has_value(), "train", "'", config.out, "' holds checkpoints of another run (", earlier.value_or(""),
          "): go on with it by --resume, or remove them, or name another --out");
  }
  if (config.resume) {
    if (const auto folder = latest_checkpoint(config.out)) {
      const auto recipe_now = state.recipe;
      state = load_checkpoint(*folder, *model, optimizer);
      check(state.recipe == recipe_now, "train", "--resume with other options than '", *folder,
            "' was trained with: ", difference(state.recipe, recipe_now));
    }
  }
  if (comm && config.resume) {
    check_same_on_all(*comm, "checkpoint (is --out on a file system that all hosts share?)", cat(state.step));
    parallel->share_weights();
  }
  if (run && state.step > 0) run->set_checkpoint(checkpoint_folder(config.out, state.step));
  Schedule schedule = config.schedule;
  schedule.steps = config.steps;
  std::optional<Metrics> metrics;
  if (root) metrics.emplace(config.out + "/metrics.jsonl", state.step);
  const auto save_tokenizer = [&](const std::string& folder) { tokenizer->save(folder); };
  const bool per_sample_t = recipe.model.rope.rope_type == "clex";

  ProgressBar progress("train", config.steps, globals);
  TrainResult result;
  set_fast_atomics(config.fast_atomics);
  TrainStep step(*model, optimizer, !config.eager, parallel ? &*parallel : nullptr);
  const double start = now();
  double previous = start;
  int64_t seen = state.step;    // steps whose result was looked at: on a GPU one behind
  std::deque<int64_t> waiting;  // scored tokens of the steps after that
  const auto look = [&] {
    const StepResult r = step.result();
    const int64_t tokens = waiting.front();
    waiting.pop_front();
    check(std::isfinite(r.loss), "train", "the loss is ", r.loss, " at step ", seen, "; the last checkpoint is kept");
    check(std::isfinite(r.grad_norm), "train", "the gradient norm is ", r.grad_norm, " at step ", seen,
          "; the last checkpoint is kept");
    const double moment = now(), rate = static_cast<double>(tokens) / (moment - previous);
    previous = moment;
    result.losses.push_back(r.loss);
    result.tokens += tokens;
    if (metrics && seen % config.log_every == 0)
      metrics->write(seen, r.loss, schedule(seen), r.grad_norm, rate, moment - start);
    ++seen;
    char note[80];
    std::snprintf(note, sizeof note, "loss %.4f  %s tok/s", r.loss, with_commas(std::llround(rate)).c_str());
    progress.update(seen, note);
  };
  const auto save = [&] {
    WholeMoments moments;
    if (parallel) {
      parallel->gather_master();
      moments = parallel->gather_moments();
    }
    if (root) save_checkpoint(config.out, *model, optimizer, state, config.keep, save_tokenizer, moments);
    if (comm) comm->barrier();
    if (run) run->set_checkpoint(checkpoint_folder(config.out, state.step));
  };
  const auto one_step = [&] {
    const int64_t behind = device.is_cuda() ? 1 : 0;
    for (int64_t micro = 0; micro < config.accumulate; ++micro) {
      const Loader::Item item = loader.next(state.step, micro);
      step.add({item.batch.ids,
                item.batch.targets,
                item.positions.positions,
                {.length = recipe.target, .training = true},
                per_sample_t ? item.positions.t : std::vector<double>{},
                item.batch.scored,
                item.batch.weights,
                item.batch.weight},
               micro + 1 == config.accumulate);
    }
    const int64_t tokens = step.update(schedule(state.step), config.clip);
    state.tokens += tokens;
    waiting.push_back(tokens);
    ++state.step;
    while (step.pending() > behind) look();
    if (config.save_every > 0 && state.step % config.save_every == 0) {
      while (step.pending() > 0) look();  // nothing is saved that was not found finite
      save();
    }
    if (run) run->set_step(state.step);
  };
  try {
    while (state.step < config.steps) one_step();
    while (step.pending() > 0) look();
    result.seconds = now() - start;
    if (parallel) parallel->gather_master();
  } catch (const RankLost& e) {
    run->leave(e.what());
  }
  if (!root) return result;
  save_tokenizer(config.out);
  write_file_atomic(config.out + "/recipe.toml", to_toml(description));
  save_hf(config.out, *model);
  char note[80];
  std::snprintf(note, sizeof note, "loss %.4f  %s tok/s", result.losses.empty() ? 0.0 : result.losses.back(),
                with_commas(std::llround(static_cast<double>(result.tokens) / std::max(result.seconds, 1e-9))).c_str());
  progress.finish(note);
  return result;
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
