// The training loop.
#include "train/trainer.h"

#include <chrono>
#include <cmath>
#include <deque>
#include <filesystem>
#include <nlohmann/json.hpp>
#include <utility>

#include "autograd/tape.h"
#include "eval/provenance.h"
#include "nn/io/adapter.h"
#include "nn/io/checkpoint.h"
#include "nn/io/hf.h"
#include "nn/parallel/data_parallel.h"
#include "nn/train_step.h"
#include "tensor/allocator.h"
#include "tensor/file.h"
#include "tensor/folder.h"
#include "tensor/hash.h"
#include "tensor/printable.h"
#include "train/metrics_file.h"
#include "train/recipe_fields.h"
#include "train/run_setup.h"

namespace rw {
namespace {

constexpr const char* kOp = "train";

double now() { return std::chrono::duration<double>(std::chrono::steady_clock::now().time_since_epoch()).count(); }

/// Errors: `text`, which says what decides the result, is not the same on all ranks.
void check_same_on_all(Communicator& comm, const std::string& what, const std::string& text) {
  const uint64_t hash = fnv1a<char>(text);
  const double low = static_cast<double>(hash & 0xffffffffu), high = static_cast<double>(hash >> 32);
  const auto all = comm.gather({low, high});
  for (size_t r = 0; r < all.size(); ++r) {
    check(all[r] == all[0], "parallel", "rank ", r, " has another ", what, " than rank 0");
  }
}

std::optional<DataParallel> shared(Communicator* comm, Device device, CausalLm& model) {
  if (!comm) return std::nullopt;
  comm->use(device);
  return std::optional<DataParallel>(std::in_place, *comm, model.arena());
}

FolderUse use_of(const Recipe& recipe) {
  check(!recipe.resume || !recipe.overwrite, kOp, "--resume goes on with a run, --overwrite replaces it: give one");
  return recipe.resume ? FolderUse::resume : recipe.overwrite ? FolderUse::overwrite : FolderUse::fresh;
}

/// Errors: somebody else's file or folder has the name of a checkpoint that the run may write.
void check_checkpoint_names(const Recipe& recipe) {
  if (!is_folder(recipe.out) || (recipe.save_every == 0 && recipe.save_minutes == 0)) return;
  const std::string prefix = "checkpoint-";
  for (const std::string& name : names_in(recipe.out)) {
    const std::string digits = name.starts_with(prefix) ? name.substr(prefix.size()) : "";
    if (digits.empty() || digits.size() > 15 || digits.find_first_not_of("0123456789") != digits.npos) continue;
    const std::string path = recipe.out + "/" + name;
    const int64_t step = std::stoll(digits);
    if (step > recipe.steps || path != checkpoint_folder(recipe.out, step)) continue;
    const bool ours = path_kind(path) == PathKind::folder && !std::filesystem::is_symlink(path) &&
                      (path_exists(path + "/trainer_state.json") || path_exists(path + "/optimizer.safetensors"));
    check(ours, kOp, "'", path,
          "' is not of this program, and the run would write a checkpoint of that name: name "
          "another --out");
  }
}

/// The place that the run writes to, checked; none if nothing is to be written, or by another rank.
std::optional<RunFolder> checked_folder(const Recipe& recipe, const TrainPlace& place) {
  check_settings(recipe);
  if (recipe.out.empty() || (place.ranks && !place.ranks->root())) return std::nullopt;
  check_outside(kOp, recipe.out, recipe.data);
  check_outside(kOp, recipe.out, recipe.validation);
  check_checkpoint_names(recipe);
  RunFolder folder(recipe.out, use_of(recipe), place.maker, place.locked);
  folder.check_place(sources_of(recipe));
  return folder;
}

/// The device's allocator refuses more than --memory while it lives.
class MemoryLimit {
 public:
  MemoryLimit(const std::string& size, Device device) : device_(device), on_(!size.empty()) {
    if (on_) set_memory_limit(memory_size(size), device_);
  }
  ~MemoryLimit() {
    if (on_) set_memory_limit(0, device_);
  }
  MemoryLimit(const MemoryLimit&) = delete;
  MemoryLimit& operator=(const MemoryLimit&) = delete;

