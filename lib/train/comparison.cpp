// The stages of a comparison, and the files that mark them as done.
#include "train/comparison.h"

#include <algorithm>
#include <chrono>
#include <cmath>
#include <cstdio>
#include <filesystem>
#include <nlohmann/json.hpp>

#include "data/bpe_train.h"
#include "data/demo_corpus.h"
#include "data/text.h"
#include "eval/provenance.h"
#include "nn/io/adapter.h"
#include "nn/io/checkpoint.h"
#include "nn/io/hf.h"
#include "tensor/file.h"
#include "tensor/folder.h"
#include "train/run_folder.h"
#include "train/text.h"
#include "train/toml.h"

namespace rw {
namespace {

namespace fs = std::filesystem;
constexpr const char* kOp = "compare";

double now() { return std::chrono::duration<double>(std::chrono::steady_clock::now().time_since_epoch()).count(); }
std::string seconds_text(double seconds) {
  char text[32];
  std::snprintf(text, sizeof text, "%.1fs", seconds);
  return text;
}

Settings read_settings(const std::string& path) {
  Settings out;
  for (const TomlSection& s : parse_toml(read_file(path, limits::recipe), path, kOp)) {
    for (const TomlItem& item : s.items) out[item.key] = item.values.empty() ? "" : item.values[0];
  }
  return out;
}

std::string to_settings_toml(const Settings& settings) {
  std::string out;
  for (const auto& [key, value] : settings) out += toml_quote(key) + " = " + toml_quote(value) + "\n";
  return out;
}

/// True if the marker stands. Errors: it was left by other settings.
bool is_done(const std::string& folder, const Settings& settings) {
  const std::string marker = folder + "/stage.toml";
  if (!path_exists(marker)) return false;
  const std::string differs = difference(read_settings(marker), settings);
  check(differs.empty(), kOp, "'", folder, "' was made with other settings: ", differs,
        "; remove it or choose another --out");
  return true;
}

void mark_done(const std::string& folder, const Settings& settings) {
  write_file_atomic(folder + "/stage.toml", to_settings_toml(settings));
}

/// True if `name` fits a pattern in which * stands for anything. One pass: the last * takes what is left over.
bool fits(const std::string& pattern, const std::string& name) {
  size_t p = 0, n = 0, star = std::string::npos, from = 0;
  while (n < name.size()) {
    if (p < pattern.size() && pattern[p] == '*') star = p++, from = n;
    else if (p < pattern.size() && pattern[p] == name[n]) ++p, ++n;
    else if (star != std::string::npos) p = star + 1, n = ++from;
    else return false;
  }
  while (p < pattern.size() && pattern[p] == '*') ++p;
  return p == pattern.size();
}

bool asks_for(const std::string& pattern, const ComparisonArm& arm) {
  return fits(pattern, arm.name) || fits(pattern, arm.family);
}

/// Errors: the folder itself is a model or a run, or holds tables that no comparison there has made.
void check_own(const std::string& out) {
  for (const char* name : {"config.json", "run.json", "metrics.jsonl", "model.safetensors", "adapter_config.json"}) {
    check(!path_exists(out + "/" + name), kOp, "'", out, "' holds a model or a run (", name,
          "), which are not mixed with a comparison: name another --out");
  }
  if (!path_exists(out)) return;
  bool ours = false;
  for (const std::string& name : names_in(out)) ours = ours || path_exists(out + "/" + name + "/stage.toml");
  for (const char* name : {"table.md", "table.csv", "table.jsonl"}) {
    check(ours || !path_exists(out + "/" + name), kOp, "'", out, "/", name,
          "' is there already and is of no comparison, so it is not replaced: name another --out");
  }
}

}  // namespace

Comparison::Comparison(ComparisonRecipe recipe, ComparisonOptions options, ComparisonCallbacks callbacks)
    : recipe_(std::move(recipe)), o_(std::move(options)), callbacks_(std::move(callbacks)) {
  for (const std::string& pattern : o_.only) {
    const bool any = std::any_of(recipe_.arms.begin(), recipe_.arms.end(),
                                 [&](const ComparisonArm& arm) { return asks_for(pattern, arm); });
    check(any, kOp, "--only ", pattern, ": no arm has that name; --list shows them");
  }
}

std::vector<const ComparisonArm*> Comparison::wanted() const {
  std::vector<const ComparisonArm*> out;
  for (const ComparisonArm& arm : recipe_.arms) {
    const bool asked = std::any_of(o_.only.begin(), o_.only.end(), [&](const auto& p) { return asks_for(p, arm); });
    if (o_.only.empty() || asked) out.push_back(&arm);
  }
  return out;
}

StageState Comparison::state(const std::string& name) const {
  if (!path_exists(folder(name))) return StageState::waiting;
  if (!path_exists(folder(name) + "/stage.toml")) return StageState::under_way;
  for (const ComparisonEval& e : recipe_.evals) {
    if (!path_exists(folder(name) + "/eval-" + e.name + ".json")) return StageState::trained;
  }
  return StageState::done;
}

bool Comparison::run() {
  check_outside(kOp, o_.out, recipe_.base.data);
  for (const ComparisonEval& e : recipe_.evals) check_outside(kOp, o_.out, e.protocol->options.data);
  check_own(o_.out);
  make_folder(kOp, o_.out);
  const std::vector<const ComparisonArm*> arms = wanted();
  stage_ = 0, stages_ = arms.size() + 1;
  if (!prepare_base()) return false;
  for (const ComparisonArm* arm : arms) {
    ++stage_;
    const FolderLock lock(folder(arm->name), false);
    if (!lock.held()) {
      say(arm->name, "another process is at it");
      continue;
    }
    if (arm->zero_shot) prepare_zero_shot(*arm);
    else if (!train(arm->name, arm->train, arm->settings)) return false;
    const bool zero = arm->zero_shot;
    std::string rope;
    if (zero) {
      const ModelConfig base = read_hf_config(model_folder(base_folder()));
      rope = rope_scaling_to_json(make_plan(arm->train, *make_byte_tokenizer(), &base).model.rope);
    }
    evaluate(arm->name, zero ? base_folder() : folder(arm->name), rope);
    if (worked_) write_tables();
    if (o_.drop_weights && !zero) drop_weights(arm->name);
  }
  return true;
}

void Comparison::say(const std::string& name, const std::string& what) {
  if (callbacks_.on_stage) callbacks_.on_stage(stage_, stages_, name, what);
  worked_ = true;
}

Progress Comparison::work(const std::string& what) const {
  if (!callbacks_.on_work) return {};
  return [this, what](int64_t done, int64_t total) { callbacks_.on_work(what, done, total); };
}

// --- the base -------------------------------------------------------------------------------------------------------

const std::vector<Document>& Comparison::documents() {
  const std::vector<std::string>& data = recipe_.base.data;
  if (documents_.empty())
    documents_ =
        data.empty() || names_demo_corpus(data) ? make_demo_corpus(recipe_.base.seed, 200, 12000) : load_corpus(data);
  return documents_;
}

void Comparison::prepare_tokenizer() {
  if (recipe_.vocab == 0) return;
  const std::string to = folder("tokenizer");
  const Settings settings = {{"vocab", cat(recipe_.vocab)}, {"data", recipe_.base_settings.at("data")}};
  if (is_done(to, settings)) return;
  const double start = now();
  const auto made = train_bpe(documents(), recipe_.vocab, {}, work("merges"));
  make_folder(kOp, to);
  made->save(to);
  mark_done(to, settings);
  say("tokenizer", cat("vocabulary ", made->vocab_size(), "  ", seconds_text(now() - start)));
}

std::unique_ptr<Tokenizer> Comparison::tokenizer() const {
  if (!recipe_.model.empty()) return load_tokenizer(model_folder(recipe_.model));
  if (recipe_.vocab > 0) return load_tokenizer(folder("tokenizer"));
  return recipe_.tokenizer.empty() ? make_byte_tokenizer() : load_tokenizer(recipe_.tokenizer);
}

/// The training text in tokens, made once for all arms unless the recipe's data are tokens already.
std::string Comparison::text_file() const {
  const std::vector<std::string>& data = recipe_.base.data;
  return data.size() == 1 && is_token_file(data[0]) ? data[0] : folder("text") + "/train.tokens";
}

void Comparison::prepare_text() {
  const std::string to = folder("text");
  if (text_file() != to + "/train.tokens" || is_done(to, recipe_.base_settings)) return;
  const double start = now();
  make_folder(kOp, to);
  const TokenCorpus corpus = tokenize_corpus(documents(), *tokenizer(), work("tokenize"));
  write_token_file(to + "/train.tokens", corpus);
  mark_done(to, recipe_.base_settings);
  say("text",
      cat(corpus.total_tokens(), " tokens in ", corpus.documents(), " documents  ", seconds_text(now() - start)));
}

bool Comparison::prepare_base() {
  ++stage_;
  const FolderLock lock(folder("base"), true);
  prepare_tokenizer();
  const auto arms = wanted();
  if (recipe_.model.empty() || std::any_of(arms.begin(), arms.end(), [](const auto* arm) { return !arm->zero_shot; }))
    prepare_text();
  documents_.clear();
  if (recipe_.model.empty()) {
    Recipe config = recipe_.base;
    config.tokenizer = recipe_.vocab > 0 ? folder("tokenizer") : recipe_.tokenizer;
    if (!train("base", config, recipe_.base_settings)) return false;
  } else if (!is_done(folder("base"), recipe_.base_settings)) {
    write_file_atomic(folder("base") + "/config.json",
                      read_file(model_folder(recipe_.model) + "/config.json", limits::config));
    mark_done(folder("base"), recipe_.base_settings);
  }
  evaluate("base", base_folder(), "");
  return true;
}

// --- one stage ------------------------------------------------------------------------------------------------------

bool Comparison::train(const std::string& name, Recipe config, const Settings& settings) {
  if (is_done(folder(name), settings)) return true;
  config.data = {text_file()};
  config.out = folder(name);
  if (!config.from.empty()) config.from = base_folder();
  config.resume = true;
  TrainResult result;
  {
    Trainer trainer(config, {.device = o_.device, .maker = kOp, .locked = true},
                    callbacks_.training ? callbacks_.training(name) : TrainCallbacks{});
    result = trainer.run();
  }
  if (callbacks_.on_trained) callbacks_.on_trained(name);
  if (result.end == TrainEnd::stopped) {
    say(name, cat("stopped at step ", result.steps, " of ", config.steps));
    return false;
  }
  remove_checkpoints(folder(name));
  mark_done(folder(name), settings);
  char text[120];
  std::snprintf(text, sizeof text, "%5lld steps  loss %.4f  %lld tok/s  %s", static_cast<long long>(result.steps),
                result.losses.empty() ? 0.0 : result.losses.back(),
                std::llround(static_cast<double>(result.tokens) / std::max(result.seconds, 1e-9)),
                seconds_text(result.seconds).c_str());
  say(name, text);
  return true;
}

/// The base's config under the arm's frequencies, for the report.
void Comparison::prepare_zero_shot(const ComparisonArm& arm) {
  if (is_done(folder(arm.name), arm.settings)) return;
  const ModelConfig base = read_hf_config(model_folder(base_folder()));
  const RunPlan plan = make_plan(arm.train, *make_byte_tokenizer(), &base);
  auto config = nlohmann::json::parse(read_file(model_folder(base_folder()) + "/config.json", limits::config));
  config.erase("rope_parameters");
  config["rope_scaling"] = nlohmann::json::parse(rope_scaling_to_json(plan.model.rope));
  config["max_position_embeddings"] = plan.model.rope.max_position_embeddings;
  write_file_atomic(folder(arm.name) + "/config.json", config.dump(1) + "\n");
  std::map<std::string, std::string> description = plan.description;
  for (const char* key : {"lr", "schedule", "warmup", "weight_decay", "clip", "batch", "accumulate", "window"})
    description.erase(key);
  write_file_atomic(folder(arm.name) + "/recipe.toml", to_toml(description));
  mark_done(folder(arm.name), arm.settings);
}

/// The evaluation's text. One that needs none and names none gets none, whatever was evaluated before it.
const TokenCorpus& Comparison::text_of(const ComparisonEval& e, const Tokenizer& tok) {
  const std::vector<std::string>& paths = e.protocol->options.data;
  const std::string key = paths.empty() && !e.protocol->needs_data() ? "no text" : "text " + e.settings.at("data");
  if (const auto known = texts_.find(key); known != texts_.end()) return known->second;
  TokenCorpus corpus;
  if (!paths.empty()) corpus = load_tokens(paths, tok, work("tokenize"));
  else if (e.protocol->needs_data())
    corpus = tokenize_corpus(make_demo_corpus(recipe_.base.seed + 1000, 6, 12000), tok);
  return texts_.emplace(key, corpus).first->second;
}

/// Runs what is missing, or was measured in another way or of other weights.
void Comparison::evaluate(const std::string& name, const std::string& model, const std::string& rope) {
  const double start = now();
  std::unique_ptr<CausalLm> loaded;
  std::unique_ptr<Tokenizer> tok;
  std::string summary, weights;
  for (const ComparisonEval& e : recipe_.evals) {
    const std::string path = folder(name) + "/eval-" + e.name + ".json";
    const std::string settings = to_toml(e.settings);
    if (path_exists(path) &&
        eval_result_from_json(read_file(path, limits::evaluation), path).protocol.text("settings") == settings)
      continue;
    if (!loaded) {
      const LoadOptions options{.compute = o_.device.is_cuda() ? DType::bf16 : DType::f32,
                                .device = o_.device,
                                .adjust = [&](ModelConfig& c) {
                                  if (!rope.empty()) c = extend_untrained(c, {.rope_json = rope}, 0).config;
                                }};
      const bool adapter = path_exists(model + "/adapter_config.json");
      const std::string whole = model_folder(adapter ? base_folder() : model);
      loaded = adapter ? load_merged(whole, model, options) : load_hf(whole, options);
      tok = load_tokenizer(whole);
      weights = weights_checksum(whole).value_or("");
      if (adapter) weights += " adapter " + file_checksum(model + "/adapter_model.safetensors");
      tok->fit_model(loaded->config().vocab_size);
      write_frequencies(name, *loaded);
    }
    e.protocol->options.model = name;
    e.protocol->options.weights = weights;
    EvalSubject subject(*loaded, *tok, text_of(e, *tok), e.protocol->options);
    EvalResult result = e.protocol->run(subject, work(e.name));
    result.protocol.set("settings", settings);
    write_file_atomic(path, to_json(result));
    summary += (summary.empty() ? "" : "  ") + e.name;
  }
  if (!summary.empty()) say(name, cat("evaluated: ", summary, "  ", seconds_text(now() - start)));
}

/// theta'_i and A at the target window: learned ones cannot be read off config.json.
void Comparison::write_frequencies(const std::string& name, const CausalLm& model) const {
  const RopeConfig& rope = model.config().rope;
  const int64_t length = rope.extended_window();
  const RopeTable table = model.scaling().table({.length = length});
  const nlohmann::json json = {
      {"length", length}, {"attention_scale", table.attention_scale}, {"inv_freq", table.inv_freq.value().to_vector()}};
  write_file_atomic(folder(name) + "/frequencies.json", json.dump() + "\n");
}

void Comparison::drop_weights(const std::string& name) const {
  for (const std::string& file : names_in(folder(name))) {
    if (file.ends_with(".safetensors")) remove_tree(folder(name) + "/" + file);
  }
}

// --- tables and report ----------------------------------------------------------------------------------------------

/// Every arm of the recipe that has results, the base first.
std::vector<ArmRuns> Comparison::measured() const {
  std::vector<ArmRuns> out = {{"base", {folder("base")}}};
  for (const ComparisonArm& arm : recipe_.arms) {
    if (state(arm.name) != StageState::done) continue;
    const auto same = std::find_if(out.begin(), out.end(), [&](const ArmRuns& a) { return a.name == arm.family; });
    if (same == out.end()) out.push_back({arm.family, {folder(arm.name)}});
    else same->folders.push_back(folder(arm.name));
  }
  return out;
}

std::string Comparison::write_tables() {
  check(state("base") == StageState::done, kOp, "'", folder("base"),
        "' is not evaluated: there is nothing to compare with");
  const std::vector<ArmRuns> arms = measured();
  const std::vector<ArmMetric> metrics = arm_metrics(arms);
  write_file_atomic(o_.out + "/table.md", to_markdown(arms, metrics));
  write_file_atomic(o_.out + "/table.csv", to_csv(to_records(metrics)));
  write_file_atomic(o_.out + "/table.jsonl", to_jsonl(to_records(metrics)));
  std::vector<ReportRun> runs;
  for (const ArmRuns& arm : arms) runs.push_back(report_run(arm));
  runs[0].baseline = true;
  write_report(o_.out + "/report.html", runs,
               {.title = recipe_.title.empty() ? o_.name : recipe_.title, .subtitle = recipe_.subtitle});
  worked_ = false;
  return to_terminal(arms, metrics);
}

}  // namespace rw
