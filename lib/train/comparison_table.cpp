// What a comparison has measured, read back from its folders and laid out as tables.
#include "train/comparison_table.h"

#include <algorithm>
#include <cmath>
#include <filesystem>
#include <limits>
#include <nlohmann/json.hpp>
#include <numeric>

#include "tensor/error.h"
#include "tensor/file.h"
#include "tensor/folder.h"

namespace rw {
namespace {

namespace fs = std::filesystem;

struct Number {
  std::string name;
  double value;
  bool shown;
};

std::vector<Number> numbers_of(const std::string& name, const EvalResult& result) {
  std::vector<Number> out;
  const auto put = [&](const std::string& what, double value, bool shown) {
    out.push_back({name + " " + what, value, shown});
  };
  for (const Record& t : result.totals) {
    if (result.kind == "ppl") {
      put(cat("@", t.integer("window")), t.number("ppl"), true);
      put(cat("nll @", t.integer("window")), t.number("nll"), false);
    } else if (result.kind == "lastk") {
      put(cat("@", t.integer("context")), t.number("nll"), true);
      put(cat("difference @", t.integer("context")), t.number("difference"), false);
    } else if (result.kind == "bins") {
      put(cat("@", t.integer("begin")), t.number("nll"), false);
    } else if (result.kind == "longppl") {
      put(cat("@", t.integer("window")), t.number("longppl"), true);
    } else if (result.kind == "tasks") {
      put(cat(t.text("task"), " @", t.integer("length"), ", %"), 100 * t.number("accuracy"), true);
    } else if (result.kind == "ruler") {
      put(cat(t.text("task"), " @", t.integer("length"), ", %"), 100 * t.number("score"), true);
    } else if (result.kind == "longbench") {
      put("score", t.number("score"), true);
    } else if (result.kind == "choice") {
      put("acc, %", 100 * t.number("acc"), true);
      put("acc_norm, %", 100 * t.number("acc_norm"), false);
    } else if (t.find("length")) {  // passkey, needle
      std::string where = cat("@", t.integer("length"));
      if (t.find("distance")) where += cat(" k ", t.integer("distance"));
      if (t.find("depth")) where += cat(" depth ", to_text(*t.find("depth"), 2));
      put(where + ", %", 100 * t.number("accuracy"), false);
    }
  }
  const auto protocol = [&](const char* key, const char* what) {
    put(what, static_cast<double>(result.protocol.integer(key)), true);
  };
  if (result.kind == "needle") protocol("effective_length", "to");
  if (result.kind == "passkey") {
    if (result.protocol.text("place") == "distance grid") protocol("k_max_20", "k_max");
    else protocol("length_20", "k_max");
    protocol("longest_80", "80 % at");
  }
  return out;
}

std::vector<Number> cost_of(const std::string& path) {
  const auto json = nlohmann::json::parse(read_file(path, limits::config), nullptr, false);
  if (!json.is_object()) return {};
  const auto number = [&](const char* key) {
    return json.contains(key) && json[key].is_number() ? json[key].get<double>() : 0.0;
  };
  return {{"steps", number("steps"), false},
          {"train tokens", number("tokens"), false},
          {"train s", number("seconds"), true},
          {"peak GiB", number("peak_memory_bytes") / 1073741824.0, true}};
}

/// Files eval-*.json of a folder, by name.
std::vector<fs::path> evaluations(const std::string& folder) {
  std::vector<fs::path> files;
  if (!is_folder(folder)) return files;
  for (const std::string& name : names_in(folder)) {
    if (name.starts_with("eval-") && name.ends_with(".json")) files.push_back(fs::path(folder) / name);
  }
  std::sort(files.begin(), files.end());
  return files;
}

std::string number_text(double v) {
  char text[32];
  const double size = std::abs(v);
  std::snprintf(text, sizeof text, v == std::floor(v) || size >= 1000 ? "%.0f" : size >= 100 ? "%.1f" : "%.2f", v);
  return std::isfinite(v) ? text : "-";
}

std::string cell(const ArmMetric& m) {
  const double d = m.deviation();
  return number_text(m.mean()) + (d > 0 ? " ± " + number_text(d) : "");
}

/// Cells of the short table, the arm's name first.
std::vector<std::vector<std::string>> cells(const std::vector<ArmRuns>& arms, const std::vector<ArmMetric>& metrics) {
  std::vector<std::string> columns;
  for (const ArmMetric& m : metrics) {
    if (m.shown && std::find(columns.begin(), columns.end(), m.metric) == columns.end()) columns.push_back(m.metric);
  }
  // Cost stands last, whichever arm comes first in the list.
  std::stable_partition(columns.begin(), columns.end(),
                        [](const std::string& c) { return c != "train s" && c != "peak GiB"; });
  std::vector<std::vector<std::string>> out = {{"arm"}};
  out[0].insert(out[0].end(), columns.begin(), columns.end());
  for (const ArmRuns& arm : arms) {
    std::vector<std::string> row = {arm.name};
    for (const std::string& c : columns) {
      const auto at = std::find_if(metrics.begin(), metrics.end(),
                                   [&](const ArmMetric& m) { return m.arm == arm.name && m.metric == c; });
      row.push_back(at == metrics.end() ? "" : cell(*at));
    }
    if (std::any_of(row.begin() + 1, row.end(), [](const std::string& s) { return !s.empty(); })) out.push_back(row);
  }
  return out;
}

}  // namespace

double ArmMetric::mean() const {
  return std::accumulate(values.begin(), values.end(), 0.0) / static_cast<double>(values.size());
}

double ArmMetric::deviation() const {
  if (values.size() < 2) return std::numeric_limits<double>::quiet_NaN();
  double sum = 0;
  for (double v : values) sum += (v - mean()) * (v - mean());
  return std::sqrt(sum / static_cast<double>(values.size() - 1));
}

std::vector<ArmMetric> arm_metrics(const std::vector<ArmRuns>& arms) {
  std::vector<ArmMetric> out;
  for (const ArmRuns& arm : arms) {
    const size_t first = out.size();
    const auto put = [&](const Number& n) {
      const auto same = std::find_if(out.begin() + static_cast<std::ptrdiff_t>(first), out.end(),
                                     [&](const ArmMetric& m) { return m.metric == n.name; });
      if (same == out.end()) out.push_back({.arm = arm.name, .metric = n.name, .shown = n.shown, .values = {n.value}});
      else same->values.push_back(n.value);
    };
    for (const std::string& folder : arm.folders) {
      for (const fs::path& file : evaluations(folder)) {
        const std::string stem = file.stem().string().substr(5);
        for (const Number& n :
             numbers_of(stem, eval_result_from_json(read_file(file.string(), limits::evaluation), file.string())))
          put(n);
      }
      if (path_exists(folder + "/cost.json")) {
        for (const Number& n : cost_of(folder + "/cost.json")) put(n);
      }
    }
  }
  return out;
}

std::string to_markdown(const std::vector<ArmRuns>& arms, const std::vector<ArmMetric>& metrics) {
  std::string out;
  bool head = true;
  for (const std::vector<std::string>& row : cells(arms, metrics)) {
    out += "|";
    for (const std::string& c : row) out += " " + c + " |";
    out += "\n";
    if (!head) continue;
    out += "|---|";
    for (size_t c = 1; c < row.size(); ++c) out += "---:|";
    out += "\n";
    head = false;
  }
  return out;
}

std::string to_terminal(const std::vector<ArmRuns>& arms, const std::vector<ArmMetric>& metrics) {
  const auto rows = cells(arms, metrics);
  std::vector<Record> records;
  for (size_t r = 1; r < rows.size(); ++r) {
    Record record;
    for (size_t c = 0; c < rows[0].size(); ++c) record.set(rows[0][c], rows[r][c]);
    records.push_back(record);
  }
  return to_text_table(records);
}

std::vector<Record> to_records(const std::vector<ArmMetric>& metrics) {
  std::vector<Record> out;
  for (const ArmMetric& m : metrics) {
    std::string values;
    for (double v : m.values) values += cat(values.empty() ? "" : " ", to_text(RecordValue(v), 9));
    out.push_back({{"arm", m.arm},
                   {"metric", m.metric},
                   {"mean", m.mean()},
                   {"deviation", m.deviation()},
                   {"min", *std::min_element(m.values.begin(), m.values.end())},
                   {"max", *std::max_element(m.values.begin(), m.values.end())},
                   {"seeds", static_cast<int64_t>(m.values.size())},
                   {"values", values}});
  }
  return out;
}

ReportRun report_run(const ArmRuns& arm) {
  std::vector<ReportRun> runs;
  for (const std::string& folder : arm.folders) runs.push_back(load_run(folder));
  ReportRun out = runs[0];
  out.name = arm.name;
  if (runs.size() == 1) return out;
  // Every seed was evaluated by the same protocols, so that the k-th points belong together.
  const auto mean = [&](auto points, auto value) {
    for (size_t i = 0; i < (out.*points).size(); ++i) {
      double sum = 0, n = 0;
      for (const ReportRun& r : runs) {
        if (i < (r.*points).size()) sum += (r.*points)[i].*value, n += 1;
      }
      (out.*points)[i].*value = sum / n;
    }
  };
  mean(&ReportRun::ppl, &PplPoint::ppl);
  mean(&ReportRun::ppl, &PplPoint::low);
  mean(&ReportRun::ppl, &PplPoint::high);
  mean(&ReportRun::bins, &BinPoint::nll);
  mean(&ReportRun::lastk, &ContextPoint::nll);
  mean(&ReportRun::lastk, &ContextPoint::low);
  mean(&ReportRun::lastk, &ContextPoint::high);
  mean(&ReportRun::passkey, &PasskeyPoint::accuracy);
  mean(&ReportRun::needle, &NeedleCell::accuracy);
  out.recipe.emplace_back("seeds", cat(runs.size()));
  return out;
}

}  // namespace rw