 private:
  Device device_;
  bool on_;
};

}  // namespace

/// With several ranks each makes one of these, and rank 0's writes.
class Trainer::Run {
 public:
  Run(const Recipe& recipe, const TrainPlace& place, TrainCallbacks callbacks)
      : recipe_(recipe),
        device_(place.device),
        comm_(place.ranks),
        root_(!comm_ || comm_->root()),
        callbacks_(std::move(callbacks)),
        folder_(checked_folder(recipe, place)),
        limit_(recipe.memory, place.device),
        setup_(set_up_run(recipe, place, callbacks_)),
        model_(*setup_.model),
        parallel_(shared(comm_, device_, model_)),
        optimizer_(model_.arena(), recipe.adamw),
        schedule_(recipe.schedule) {
    schedule_.steps = recipe.steps;
    model_.enable_grad();
    model_.set_recompute(setup_.memory.recompute, {.inputs_on_host = setup_.memory.offload_activations,
                                                   .keep_attention = setup_.memory.keep_attention});
    model_.set_mlp_tile(setup_.memory.mlp_tile);
    if (recipe.matmul != "native") {
      const Matmul matmul = recipe.matmul == "fp8" ? Matmul::fp8 : Matmul::fp8_wherever;
      model_.set_linear({.matmul = matmul, .recompute_input = recipe.fp8_recompute});
    } else {
      model_.set_linear({.recompute_input = setup_.memory.recompute_inputs});
    }
    state_ = {.step = 0, .tokens = 0, .seed = recipe.seed, .recipe = setup_.identity};
    if (folder_) stand_ = folder_->stand(setup_.identity);
    check_steps();
  }

  TrainResult run() {
    if (on_root(stand_.finished && stand_.steps == recipe_.steps)) return finished_before();
    if (folder_) folder_->begin(sources_of(recipe_), setup_.identity, recipe_to_toml(recipe_));
    if (comm_) check_same_on_all(*comm_, "recipe or text", nlohmann::json(setup_.identity).dump());
    resume();
    open_records();
    report_start();
    Tape::current().set_fast_atomics(recipe_.fast_atomics);
    step_.emplace(model_, optimizer_, !recipe_.eager, parallel_ ? &*parallel_ : nullptr);
    seen_ = state_.step;
    start_ = previous_ = saved_at_ = now();
    try {
      if (validation_due() && validations_ && validations_->last_step() < state_.step) validate();
      while (state_.step < recipe_.steps && !stopped_) one_step();
      while (step_->pending() > 0) look();
      finish();
    } catch (const OutOfMemory& e) {
      throw OutOfMemory(e.what() + advice());
    } catch (const RankLost& lost) {
      if (callbacks_.on_rank_lost) callbacks_.on_rank_lost(lost);
      throw;
    }
    folder_.reset();  // others may work in it from now on
    return result_;
  }

  CausalLm& model() { return model_; }
  const Tokenizer& tokenizer() const { return *setup_.tokenizer; }
  const RunPlan& plan() const { return setup_.plan; }

 private:
  std::string advice() const {
    const std::string limit = recipe_.memory.empty() ? "" : "--memory " + recipe_.memory + " is exceeded; ";
    const bool offload = device_.is_cuda() && !(setup_.memory.offload_optimizer && setup_.memory.offload_activations);
    return "; " + limit + "use a smaller --batch or --window, --mlp-tile" +
           (setup_.memory.recompute ? "" : ", --recompute") + (offload ? ", --offload" : "") +
           (recipe_.moments == "int8" ? "" : ", --moments int8") + ", or --lora-rank; " + kept();
  }
  /// Rank 0's answer, on every rank.
  bool on_root(bool value) const { return comm_ ? comm_->broadcast(value ? 1.0 : 0.0) > 0 : value; }
  void notice(const std::string& line) const {
    if (root_ && callbacks_.on_notice) callbacks_.on_notice(line);
  }

  /// More steps are the same run so far if the rates of the steps done do not depend on their number.
  void check_steps() const {
    if (!stand_.exists || stand_.steps == recipe_.steps) return;
    const std::string& kind = recipe_.schedule.kind;
    check(recipe_.steps > stand_.steps, kOp, "--resume with --steps ", recipe_.steps, ": the run was started with ",
          stand_.steps, ", and is not made shorter");
    check(kind == "constant", kOp, "--resume with --steps ", recipe_.steps, ": the run was started with ", stand_.steps,
          ", and the rates of its schedule '", kind, "' depend on the number of steps. Begin a new run with --from '",
          recipe_.out, "' and another --seed (", recipe_.seed,
          " draws the same samples again), or use --schedule constant from the start");
    notice(cat("going on to ", recipe_.steps, " steps; the run was started with ", stand_.steps));
  }

