// `ropewalk compare RECIPE`: trains a base model, extends it by every arm of the recipe, evaluates all of them alike
// and writes one table and one report. Every finished stage leaves a file, so that the same command goes on where it
// was stopped: OUT/<arm>/stage.toml stands when the arm is trained, OUT/<arm>/eval-<name>.json when that evaluation is
// done. Several processes with the same OUT, one per GPU, share the arms among them.
#include <fcntl.h>
#include <sys/file.h>
#include <unistd.h>

#include <cerrno>
#include <csignal>
#include <cstdio>
#include <cstring>
#include <filesystem>
#include <nlohmann/json.hpp>
#include <sstream>

#include "common.h"
#include "compare_recipe.h"
#include "compare_table.h"
#include "data/bpe_train.h"
#include "data/demo_corpus.h"
#include "data/text.h"
#include "eval/provenance.h"
#include "nn/io/hf.h"
#include "tensor/allocator.h"
#include "tensor/file.h"
#include "train/recipe.h"
#include "verbs.h"

using namespace rw;
namespace fs = std::filesystem;

namespace {

constexpr const char* kOp = "compare";

struct Options {
  std::string recipe, out;
  std::vector<std::string> only;
  bool list = false, tables = false, drop_weights = false;
  CompareOverrides overrides;
};

Settings read_settings(const std::string& path) {
  Settings out;
  std::istringstream in(read_file(path));
  for (std::string line; std::getline(in, line);) {
    const size_t equals = line.find(" = \"");
    if (equals == std::string::npos || line.size() < equals + 5) continue;
    std::string value;
    for (size_t i = equals + 4; i + 1 < line.size(); ++i) {
      if (line[i] == '\\') ++i;
      value += line[i];
    }
    out[line.substr(0, equals)] = value;
  }
  return out;
}

/// True if the marker stands. Errors: it was left by other settings.
bool is_done(const std::string& folder, const Settings& settings) {
  const std::string marker = folder + "/stage.toml";
  if (!fs::exists(marker)) return false;
  const Settings then = read_settings(marker);
  check(then == settings, kOp, "'", folder, "' was made with other settings: ", difference(then, settings),
        "; remove it or choose another --out");
  return true;
}

void mark_done(const std::string& folder, const Settings& settings) {
  write_file_atomic(folder + "/stage.toml", to_toml(settings));
}

/// True if `name` fits a pattern in which * stands for anything.
bool fits(const std::string& pattern, const std::string& name) {
  if (pattern.empty()) return name.empty();
  if (pattern[0] == '*') return fits(pattern.substr(1), name) || (!name.empty() && fits(pattern, name.substr(1)));
  return !name.empty() && name[0] == pattern[0] && fits(pattern.substr(1), name.substr(1));
}

/// A folder in which one process works at a time. The system forgets the lock when the process ends, however it ends.
class FolderLock {
 public:
  /// `wait`: until the other process is through; otherwise held() says whether there is none.
  FolderLock(const std::string& folder, bool wait) {
    make_folder(kOp, folder);
    const std::string path = folder + "/.lock";
    file_ = ::open(path.c_str(), O_RDWR | O_CREAT | O_CLOEXEC, 0644);
    check(file_ >= 0, kOp, "cannot write '", path, "'");
    held_ = ::flock(file_, LOCK_EX | (wait ? 0 : LOCK_NB)) == 0;
    check(held_ || (!wait && errno == EWOULDBLOCK), kOp, "cannot lock '", path, "': ", std::strerror(errno));
  }
  ~FolderLock() { ::close(file_); }
  FolderLock(const FolderLock&) = delete;
  FolderLock& operator=(const FolderLock&) = delete;
  bool held() const { return held_; }

