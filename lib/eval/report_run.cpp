// Reads run folders and evaluation files for a report. Anyone may have written them: numbers are taken only if they are
// finite and in range, and an error names the file.
#include <fcntl.h>
#include <sys/file.h>
#include <unistd.h>

#include <algorithm>
#include <charconv>
#include <cmath>
#include <filesystem>
#include <limits>
#include <nlohmann/json.hpp>
#include <optional>
#include <sstream>

#include "eval/protocol.h"
#include "eval/provenance.h"
#include "eval/report.h"
#include "rope/kinds.h"
#include "rope/samplers.h"
#include "rope/scaling.h"
#include "tensor/file.h"
#include "tensor/folder.h"
#include "tensor/json_depth.h"
#include "tensor/safetensors.h"

namespace rw {
namespace {

namespace fs = std::filesystem;
using Json = nlohmann::json;
constexpr const char* kOp = "report";
constexpr int64_t kMost = int64_t{1} << 40;  // tokens, steps
constexpr int64_t kMostFactor = 65536;
constexpr size_t kMostPairs = 65536, kMostSettings = 512;

/// Errors: it cannot be looked at.
bool is_there(const fs::path& path) { return path_exists(path.string()); }

Json parse_object(const std::string& text, const std::string& path) {
  check_json_depth(text, kOp, path);
  Json json = Json::parse(text, nullptr, /*allow_exceptions=*/false);
  check(json.is_object(), kOp, path, ": not a JSON object");
  return json;
}

/// A number in [0, most]; 0 where there is none. Errors: out of that range.
double number_of(const Json& json, const char* key, const std::string& path, double most = 1e18) {
  if (!json.contains(key) || !json[key].is_number()) return 0;
  const double value = json[key].get<double>();
  check(value >= 0 && value <= most, kOp, path, ": \"", key, "\" must be from 0 to ", most, ", got ", value);
  return value;
}

int64_t count_of(const Json& json, const char* key, const std::string& path) {
  return std::llround(number_of(json, key, path, 9e18));
}

std::string text_of(const Json& json, const char* key) {
  return json.contains(key) && json[key].is_string() ? json[key].get<std::string>().substr(0, 120) : "";
}

/// Each line of a file of steps as JSON. A last line without an end may be half written and is left out.
template <class Take>
void read_steps(const std::string& path, Take take) {
  std::istringstream in(read_file(path, limits::metrics));
  std::string line;
  for (int64_t number = 1; std::getline(in, line); ++number) {
    if (line.find_first_not_of(" \t\r") == std::string::npos) continue;
    const bool last = in.peek() == std::char_traits<char>::eof();
    check_json_depth(line, kOp, path);
    const Json json = Json::parse(line, nullptr, /*allow_exceptions=*/false);
    if (json.is_discarded() && last) break;
    const std::string name = cat(path, " line ", number);
    check(json.is_object() && json.contains("step") && json["step"].is_number() && json.contains("loss"), kOp, name,
          ": expected {\"step\": ..., \"loss\": ...}");
    take(json, std::llround(number_of(json, "step", name, static_cast<double>(kMost))), name);
  }
}

void read_metrics(const std::string& path, ReportRun& run) {
  double rate = 0;
  int64_t rates = 0, broken = -1;
  read_steps(path, [&](const Json& json, int64_t step, const std::string& name) {
    run.facts.steps_done = std::max(run.facts.steps_done, step + 1);
    if (!json["loss"].is_number() || !std::isfinite(json["loss"].get<double>())) {
      if (broken < 0) broken = step;
      return;
    }
    run.loss.push_back({step, json["loss"].get<double>()});
    run.cost.seconds = std::max(run.cost.seconds, number_of(json, "time_s", name));
    if (const double now = number_of(json, "tokens_per_s", name); now > 0) rate += now, ++rates;
    run.cost.peak_memory_bytes = std::max(run.cost.peak_memory_bytes, count_of(json, "peak_memory_bytes", name));
    run.cost.tokens = std::max(run.cost.tokens, count_of(json, "tokens", name));
  });
  if (broken >= 0) run.notices.push_back(cat("its training loss is not a number at step ", broken));
  if (rates > 0) run.cost.tokens_per_s = rate / static_cast<double>(rates);
}

void read_validation(const std::string& path, ReportRun& run) {
  read_steps(path, [&](const Json& json, int64_t step, const std::string& name) {
    std::string protocol;
    if (const int64_t tokens = count_of(json, "tokens", name)) protocol = cat(tokens, " tokens");
    if (const int64_t documents = count_of(json, "documents", name))
      protocol += cat(" of ", documents, documents == 1 ? " document" : " documents");
    if (const int64_t window = count_of(json, "window", name)) protocol += cat(", a window of ", window);
    const double none = std::numeric_limits<double>::quiet_NaN();
    run.validation.push_back({step, json["loss"].is_number() ? json["loss"].get<double>() : none, protocol});
  });
}

/// The flat recipe.toml that `ropewalk train` writes: key = "value" with \" and \\ escaped.
void read_recipe(const std::string& path, ReportRun& run) {
  std::istringstream in(read_file(path, limits::metrics));
  std::string line;
  for (int64_t number = 1; std::getline(in, line); ++number) {
    const size_t equals = line.find('=');
    const size_t first = line.find_first_not_of(" \t\r");
    if (first == std::string::npos || line[first] == '#' || line[first] == '[') continue;
    check(equals != std::string::npos, kOp, path, " line ", number, ": expected key = value");
    check(run.recipe.size() < kMostSettings, kOp, path, ": more than ", kMostSettings, " settings");
    const auto trim = [](std::string s) {
      s.erase(0, std::min(s.size(), s.find_first_not_of(" \t\r")));
      s.erase(s.find_last_not_of(" \t\r") + 1);
      return s;
    };
    std::string raw = trim(line.substr(equals + 1)), value;
    if (raw.size() >= 2 && raw.front() == '"' && raw.back() == '"') raw = raw.substr(1, raw.size() - 2);
    for (size_t i = 0; i < raw.size(); ++i) {
      if (raw[i] == '\\' && i + 1 < raw.size()) ++i;
      value += raw[i];
    }
    run.recipe.emplace_back(trim(line.substr(0, equals)), value);
  }
}

std::string value_of(const ReportRun& run, const std::string& key) {
  for (const auto& [name, value] : run.recipe) {
    if (name == key) return value;
  }
  return "";
}

/// A whole number of the recipe; 0 where there is none. Errors: above `most`.
int64_t integer_of(const ReportRun& run, const std::string& key, int64_t most = kMost) {
  const std::string text = value_of(run, key);
  if (text.empty() || text.find_first_not_of("0123456789") != std::string::npos) return 0;
  int64_t value = 0;
  const auto [end, error] = std::from_chars(text.data(), text.data() + text.size(), value);
  check(error == std::errc() && value <= most, kOp, "recipe.toml of '", run.name, "': ", key, " must be at most ", most,
        ", got ", text.substr(0, 40));
  return value;
}

/// "llama, 4 layers of 256, 4 heads", and the vocabulary.
void read_architecture(const Json& json, const fs::path& folder, const std::string& path, RunFacts& facts) {
  std::string text = text_of(json, "model_type");
  const auto add = [&](const char* key, const char* before, const char* after) {
    if (const int64_t n = count_of(json, key, path)) text += cat(text.empty() ? "" : before, n, after);
  };
  add("num_hidden_layers", ", ", " layers");
  add("hidden_size", " of ", "");
  add("num_attention_heads", ", ", " heads");
  if (json.contains("num_key_value_heads") && json["num_key_value_heads"] != json.value("num_attention_heads", Json()))
    add("num_key_value_heads", " (", " for keys)");
  facts.architecture = text;
  if (const int64_t vocabulary = count_of(json, "vocab_size", path)) {
    facts.tokenizer = cat(vocabulary, " tokens");
    if (is_there(folder / "tokenizer.json")) facts.tokenizer += ", tokenizer.json";
    else if (is_there(folder / "tokenizer.model")) facts.tokenizer += ", SentencePiece";
  }
}

/// The model's config: config.json, or what an adapter's folder keeps of it; empty if there is neither.
fs::path config_in(const fs::path& folder) {
  for (const char* name : {"config.json", "model_config.json"}) {
    if (is_there(folder / name)) return folder / name;
  }
  return {};
}

void read_config(const fs::path& folder, ReportRun& run) {
  const std::string path = config_in(folder).string(), text = read_file(path, limits::config);
  read_architecture(parse_object(text, path), folder, path, run.facts);
  const RopeConfig rope = rope_configs_from_json(text).full;
  check(rope.original_window() >= 1 && rope.original_window() <= kMost, kOp, path,
        ": the window of pre-training must be from 1 to ", kMost, " tokens, got ", rope.original_window());
  run.trained_window = rope.original_window();
  run.base_inv_freq = base_inv_freq(rope);
  if (rope.rope_type() == "clex") return;  // its frequencies depend on weights that are not read here
  const int64_t target = serving_window(rope);
  if (target > run.trained_window) run.target_window = target;
  const RopeTable table = make_rope_scaling(rope)->table({.length = target});
  run.inv_freq = table.inv_freq.value().to_vector();
  run.attention_scale = table.attention_scale;
}

/// frequencies.json, as `ropewalk compare` leaves it: the frequencies at the target window, learned ones too.
void read_frequencies(const std::string& path, ReportRun& run) {
  const Json json = parse_object(read_file(path, limits::evaluation), path);
  check(json.contains("inv_freq") && json["inv_freq"].is_array() && json["inv_freq"].size() <= kMostPairs, kOp, path,
        ": expected {\"inv_freq\": [...]} with at most ", kMostPairs, " numbers");
  run.inv_freq.clear();
  for (const Json& value : json["inv_freq"]) {
    // 0: a pair that does not turn (NoPE, DroPE, a share of the head).
    check(value.is_number() && std::isfinite(value.get<double>()) && value.get<double>() >= 0, kOp, path,
          ": \"inv_freq\" must hold positive numbers or 0, got ", value.dump(-1, ' ', true).substr(0, 40));
    run.inv_freq.push_back(value.get<double>());
  }
  if (json.contains("attention_scale")) run.attention_scale = number_of(json, "attention_scale", path);
}

/// CLEX without a frequencies.json: its two matrices are in the weights.
void solve_clex(const fs::path& folder, ReportRun& run) {
  const RopeConfig rope = rope_configs_from_json(read_file(config_in(folder).string(), limits::config)).full;
  if (rope.rope_type() != "clex" || !is_there(folder / "model.safetensors")) return;
  if (const ClexRope* clex = rope.kind.get<ClexRope>(); clex && clex->max_factor > kMostFactor) return;
  const SafetensorsFile file((folder / "model.safetensors").string());
  const auto scaling = make_rope_scaling(rope);
  std::vector<Var> parameters;
  for (const ParameterSpec& spec : scaling->parameter_specs()) {
    if (!file.contains(spec.name)) return;
    parameters.emplace_back(file.load(spec.name));
  }
  scaling->set_parameters(parameters);
  run.target_window = rope.extended_window();
  run.inv_freq = scaling->table({.length = run.target_window}).inv_freq.value().to_vector();
}

/// cost.json, as `ropewalk train` leaves it.
void read_cost(const std::string& path, ReportRun& run) {
  const Json json = parse_object(read_file(path, limits::evaluation), path);
  run.cost.seconds = std::max(run.cost.seconds, number_of(json, "seconds", path));
  run.cost.tokens = std::max(run.cost.tokens, count_of(json, "tokens", path));
  run.cost.peak_memory_bytes = count_of(json, "peak_memory_bytes", path);
  run.facts.parameters = count_of(json, "parameters", path);
  run.facts.device = text_of(json, "device");
  run.facts.date = text_of(json, "date");
  run.facts.version = text_of(json, "version");
}

/// Parameters as the weights' header lists them; a file that cannot be read has its error elsewhere.
int64_t count_parameters(const fs::path& folder) {
  double sum = 0;
  try {
    const SafetensorsFile file((folder / "model.safetensors").string());
    for (const auto& [name, entry] : file.entries()) {
      double size = 1;
      for (const int64_t n : entry.shape) size *= static_cast<double>(n);
      sum += size;
    }
  } catch (const Error&) {
    return 0;
  }
  return sum < 1e15 ? std::llround(sum) : 0;
}

/// What the recipe says better than config.json.
void use_recipe(ReportRun& run) {
  if (run.recipe.empty()) return;
  if (const int64_t original = integer_of(run, "original_window")) run.trained_window = original;
  if (const int64_t target = integer_of(run, "target")) run.target_window = target;
  run.facts.steps_planned = integer_of(run, "steps");
  const std::string method = value_of(run, "method"), scaling = value_of(run, "rope_scaling"),
                    kind = value_of(run, "scaling");
  run.baseline = (method.empty() || method == "none" || method == "plain") && (scaling.empty() || scaling == "null") &&
                 (kind.empty() || kind == "default");
}

/// Tokens of a run that has no cost.json yet, by its recipe and its steps.
void estimate_tokens(ReportRun& run) {
  if (run.cost.tokens > 0 || run.loss.empty()) return;
  const std::string method = value_of(run, "method");
  int64_t window = integer_of(run, "window");
  if (window == 0) window = method == "pi" || method == "full" ? run.target_window : run.trained_window;
  const double per_step = static_cast<double>(window) * static_cast<double>(integer_of(run, "batch")) *
                          static_cast<double>(std::max<int64_t>(1, integer_of(run, "accumulate")));
  const double tokens = per_step * static_cast<double>(run.loss.back().step + 1);
  if (tokens < 1e18) run.cost.tokens = std::llround(tokens);
}

/// Three samples' positions, drawn as the run's training drew those of its first step.
void draw_positions(ReportRun& run) {
  const std::string method = value_of(run, "method");
  const std::vector<PositionConfig>& known = position_samplers();
  const auto sampler = std::find_if(known.begin(), known.end(), [&](const auto& s) { return s.name() == method; });
  if (sampler == known.end()) return;
  int64_t window = integer_of(run, "window");
  if (window == 0) window = run.trained_window;
  if (window < 2 || window > 8192) return;
  PositionConfig config = *sampler;
  for (const Field& f : config.fields()) {
    if (const std::string value = value_of(run, f.key()); !value.empty()) config.set(f.key(), value);
  }
  if (auto* pose = config.get<PosePositions>()) pose->content = PoseContent::zero;  // there is no document here
  const PositionBatch batch =
      make_position_sampler(config)->sample({.seed = static_cast<uint64_t>(integer_of(run, "seed", INT64_MAX)),
                                             .sample_ids = {0, 1, 2},
                                             .window = window,
                                             .target = std::max(run.target_window, window),
                                             .original_window = run.trained_window});
  for (int64_t b = 0; b < 3; ++b) {
    const float* p = batch.positions.data<float>() + b * window;
    run.positions.emplace_back(p, p + window);
  }
}

/// True if another process holds the folder's lock: it is training there.
bool is_locked(const fs::path& folder) {
  const int file = ::open((folder / ".lock").c_str(), O_RDONLY | O_CLOEXEC | O_NONBLOCK);
  if (file < 0) return false;
  const bool locked = ::flock(file, LOCK_SH | LOCK_NB) != 0;
  ::close(file);
  return locked;
}

/// Where the model is: the folder, or the newest checkpoint in it.
fs::path model_in(const fs::path& folder) {
  if (!config_in(folder).empty()) return folder;
  std::error_code error;
  fs::path newest;
  for (fs::directory_iterator it(folder, error), end; !error && it != end; it.increment(error)) {
    const bool whole = it->path().filename().string().starts_with("checkpoint-") && !config_in(it->path()).empty();
    if (whole && it->path() > newest) newest = it->path();
  }
  return newest;
}

/// What a run without a model was to become.
void read_identity(const Json& identity, const std::string& path, ReportRun& run) {
  const auto window = [&](const char* key) {
    const std::string text = text_of(identity, key);
    if (text.empty() || text.size() > 18 || text.find_first_not_of("0123456789") != std::string::npos)
      return int64_t{0};
    const int64_t value = std::stoll(text);
    check(value <= kMost, kOp, path, ": \"", key, "\" must be at most ", kMost, ", got ", value);
    return value;
  };
  if (const int64_t original = window("original_window")) run.trained_window = original;
  if (const int64_t target = window("target"); target > run.trained_window) run.target_window = target;
}

/// run.json, as `ropewalk train` leaves it: facts of the run, and the model's files once it is finished.
void read_mark(const fs::path& folder, ReportRun& run) {
  RunFacts& f = run.facts;
  const std::string path = (folder / "run.json").string();
  if (is_locked(folder)) f.state = RunState::training;
  if (!is_there(path)) {
    if (f.state == RunState::training || f.steps_done == 0) return;
    const bool model = !config_in(folder).empty() || is_there(folder / "cost.json");
    f.state = model ? RunState::finished : RunState::stopped;
    return;
  }
  const Json json = parse_object(read_file(path, limits::evaluation), path);
  if (f.state != RunState::training)
    f.state = json.contains("model") && !json["model"].empty() ? RunState::finished : RunState::stopped;
  if (!json.contains("facts") || !json["facts"].is_object()) {
    if (json.contains("identity") && json["identity"].is_object()) read_identity(json["identity"], path, run);
    return;
  }
  const Json& facts = json["facts"];
  if (const int64_t n = count_of(facts, "parameters", path)) f.parameters = n;
  const double most = static_cast<double>(kMost);
  if (const double n = number_of(facts, "original_window", path, most); n > 0) run.trained_window = std::llround(n);
  if (const double n = number_of(facts, "target", path, most); n > 0) run.target_window = std::llround(n);
  if (f.device.empty()) f.device = text_of(facts, "device");
  if (f.date.empty()) f.date = text_of(facts, "date");
  if (f.version.empty()) f.version = text_of(facts, "version");
}

/// Evaluations in the folder, by name. One that was measured on other weights than the folder has now is left out.
int64_t read_evaluations(const fs::path& folder, const fs::path& model, ReportRun& run) {
  std::vector<fs::path> files;
  std::error_code error;
  for (fs::directory_iterator it(folder, error), end; !error && it != end; it.increment(error)) {
    const std::string name = it->path().filename().string();
    if (name.starts_with("eval-") && name.ends_with(".json")) files.push_back(it->path());
  }
  check(!error, kOp, "cannot read the folder '", folder.string(), "': ", error.message());
  std::sort(files.begin(), files.end());
  std::optional<std::string> weights;
  for (const fs::path& file : files) {
    const EvalResult result = eval_result_from_json(read_file(file.string(), limits::evaluation), file.string());
    const std::string measured = result.protocol.text("weights");
    if (!measured.empty() && !weights && !model.empty()) weights = weights_checksum(model.string()).value_or("");
    if (!measured.empty() && !weights.value_or("").empty() && measured != *weights) {
      run.notices.push_back(
          cat(file.filename().string(), " was measured on other weights than the folder has now and is not shown"));
      continue;
    }
    add_eval_result(run, result, file.string());
  }
  return static_cast<int64_t>(files.size());
}

std::string name_of(const std::string& folder) {
  fs::path path = fs::path(folder).lexically_normal();
  if (path.filename().empty()) path = path.parent_path();
  return path.filename().empty() ? folder : path.filename().string();
}

bool same_folder(const std::string& a, const std::string& b) {
  std::error_code error;
  return !a.empty() && !b.empty() && fs::equivalent(a, b, error) && !error;
}

/// An evaluation that stands anywhere, and the run it belongs to.
void place_evaluation(const std::string& path, const std::vector<std::string>& folders, std::vector<ReportRun>& runs) {
  const EvalResult result = eval_result_from_json(read_file(path, limits::evaluation), path);
  const std::string model = result.protocol.text("model"), weights = result.protocol.text("weights");
  for (size_t i = 0; i < folders.size(); ++i) {
    if (folders[i].empty()) continue;
    const fs::path own = model_in(folders[i]);
    const auto now = weights.empty() || own.empty() ? std::nullopt : weights_checksum(own.string());
    const bool same_weights = now && *now == weights;
    if (!same_weights && !same_folder(model, folders[i])) continue;
    if (now && !same_weights) {
      runs[i].notices.push_back(
          cat("'", path, "' was measured on other weights than the folder has now and is not shown"));
    } else {
      add_eval_result(runs[i], result, path);
    }
    return;
  }
  ReportRun own;
  own.name = model.empty() ? fs::path(path).stem().string() : name_of(model);
  const auto same = std::find_if(runs.begin(), runs.end(), [&](const ReportRun& r) { return r.name == own.name; });
  const size_t at = static_cast<size_t>(same - runs.begin());
  if (same != runs.end() && folders[at].empty()) {
    add_eval_result(*same, result, path);
    return;
  }
  add_eval_result(own, result, path);
  runs.push_back(std::move(own));
}

}  // namespace

std::vector<size_t> position_corners(const std::vector<double>& p) {
  std::vector<size_t> out;
  for (size_t m = 0; m < p.size(); ++m) {
    const bool inner = m > 0 && m + 1 < p.size();
    if (!inner || std::abs((p[m + 1] - p[m]) - (p[m] - p[m - 1])) > 1e-3) out.push_back(m);
  }
  return out;
}

ReportRun load_run(const std::string& folder) {
  std::error_code error;
  check(fs::is_directory(folder, error), kOp, "'", folder, "' is not a folder",
        error && error != std::errc::no_such_file_or_directory ? ": " + error.message() : "");
  const fs::path path(folder), model = model_in(path);
  ReportRun run;
  run.name = name_of(folder);
  if (is_there(path / "metrics.jsonl")) read_metrics((path / "metrics.jsonl").string(), run);
  if (is_there(path / "validation.jsonl")) read_validation((path / "validation.jsonl").string(), run);
  if (!model.empty()) read_config(model, run);
  if (is_there(path / "recipe.toml")) read_recipe((path / "recipe.toml").string(), run);
  use_recipe(run);
  if (is_there(path / "cost.json")) read_cost((path / "cost.json").string(), run);
  read_mark(path, run);
  estimate_tokens(run);
  if (run.facts.parameters == 0 && !model.empty() && is_there(model / "model.safetensors"))
    run.facts.parameters = count_parameters(model);
  if (is_there(path / "frequencies.json")) read_frequencies((path / "frequencies.json").string(), run);
  else if (!model.empty()) solve_clex(model, run);
  draw_positions(run);
  const int64_t evaluations = read_evaluations(path, model, run);
  check(!run.loss.empty() || evaluations > 0 || !run.inv_freq.empty() || !run.notices.empty(), kOp, "'", folder,
        "' holds nothing to report: no metrics.jsonl, no config.json, no eval-*.json");
  return run;
}

std::vector<ReportRun> load_runs(const std::vector<std::string>& paths) {
  std::vector<std::string> folders, files;
  std::vector<ReportRun> runs;
  for (const std::string& path : paths) {
    if (is_file(path)) {
      files.push_back(path);
      continue;
    }
    runs.push_back(load_run(path));
    folders.push_back(path);
  }
  for (const std::string& file : files) {
    place_evaluation(file, folders, runs);
    folders.resize(runs.size());
  }
  return runs;
}

}  // namespace rw