  TrainResult finished_before() {
    name_damaged();
    result_.end = TrainEnd::was_finished;
    result_.steps = recipe_.steps;
    return result_;
  }

  void name_damaged() const {
    for (const std::string& damaged : stand_.damaged) notice(cat("'", damaged, "' is damaged and is passed over"));
  }

  void resume() {
    if (!recipe_.resume || recipe_.out.empty()) return;
    name_damaged();
    if (const auto folder = latest_checkpoint(recipe_.out)) {
      state_ = load_checkpoint(*folder, model_, optimizer_);
      Identity then = state_.recipe, current = setup_.identity;
      then.erase("steps"), current.erase("steps");
      check(then == current, kOp, "--resume with other options than '", *folder,
            "' was trained with: ", difference(then, current));
      state_.recipe = setup_.identity;
      result_.checkpoint = *folder;
    } else if (stand_.exists) {
      notice(cat("no checkpoint in '", recipe_.out, "': starting with the first step again"));
    }
    check(state_.step <= recipe_.steps, kOp, "'", result_.checkpoint, "' is beyond --steps ", recipe_.steps);
    if (state_.step > 0) report_progress(result_.checkpoint);
    if (!comm_) return;
    check_same_on_all(*comm_, "checkpoint (is --out on a file system that all hosts share?)", cat(state_.step));
    parallel_->share_weights();
  }

  void open_records() {
    earlier_seconds_ = state_.seconds;
    if (!folder_) return;
    metrics_.emplace(recipe_.out + "/metrics.jsonl", state_.step);
    if (recipe_.csv) table_.emplace(recipe_.out + "/metrics.csv", recipe_.out + "/metrics.jsonl");
    if (setup_.validation) validations_.emplace(recipe_.out + "/validation.jsonl", state_.step + 1);
  }

  void one_step() {
    const bool learned = !model_.scaling().parameter_specs().empty();  // frequencies, of the t that a sample imitates
    for (int64_t micro = 0; micro < recipe_.accumulate; ++micro) {
      const Loader::Item item = ahead_ ? *std::exchange(ahead_, std::nullopt) : setup_.loader->next(state_.step, micro);
      step_->add({item.batch.ids,
                  item.batch.targets,
                  item.positions.positions,
                  {.length = setup_.plan.target, .training = true},
                  learned ? item.positions.t : std::vector<double>{},
                  item.batch.scored,
                  item.batch.weights,
                  item.batch.weight,
                  dropout_draw(micro)},
                 micro + 1 == recipe_.accumulate);
      // While the GPU works on this one: with learned frequencies what comes next waits for it.
      if (micro + 1 < recipe_.accumulate) {
        ahead_ = setup_.loader->next(state_.step, micro + 1);
      } else if (state_.step + 1 < recipe_.steps) {
        ahead_ = setup_.loader->next(state_.step + 1, 0);
      }
    }
    const int64_t tokens = step_->update(schedule_(state_.step), recipe_.clip);
    state_.tokens += tokens;
    waiting_.push_back(tokens);
    ++state_.step;
    while (step_->pending() > (device_.is_cuda() ? 1 : 0)) look();
    decide();
    if (validation_due()) validate();
    report_progress("");
  }

  /// Which dropout masks: the same whatever the ranks, and after a resume.
  std::optional<CausalLm::DropoutDraw> dropout_draw(int64_t micro) const {
    if (!model_.has_dropout()) return std::nullopt;
    return CausalLm::DropoutDraw{.seed = recipe_.seed,
                                 .draw = static_cast<uint64_t>(state_.step * recipe_.accumulate + micro),
                                 .first_row = setup_.share.first * setup_.plan.window};
  }

  /// Whether this step is saved, and whether the run stops here: the same on every rank.
  void decide() {
    bool stop = callbacks_.stop && callbacks_.stop();
    bool by_time = recipe_.save_minutes > 0 && now() - saved_at_ >= 60 * recipe_.save_minutes;
    if (comm_) {
      const auto all = comm_->gather({stop ? 1.0 : 0.0, by_time ? 1.0 : 0.0});
      for (const auto& rank : all) stop = stop || rank[0] > 0;
      by_time = all[0][1] > 0;
    }
    stopped_ = stop && state_.step < recipe_.steps;
    const bool saves = recipe_.save_every > 0 || recipe_.save_minutes > 0;
    const bool by_step = recipe_.save_every > 0 && state_.step % recipe_.save_every == 0;
    if (saves && state_.step == recipe_.steps) save_last();
    else if (by_step || by_time || stopped_) save();
  }