 private:
  int file_ = -1;
  bool held_ = false;
};

extern "C" void on_interrupt(int) {
  constexpr char text[] = "\nropewalk: interrupted; the same command goes on from here\n";
  static_cast<void>(!::write(STDERR_FILENO, text, sizeof text - 1));
  ::_exit(130);
}

class Comparison {
 public:
  Comparison(const Options& o, const Globals& globals)
      : o_(o), globals_(globals), recipe_(read_compare_recipe(o.recipe, o.overrides)), out_(o.out) {
    if (out_.empty()) out_ = "out/" + fs::path(o.recipe).stem().string();
    for (const std::string& pattern : o.only) {
      bool any = false;
      for (const CompareArm& arm : recipe_.arms) any = any || fits(pattern, arm.name) || fits(pattern, arm.family);
      check(any, kOp, "--only ", pattern, ": no arm of '", o.recipe, "' has that name; --list shows them");
    }
  }

  void list() const {
    std::vector<Record> rows;
    rows.push_back({{"arm", std::string("base")},
                    {"state", state("base")},
                    {"method", std::string(recipe_.model.empty() ? "plain" : "given")},
                    {"target", recipe_.base.window},
                    {"steps", recipe_.model.empty() ? recipe_.base.steps : 0}});
    for (const CompareArm& arm : recipe_.arms) {
      if (!wanted(arm)) continue;
      rows.push_back({{"arm", arm.name},
                      {"state", state(arm.name)},
                      {"method", arm.train.method + (arm.train.scaling.empty() ? "" : " " + arm.train.scaling)},
                      {"target", arm.train.target},
                      {"steps", arm.train.steps}});
    }
    std::fputs(to_text_table(rows).c_str(), stdout);
  }

  void run() {
    const double start = now();
    std::signal(SIGINT, on_interrupt);
    use(globals_);
    make_folder(kOp, out_);
    std::vector<const CompareArm*> arms;
    for (const CompareArm& arm : recipe_.arms) {
      if (wanted(arm)) arms.push_back(&arm);
    }
    stages_ = arms.size() + 1;
    prepare_base();
    for (const CompareArm* arm : arms) {
      ++stage_;
      const FolderLock lock(folder(arm->name), false);
      if (!lock.held()) {
        say(arm->name, "another process is at it");
        continue;
      }
      if (arm->zero_shot) prepare_zero_shot(*arm);
      else train(arm->name, arm->train, arm->settings);
      evaluate(arm->name, arm->zero_shot ? base_folder() : folder(arm->name), arm->zero_shot ? rope_of(*arm) : "");
      if (worked_) write_tables();
      if (o_.drop_weights && !arm->zero_shot) drop_weights(arm->name);
    }
    write_tables();
    std::printf("\n%s\ntable %s/table.md  report %s/report.html  time %s\n", table_.c_str(), out_.c_str(), out_.c_str(),
                duration(now() - start).c_str());
  }

  /// Tables and report of what is done so far.
  void tables() {
    check(state("base") == "done", kOp, "'", folder("base"), "' is not evaluated: there is nothing to compare with");
    write_tables();
    std::printf("%s\ntable %s/table.md  report %s/report.html\n", table_.c_str(), out_.c_str(), out_.c_str());
  }

 private:
  std::string folder(const std::string& name) const { return out_ + "/" + name; }
  std::string base_folder() const { return recipe_.model.empty() ? folder("base") : recipe_.model; }
  bool wanted(const CompareArm& arm) const {
    if (o_.only.empty()) return true;
    for (const std::string& pattern : o_.only) {
      if (fits(pattern, arm.name) || fits(pattern, arm.family)) return true;
    }
    return false;
  }

  /// What a stage's folder says: waiting, under way, trained, done.
  std::string state(const std::string& name) const {
    if (!fs::exists(folder(name))) return "waiting";
    if (!fs::exists(folder(name) + "/stage.toml")) return "under way";
    for (const CompareEval& e : recipe_.evals) {
      if (!fs::exists(folder(name) + "/eval-" + e.name + ".json")) return "trained";
    }
    return "done";
  }

  /// One line per stage on standard output.
  void say(const std::string& name, const std::string& what) {
    std::printf("[%zu/%zu] %-24s %s\n", stage_, stages_, name.c_str(), what.c_str());
    std::fflush(stdout);
    worked_ = true;
  }

  // --- the base -----------------------------------------------------------------------------------------------------

  const std::vector<Document>& documents() {
    if (documents_.empty())
      documents_ =
          recipe_.base.data.empty() ? make_demo_corpus(recipe_.base.seed, 200, 12000) : load_corpus(recipe_.base.data);
    return documents_;
  }

