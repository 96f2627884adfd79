// Run folders and evaluation files to ReportRun, and back to plain records.
#include <algorithm>
#include <cmath>
#include <filesystem>
#include <fstream>
#include <limits>
#include <nlohmann/json.hpp>
#include <sstream>

#include "eval/report.h"
#include "rope/samplers.h"
#include "rope/scaling.h"
#include "tensor/file.h"
#include "tensor/json_depth.h"
#include "tensor/safetensors.h"

namespace rw {
namespace {

namespace fs = std::filesystem;
constexpr const char* kOp = "report";

void read_metrics(const std::string& path, ReportRun& run) {
  std::istringstream in(read_file(path));
  std::string line;
  double rate = 0;
  int64_t rates = 0;
  for (int64_t number = 1; std::getline(in, line); ++number) {
    if (line.find_first_not_of(" \t\r") == std::string::npos) continue;
    check_json_depth(line, kOp, path);
    const auto json = nlohmann::json::parse(line, nullptr, /*allow_exceptions=*/false);
    // A run that was killed may have left half a line at the end.
    if (json.is_discarded() && in.peek() == std::char_traits<char>::eof()) break;
    check(json.is_object() && json.contains("step") && json["step"].is_number() && json.contains("loss"), kOp, path,
          " line ", number, ": expected {\"step\": ..., \"loss\": ...}");
    if (!json["loss"].is_number()) continue;
    run.loss.push_back({json["step"].get<int64_t>(), json["loss"].get<double>()});
    const auto number_of = [&](const char* key) {
      return json.contains(key) && json[key].is_number() ? json[key].get<double>() : 0.0;
    };
    run.cost.seconds = std::max(run.cost.seconds, number_of("time_s"));
    if (number_of("tokens_per_s") > 0) {
      rate += number_of("tokens_per_s");
      ++rates;
    }
    run.cost.peak_memory_bytes =
        std::max(run.cost.peak_memory_bytes, static_cast<int64_t>(number_of("peak_memory_bytes")));
    run.cost.tokens = std::max(run.cost.tokens, static_cast<int64_t>(number_of("tokens")));
  }
  if (rates > 0) run.cost.tokens_per_s = rate / static_cast<double>(rates);
}

/// The flat recipe.toml that `ropewalk train` writes: key = "value" with \" and \\ escaped.
void read_recipe(const std::string& path, ReportRun& run) {
  std::istringstream in(read_file(path));
  std::string line;
  for (int64_t number = 1; std::getline(in, line); ++number) {
    const size_t equals = line.find('=');
    const size_t first = line.find_first_not_of(" \t\r");
    if (first == std::string::npos || line[first] == '#' || line[first] == '[') continue;
    check(equals != std::string::npos, kOp, path, " line ", number, ": expected key = value");
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

void read_config(const std::string& path, ReportRun& run) {
  const RopeConfig rope = rope_config_from_json(read_file(path));
  run.trained_window = rope.original_window();
  run.base_inv_freq = base_inv_freq(rope);
  if (rope.rope_type() == "clex") return;  // its frequencies depend on weights that are not read here
  const int64_t target = rope.extended_window();
  if (target > run.trained_window) run.target_window = target;
  const RopeTable table = make_rope_scaling(rope)->table({.length = target});
  run.inv_freq = table.inv_freq.value().to_vector();
  run.attention_scale = table.attention_scale;
}

/// frequencies.json, as `ropewalk compare` leaves it: the frequencies at the target window, learned ones too.
void read_frequencies(const std::string& path, ReportRun& run) {
  const auto json = nlohmann::json::parse(read_file(path), nullptr, false);
  check(json.is_object() && json.contains("inv_freq") && json["inv_freq"].is_array(), kOp, path,
        ": expected {\"inv_freq\": [...]}");
  run.inv_freq = json["inv_freq"].get<std::vector<double>>();
  run.attention_scale = json.value("attention_scale", 1.0);
}

/// CLEX without a frequencies.json: its two matrices are in the weights.
void solve_clex(const std::string& folder, ReportRun& run) {
  const RopeConfig rope = rope_config_from_json(read_file(folder + "/config.json"));
  if (rope.rope_type() != "clex" || !fs::exists(folder + "/model.safetensors")) return;
  const SafetensorsFile file(folder + "/model.safetensors");
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
  const auto json = nlohmann::json::parse(read_file(path), nullptr, false);
  check(json.is_object(), kOp, path, ": not a JSON object");
  const auto number = [&](const char* key) {
    return json.contains(key) && json[key].is_number() ? json[key].get<double>() : 0.0;
  };
  run.cost.seconds = std::max(run.cost.seconds, number("seconds"));
  run.cost.tokens = std::max(run.cost.tokens, static_cast<int64_t>(number("tokens")));
  run.cost.peak_memory_bytes = static_cast<int64_t>(number("peak_memory_bytes"));
}

std::string value_of(const ReportRun& run, const std::string& key) {
  for (const auto& [name, value] : run.recipe) {
    if (name == key) return value;
  }
  return "";
}

int64_t integer_of(const ReportRun& run, const std::string& key) {
  const std::string value = value_of(run, key);
  return value.empty() || value.find_first_not_of("0123456789") != std::string::npos ? 0 : std::stoll(value);
}

/// What the recipe says better than config.json.
void use_recipe(ReportRun& run) {
  if (run.recipe.empty()) return;
  if (const int64_t original = integer_of(run, "original_window")) run.trained_window = original;
  if (const int64_t target = integer_of(run, "target")) run.target_window = target;
  const std::string method = value_of(run, "method"), scaling = value_of(run, "rope_scaling");
  run.baseline = (method.empty() || method == "none" || method == "plain") && (scaling.empty() || scaling == "null");
  if (run.cost.tokens == 0) {
    const int64_t per_step =
        integer_of(run, "window") * integer_of(run, "batch") * std::max<int64_t>(1, integer_of(run, "accumulate"));
    run.cost.tokens = run.loss.empty() ? 0 : per_step * (run.loss.back().step + 1);
  }
}

/// Three samples' positions, drawn as the run's training drew those of its first step.
void draw_positions(ReportRun& run) {
  const std::string method = value_of(run, "method");
  const std::vector<PositionConfig>& known = position_samplers();
  const auto sampler = std::find_if(known.begin(), known.end(), [&](const auto& s) { return s.name() == method; });
  if (sampler == known.end()) return;
  const int64_t window = integer_of(run, "window");
  if (window < 2 || window > 8192) return;
  PositionConfig config = *sampler;
  for (const Field& f : config.fields()) {
    if (const std::string value = value_of(run, f.key()); !value.empty()) config.set(f.key(), value);
  }
  if (auto* pose = config.get<PosePositions>()) pose->content = PoseContent::zero;  // there is no document here
  const PositionBatch batch =
      make_position_sampler(config)->sample({.seed = static_cast<uint64_t>(integer_of(run, "seed")),
                                             .sample_ids = {0, 1, 2},
                                             .window = window,
                                             .target = std::max(run.target_window, window),
                                             .original_window = run.trained_window});
  for (int64_t b = 0; b < 3; ++b) {
    const float* p = batch.positions.data<float>() + b * window;
    run.positions.emplace_back(p, p + window);
  }
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
  check(fs::is_directory(folder), kOp, "'", folder, "' is not a folder");
  ReportRun run;
  fs::path path = fs::path(folder).lexically_normal();
  if (path.filename().empty()) path = path.parent_path();
  run.name = path.filename().string();
  if (fs::exists(path / "metrics.jsonl")) read_metrics((path / "metrics.jsonl").string(), run);
  if (fs::exists(path / "config.json")) read_config((path / "config.json").string(), run);
  if (fs::exists(path / "recipe.toml")) read_recipe((path / "recipe.toml").string(), run);
  use_recipe(run);
  if (fs::exists(path / "cost.json")) read_cost((path / "cost.json").string(), run);
  if (fs::exists(path / "frequencies.json")) read_frequencies((path / "frequencies.json").string(), run);
  else if (fs::exists(path / "config.json")) solve_clex(path.string(), run);
  draw_positions(run);
  std::vector<fs::path> evaluations;
  for (const auto& entry : fs::directory_iterator(path)) {
    const std::string name = entry.path().filename().string();
    if (name.starts_with("eval-") && name.ends_with(".json")) evaluations.push_back(entry.path());
  }
  std::sort(evaluations.begin(), evaluations.end());
  for (const fs::path& file : evaluations) {
    add_eval_result(run, eval_result_from_json(read_file(file.string()), file.string()));
  }
  check(!run.loss.empty() || !evaluations.empty() || !run.inv_freq.empty(), kOp, "'", folder,
        "' holds nothing to report: no metrics.jsonl, no config.json, no eval-*.json");
  return run;
}

void add_eval_result(ReportRun& run, const EvalResult& result) {
  const double none = std::numeric_limits<double>::quiet_NaN();
  if (run.trained_window == 0) run.trained_window = result.protocol.integer("trained_window");
  if (result.kind == "ppl") {
    for (const Record& t : result.totals) {
      // Of two evaluations at one window, the first counts.
      const int64_t window = t.integer("window");
      if (std::any_of(run.ppl.begin(), run.ppl.end(), [&](const PplPoint& p) { return p.window == window; })) continue;
      run.ppl.push_back({window, t.number("ppl", none), t.number("ppl_low", none), t.number("ppl_high", none)});
    }
    std::stable_sort(run.ppl.begin(), run.ppl.end(),
                     [](const PplPoint& a, const PplPoint& b) { return a.window < b.window; });
  } else if (result.kind == "bins") {
    for (const Record& t : result.totals)
      run.bins.push_back({t.integer("begin"), t.integer("end"), t.number("nll", none)});
  } else if (result.kind == "lastk") {
    for (const Record& t : result.totals) {
      run.lastk.push_back(
          {t.integer("context"), t.number("nll", none), t.number("nll_low", none), t.number("nll_high", none)});
    }
  } else if (result.kind == "passkey") {
    std::vector<PasskeyPoint> points;
    for (const Record& t : result.totals) {
      if (!t.find("distance") && !t.find("mean_distance")) continue;
      const int64_t distance =
          t.find("distance") ? t.integer("distance") : static_cast<int64_t>(std::llround(t.number("mean_distance")));
      points.push_back({distance, t.number("accuracy"), t.integer("trials")});
    }
    // Of two evaluations, the one that reaches farther is drawn.
    const auto reach = [](const std::vector<PasskeyPoint>& p) {
      int64_t farthest = 0;
      for (const PasskeyPoint& q : p) farthest = std::max(farthest, q.distance);
      return farthest;
    };
    if (reach(points) > reach(run.passkey)) run.passkey = points;
  } else if (result.kind == "needle") {
    for (const Record& t : result.totals) {
      run.needle.push_back({t.integer("length"), t.number("depth"), t.number("accuracy")});
    }
  }
}

std::vector<Record> report_records(const std::vector<ReportRun>& runs) {
  std::vector<Record> out;
  for (const ReportRun& run : runs) {
    const auto put = [&](const char* section, const char* by, RecordValue x, const char* what, RecordValue value) {
      out.push_back({{"run", run.name},
                     {"section", std::string(section)},
                     {"by", std::string(by)},
                     {"x", std::move(x)},
                     {"what", std::string(what)},
                     {"value", std::move(value)}});
      return &out.back();
    };
    const auto interval = [](Record* record, double low, double high) {
      if (!(low < high)) return;
      record->set("low", low);
      record->set("high", high);
    };
    for (const auto& [key, value] : run.recipe) put("recipe", "setting", key, "value", value);
    for (const LossPoint& p : run.loss) put("loss", "step", p.step, "nats_per_token", p.loss);
    for (const PplPoint& p : run.ppl) interval(put("ppl", "window", p.window, "perplexity", p.ppl), p.low, p.high);
    for (const BinPoint& p : run.bins) put("bins", "token", p.begin, "nats_per_token", p.nll)->set("end", p.end);
    for (const ContextPoint& p : run.lastk)
      interval(put("lastk", "context", p.context, "nats_per_token", p.nll), p.low, p.high);
    for (const PasskeyPoint& p : run.passkey)
      put("passkey", "distance", p.distance, "accuracy", p.accuracy)->set("trials", p.trials);
    for (const NeedleCell& c : run.needle)
      put("needle", "length", c.length, "accuracy", c.accuracy)->set("depth", c.depth);
    for (size_t i = 0; i < run.inv_freq.size(); ++i)
      put("frequencies", "pair", static_cast<int64_t>(i), "inv_freq", run.inv_freq[i]);
    for (size_t s = 0; s < run.positions.size(); ++s) {
      for (const size_t m : position_corners(run.positions[s])) {
        put("positions", "token", static_cast<int64_t>(m), "position", run.positions[s][m])
            ->set("sample", static_cast<int64_t>(s));
      }
    }
    if (run.cost.seconds > 0) put("cost", "", std::string("time"), "seconds", run.cost.seconds);
    if (run.cost.tokens > 0) put("cost", "", std::string("tokens"), "tokens", run.cost.tokens);
    if (run.cost.tokens_per_s > 0) put("cost", "", std::string("speed"), "tokens_per_s", run.cost.tokens_per_s);
    if (run.cost.peak_memory_bytes > 0) put("cost", "", std::string("memory"), "bytes", run.cost.peak_memory_bytes);
  }
  return out;
}

}  // namespace rw