  /// The last checkpoint is larger than the model: where there is no room for it, there may be for the model.
  void save_last() {
    while (step_->pending() > 0) look();
    try {
      save();
    } catch (const Error& e) {
      if (comm_) throw;
      unsaved_ = e.what();
    }
  }

  bool validation_due() const {
    return recipe_.validate_every > 0 && state_.step > 0 && state_.step < recipe_.steps &&
           state_.step % recipe_.validate_every == 0;
  }

  /// The loss of the model as it is on text that it is not trained on. It costs no training time in the records.
  void validate() {
    if (!setup_.validation) return;
    while (step_->pending() > 0) look();
    const double begin = now();
    const ValidationReport r = setup_.validation->run(model_, state_.step);
    if (validations_)
      validations_->write(nlohmann::json{
          {"step", r.step}, {"loss", r.loss}, {"tokens", r.tokens}, {"documents", r.documents}, {"window", r.window}}
                              .dump());
    if (callbacks_.on_validation) callbacks_.on_validation(r);
    const double took = now() - begin;
    validating_ += took;
    previous_ += took;
  }

  std::string kept() const {
    return result_.checkpoint.empty() ? "no checkpoint was written" : "'" + result_.checkpoint + "' is kept";
  }

  /// The result of the oldest step that was not looked at.
  void look() {
    const StepResult r = step_->result();
    const int64_t tokens = waiting_.front();
    waiting_.pop_front();
    check(std::isfinite(r.loss), kOp, "the loss is ", printable(r.loss), " at step ", seen_ + 1, "; ", kept());
    check(std::isfinite(r.grad_norm), kOp, "the gradient norm is ", printable(r.grad_norm), " at step ", seen_ + 1,
          "; ", kept());
    const double moment = now(), rate = static_cast<double>(tokens) / (moment - previous_);
    previous_ = moment;
    result_.losses.push_back(r.loss);
    if (metrics_ && seen_ % recipe_.log_every == 0) write_metrics(r, rate, moment);
    ++seen_;
    if (root_ && callbacks_.on_step)
      callbacks_.on_step({.step = seen_,
                          .steps = recipe_.steps,
                          .loss = r.loss,
                          .grad_norm = r.grad_norm,
                          .lr = schedule_(seen_ - 1),
                          .tokens = tokens,
                          .tokens_per_s = rate,
                          .seconds = seconds()});
  }

  void write_metrics(const StepResult& r, double rate, double moment) {
    const std::string line = nlohmann::json{{"step", seen_},          {"loss", r.loss},
                                            {"lr", schedule_(seen_)}, {"grad_norm", r.grad_norm},
                                            {"tokens_per_s", rate},   {"time_s", earlier_seconds_ + moment - start_}}
                                 .dump();
    metrics_->write(line);
    if (table_) table_->write(line);
  }

  /// Of training, over all processes.
  double seconds() const { return earlier_seconds_ + now() - start_ - validating_; }

  void save() {
    while (step_->pending() > 0) look();  // nothing is saved that was not found finite
    saved_at_ = now();
    if (recipe_.out.empty()) return;
    state_.seconds = seconds();
    state_.peak_memory_bytes = std::max(state_.peak_memory_bytes, memory_stats(device_).peak_bytes);
    WholeMoments moments;
    if (parallel_) {
      parallel_->gather_master();
      moments = parallel_->gather_moments();
    }
    const auto save_tokenizer = [&](const std::string& folder) { setup_.tokenizer->save(folder); };
    try {
      if (root_) save_checkpoint(recipe_.out, model_, optimizer_, state_, recipe_.keep, save_tokenizer, moments);
    } catch (const Error& e) {
      fail(kOp, "step ", state_.step, " is not saved: ", e.what(), "; ", kept());
    }
    if (comm_) comm_->barrier();
    result_.checkpoint = checkpoint_folder(recipe_.out, state_.step);
    report_progress(result_.checkpoint);
  }