  void prepare_tokenizer() {
    if (recipe_.vocab == 0) return;
    const std::string to = folder("tokenizer");
    const Settings settings = {{"vocab", cat(recipe_.vocab)}, {"data", recipe_.base_settings.at("data")}};
    if (is_done(to, settings)) return;
    const double start = now();
    ProgressBar bar("merges", recipe_.vocab, globals_);
    const auto tokenizer = train_bpe(documents(), recipe_.vocab, {}, [&](int64_t done, int64_t) { bar.update(done); });
    bar.finish();
    make_folder(kOp, to);
    tokenizer->save(to);
    mark_done(to, settings);
    say("tokenizer", cat("vocabulary ", tokenizer->vocab_size(), "  ", duration(now() - start)));
  }

  std::unique_ptr<Tokenizer> tokenizer() const {
    if (!recipe_.model.empty()) return load_tokenizer(model_folder(recipe_.model));
    if (recipe_.vocab > 0) return load_tokenizer(folder("tokenizer"));
    return recipe_.tokenizer.empty() ? make_byte_tokenizer() : load_tokenizer(recipe_.tokenizer);
  }

  /// The training text in tokens, made once for all arms unless the recipe's data are tokens already.
  std::string text_file() const {
    const std::vector<std::string>& data = recipe_.base.data;
    return data.size() == 1 && is_token_file(data[0]) ? data[0] : folder("text") + "/train.tokens";
  }

  void prepare_text() {
    const std::string to = folder("text");
    if (text_file() != to + "/train.tokens" || is_done(to, recipe_.base_settings)) return;
    const double start = now();
    make_folder(kOp, to);
    const auto tok = tokenizer();
    int64_t bytes = 0;
    for (const Document& d : documents()) bytes += static_cast<int64_t>(d.text.size());
    ProgressBar bar("tokenize", bytes, globals_);
    const TokenCorpus corpus = tokenize_corpus(documents(), *tok, [&](int64_t done, int64_t) { bar.update(done); });
    bar.finish();
    write_token_file(to + "/train.tokens", corpus);
    mark_done(to, recipe_.base_settings);
    say("text", cat(with_commas(corpus.total_tokens()), " tokens in ", with_commas(corpus.documents()), " documents  ",
                    duration(now() - start)));
  }

  bool trains() const {
    bool any = recipe_.model.empty();
    for (const CompareArm& arm : recipe_.arms) any = any || (wanted(arm) && !arm.zero_shot);
    return any;
  }

  void prepare_base() {
    ++stage_;
    const FolderLock lock(folder("base"), true);
    prepare_tokenizer();
    if (trains()) prepare_text();
    documents_.clear();
    if (recipe_.model.empty()) {
      TrainConfig config = recipe_.base;
      if (recipe_.vocab > 0) config.tokenizer = folder("tokenizer");
      else config.tokenizer = recipe_.tokenizer;
      train("base", config, recipe_.base_settings);
    } else if (!is_done(folder("base"), recipe_.base_settings)) {
      make_folder(kOp, folder("base"));
      write_file_atomic(folder("base") + "/config.json", read_file(model_folder(recipe_.model) + "/config.json"));
      mark_done(folder("base"), recipe_.base_settings);
    }
    evaluate("base", base_folder(), "");
  }

  // --- one stage ----------------------------------------------------------------------------------------------------

  void train(const std::string& name, TrainConfig config, const Settings& settings) {
    if (is_done(folder(name), settings)) return;
    config.data = {text_file()};
    config.out = folder(name);
    if (!config.from.empty()) config.from = base_folder();
    config.resume = true;
    const TrainResult result = run_training_and_record(config, globals_);
    for (const auto& entry : fs::directory_iterator(folder(name))) {
      if (entry.path().filename().string().starts_with("checkpoint-")) fs::remove_all(entry.path());
    }
    mark_done(folder(name), settings);
    char text[120];
    std::snprintf(
        text, sizeof text, "%5zu steps  loss %.4f  %s tok/s  %s", result.losses.size(),
        result.losses.empty() ? 0.0 : result.losses.back(),
        with_commas(std::llround(static_cast<double>(result.tokens) / std::max(result.seconds, 1e-9))).c_str(),
        duration(result.seconds).c_str());
    say(name, text);
  }

  Recipe recipe_of(const CompareArm& arm) const {
    const ModelConfig base = read_hf_config(model_folder(base_folder()));
    return make_recipe(arm.train, *make_byte_tokenizer(), &base);
  }
  std::string rope_of(const CompareArm& arm) const { return rope_scaling_to_json(recipe_of(arm).model.rope); }

  /// The base's config under the arm's frequencies, for the report.
  void prepare_zero_shot(const CompareArm& arm) {
    if (is_done(folder(arm.name), arm.settings)) return;
    const Recipe recipe = recipe_of(arm);
    make_folder(kOp, folder(arm.name));
    auto config = nlohmann::json::parse(read_file(model_folder(base_folder()) + "/config.json"));
    config.erase("rope_parameters");
    config["rope_scaling"] = nlohmann::json::parse(rope_scaling_to_json(recipe.model.rope));
    config["max_position_embeddings"] = recipe.model.rope.max_position_embeddings;
    write_file_atomic(folder(arm.name) + "/config.json", config.dump(1) + "\n");
    std::map<std::string, std::string> description = recipe.description;
    for (const char* key : {"lr", "schedule", "warmup", "weight_decay", "clip", "batch", "accumulate", "window"})
      description.erase(key);
    write_file_atomic(folder(arm.name) + "/recipe.toml", to_toml(description));
    mark_done(folder(arm.name), arm.settings);
  }

  /// The evaluation's text. One that needs none and names none gets none, whatever was evaluated before it.
  const TokenCorpus& text_of(const CompareEval& e, const Tokenizer& tok) {
    const std::vector<std::string>& paths = e.protocol->options.data;
    const std::string key = paths.empty() && !e.protocol->needs_data() ? "no text" : "text " + e.settings.at("data");
    if (const auto known = texts_.find(key); known != texts_.end()) return known->second;
    TokenCorpus corpus;
    if (!paths.empty()) corpus = load_text(paths, tok, globals_);
    else if (e.protocol->needs_data())
      corpus = tokenize_corpus(make_demo_corpus(recipe_.base.seed + 1000, 6, 12000), tok);
    return texts_.emplace(key, corpus).first->second;
  }

  /// Runs what is missing, or was measured in another way.
  void evaluate(const std::string& name, const std::string& model, const std::string& rope) {
    const double start = now();
    std::unique_ptr<LoadedModel> loaded;
    std::string summary, weights;
    for (const CompareEval& e : recipe_.evals) {
      const std::string path = folder(name) + "/eval-" + e.name + ".json";
      const std::string settings = to_toml(e.settings);
      if (fs::exists(path) && eval_result_from_json(read_file(path), path).protocol.text("settings") == settings)
        continue;
      if (!loaded) {
        loaded = std::make_unique<LoadedModel>(load_model_and_tokenizer(model, globals_, rope));
        weights = weights_checksum(model_folder(model)).value_or("");
        write_frequencies(name, *loaded->model);
      }
      e.protocol->options.model = name;
      e.protocol->options.weights = weights;
      EvalSubject subject(*loaded->model, *loaded->tokenizer, text_of(e, *loaded->tokenizer), e.protocol->options);
      EvalResult result = e.protocol->run(subject, progress_bar(e.name, globals_));
      result.protocol.set("settings", settings);
      write_file_atomic(path, to_json(result));
      summary += (summary.empty() ? "" : "  ") + e.name;
    }
    if (!summary.empty()) say(name, cat("evaluated: ", summary, "  ", duration(now() - start)));
  }

  /// theta'_i and A at the target window: learned ones cannot be read off config.json.
  void write_frequencies(const std::string& name, const CausalLm& model) const {
    const RopeConfig& rope = model.config().rope;
    const int64_t length = rope.extended_window();
    const RopeTable table = model.scaling().table({.length = length});
    const nlohmann::json json = {{"length", length},
                                 {"attention_scale", table.attention_scale},
                                 {"inv_freq", table.inv_freq.value().to_vector()}};
    write_file_atomic(folder(name) + "/frequencies.json", json.dump() + "\n");
  }