  /// The model, then what may still fail.
  void finish() {
    state_.seconds = seconds();
    state_.peak_memory_bytes = std::max(state_.peak_memory_bytes, memory_stats(device_).peak_bytes);
    result_.end = stopped_ ? TrainEnd::stopped : TrainEnd::finished;
    result_.steps = state_.step;
    result_.tokens = state_.tokens;
    result_.seconds = state_.seconds;
    if (stopped_) {
      if (folder_) write_cost();
      return;
    }
    if (parallel_) parallel_->gather_master();
    if (folder_) {
      check_finite(model_.arena(), kOp);
      put_model();
      write_cost();
      folder_->finish(setup_.identity, facts());
    }
    if (!validations_ || validations_->last_step() < state_.step) validate();
    check(unsaved_.empty(), kOp, "the model is saved in '", recipe_.out, "', its last checkpoint is not: ", unsaved_);
  }

  void put_model() const {
    try {
      folder_->put_model([&](const std::string& beside) {
        setup_.tokenizer->save(beside);
        if (model_.config().adapter) {
          save_adapter(beside, model_,
                       {.base = recipe_.from, .dtype = recipe_.save_dtype == "bf16" ? DType::bf16 : DType::f32});
        } else {
          save_hf(beside, model_, {.dtype = setup_.save_dtype, .generation = setup_.generation});
        }
      });
    } catch (const Error& e) {
      fail(kOp, "the model is not saved: ", e.what(), "; ", kept());
    }
  }

  std::string facts() const {
    return nlohmann::json{{"method", recipe_.method},
                          {"window", setup_.plan.window},
                          {"target", setup_.plan.target},
                          {"original_window", setup_.plan.original_window},
                          {"parameters", model_.arena().parameter_count()},
                          {"device", device_text(device_)},
                          {"dtype", cat(setup_.dtype)},
                          {"date", date_now()},
                          {"version", program_version()}}
        .dump();
  }

  void write_cost() const {
    const nlohmann::json cost = {{"steps", state_.step},
                                 {"tokens", state_.tokens},
                                 {"seconds", state_.seconds},
                                 {"device", device_.is_cuda() ? "cuda" : "cpu"},
                                 {"peak_memory_bytes", state_.peak_memory_bytes}};
    write_file_atomic(recipe_.out + "/cost.json", cost.dump(1) + "\n");
  }

  void report_start() const {
    if (!root_ || !callbacks_.on_start) return;
    callbacks_.on_start({.parameters = model_.arena().parameter_count(),
                         .device = device_,
                         .dtype = setup_.dtype,
                         .tokens = setup_.corpus.total_tokens(),
                         .documents = setup_.corpus.documents(),
                         .window = setup_.plan.window,
                         .target = setup_.plan.target,
                         .step = state_.step,
                         .steps = recipe_.steps});
  }

  void report_progress(const std::string& checkpoint) const {
    if (callbacks_.on_progress) callbacks_.on_progress(state_.step, checkpoint);
  }

  const Recipe recipe_;
  Device device_;
  Communicator* comm_;
  bool root_;
  TrainCallbacks callbacks_;
  std::optional<RunFolder> folder_;  // on rank 0
  MemoryLimit limit_;
  RunSetup setup_;
  CausalLm& model_;
  std::optional<DataParallel> parallel_;  // before the gradients: it says which moments this rank has
  AdamW optimizer_;
  Schedule schedule_;
  RunStand stand_;
  std::optional<TrainStep> step_;
  std::optional<Loader::Item> ahead_;  // the next micro-batch, if it was made already
  TrainerState state_;
  std::optional<MetricsFile> metrics_, validations_;
  std::optional<MetricsTable> table_;
  TrainResult result_;
  std::string unsaved_;                             // why the checkpoint of the last step is not written
  double start_ = 0, previous_ = 0, saved_at_ = 0;  // when the process began, the last result came, the last save was
  double earlier_seconds_ = 0, validating_ = 0;     // of training in earlier processes; of validation in this one
  bool stopped_ = false;
  int64_t seen_ = 0;             // steps whose result was looked at: on a GPU one behind
  std::deque<int64_t> waiting_;  // scored tokens of the steps after that
};

Trainer::Trainer(const Recipe& recipe, const TrainPlace& place, TrainCallbacks callbacks)
    : run_(std::make_unique<Run>(recipe, place, std::move(callbacks))) {}
Trainer::~Trainer() = default;
TrainResult Trainer::run() { return run_->run(); }
CausalLm& Trainer::model() { return run_->model(); }
const Tokenizer& Trainer::tokenizer() const { return run_->tokenizer(); }
const RunPlan& Trainer::plan() const { return run_->plan(); }

}  // namespace rw