  void drop_weights(const std::string& name) const {
    for (const auto& entry : fs::directory_iterator(folder(name))) {
      if (entry.path().extension() == ".safetensors") fs::remove(entry.path());
    }
  }

  // --- tables and report --------------------------------------------------------------------------------------------

  /// Every arm of the recipe that has results, the base first.
  std::vector<ArmRuns> measured() const {
    std::vector<ArmRuns> out = {{"base", {folder("base")}}};
    for (const CompareArm& arm : recipe_.arms) {
      if (state(arm.name) != "done") continue;
      const auto same = std::find_if(out.begin(), out.end(), [&](const ArmRuns& a) { return a.name == arm.family; });
      if (same == out.end()) out.push_back({arm.family, {folder(arm.name)}});
      else same->folders.push_back(folder(arm.name));
    }
    return out;
  }

  void write_tables() {
    const std::vector<ArmRuns> arms = measured();
    const std::vector<ArmMetric> metrics = arm_metrics(arms);
    table_ = to_terminal(arms, metrics);
    write_file_atomic(out_ + "/table.md", to_markdown(arms, metrics));
    write_file_atomic(out_ + "/table.csv", to_csv(to_records(metrics)));
    write_file_atomic(out_ + "/table.jsonl", to_jsonl(to_records(metrics)));
    std::vector<ReportRun> runs;
    for (const ArmRuns& arm : arms) runs.push_back(report_run(arm));
    runs[0].baseline = true;
    write_report(out_ + "/report.html", runs,
                 {.title = recipe_.title.empty() ? fs::path(o_.recipe).stem().string() : recipe_.title,
                  .subtitle = recipe_.subtitle});
    worked_ = false;
  }

  const Options& o_;
  const Globals& globals_;
  CompareRecipe recipe_;
  std::string out_, table_;
  std::vector<Document> documents_;
  std::map<std::string, TokenCorpus> texts_;
  size_t stage_ = 0, stages_ = 0;
  bool worked_ = false;
};

}  // namespace

void add_compare(CLI::App& app, Globals& globals) {
  auto options = std::make_shared<Options>();
  auto& o = *options;
  CLI::App* sub = app.add_subcommand("compare", "Train and evaluate several methods from one base, by a recipe");
  sub->footer(
      "RECIPE is a TOML file: [base] [mix] [eval] [eval.NAME] [arm] [arms.NAME], see recipes/ and docs/comparing.md.\n"
      "The same command goes on where it was stopped, and does nothing where all is done.\n\n"
      "  ropewalk compare recipes/tiny.toml\n"
      "  ropewalk compare recipes/pilot.toml --root ~/books --only 'pose*' --out out/pilot");
  sub->add_option("recipe", o.recipe, "TOML file")->required();
  sub->add_option("--out", o.out, "folder for models, tables and report (default: out/ and the recipe's name)");
  sub->add_option("--only", o.only, "only these arms, by name or pattern ('pose*'); the base is always there")
      ->delimiter(',');
  sub->add_flag("--list", o.list, "show the arms and how far each is, and do nothing");
  sub->add_flag("--tables", o.tables, "write tables and report of what is done so far, and do nothing else");
  sub->add_option("--root", o.overrides.root, "folder that the recipe's relative paths start from (default: this one)");
  sub->add_option("--data", o.overrides.data, "training text instead of the recipe's");
  sub->add_option("--eval-data", o.overrides.eval_data, "evaluation text instead of the recipe's");
  sub->add_option("--base", o.overrides.model,
                  "a model, or another comparison's folder, to take as the base instead of training one");
  sub->add_option("--max-seeds", o.overrides.max_seeds, "only the first N seeds of each arm (0: all)")
      ->check(CLI::NonNegativeNumber);
  sub->add_flag("--drop-weights", o.drop_weights, "remove an arm's weights once it is evaluated");
  sub->callback([options, &globals] {
    Comparison comparison(*options, globals);
    if (options->list) comparison.list();
    else if (options->tables) comparison.tables();
    else comparison.run();
  });
}
