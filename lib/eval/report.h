// One self-contained HTML page that compares runs: curves as inline SVG with a table beside every picture, light and
// dark, for a phone and for a desk, and the same numbers as CSV and JSON lines. It loads nothing from anywhere.
//
//   std::vector<ReportRun> runs = {load_run("out/base"), load_run("out/pose")};
//   write_report("out/report.html", runs, {.title = "PoSE to 4x"});     // and out/report.csv, out/report.jsonl
//
// Everything in ReportRun is optional: a section appears when some run has numbers for it.
#pragma once
#include <cstdint>
#include <string>
#include <utility>
#include <vector>

#include "eval/records.h"

namespace rw {

struct LossPoint {
  int64_t step = 0;
  double loss = 0;  // nats per token
};

/// Perplexity of the whole corpus under one window; low and high: a 95 % interval (NaN or equal: none).
struct PplPoint {
  int64_t window = 0;
  double ppl = 0, low = 0, high = 0;
};

/// Mean loss of the tokens with indices [begin, end) of their documents.
struct BinPoint {
  int64_t begin = 0, end = 0;
  double nll = 0;
};

/// Loss of the same last tokens under a context of so many tokens.
struct ContextPoint {
  int64_t context = 0;
  double nll = 0, low = 0, high = 0;
};

/// Share of right answers with the key so many tokens before the end.
struct PasskeyPoint {
  int64_t distance = 0;
  double accuracy = 0;  // in [0, 1]
  int64_t trials = 0;
};

/// Share of right answers for a prompt length and a needle depth in [0, 1] (0: at the beginning).
struct NeedleCell {
  int64_t length = 0;
  double depth = 0, accuracy = 0;
};

/// What a run cost; 0: unknown.
struct RunCost {
  double seconds = 0;
  int64_t tokens = 0;
  double tokens_per_s = 0;
  int64_t peak_memory_bytes = 0;
};

struct ReportRun {
  std::string name;
  bool baseline = false;  // drawn grey and dashed: what the others are compared with
  std::vector<std::pair<std::string, std::string>> recipe;
  int64_t trained_window = 0;  // L: tokens of a sample in pre-training
  int64_t target_window = 0;   // after extension
  std::vector<LossPoint> loss;
  std::vector<PplPoint> ppl;
  std::vector<BinPoint> bins;
  std::vector<ContextPoint> lastk;
  std::vector<PasskeyPoint> passkey;
  std::vector<NeedleCell> needle;
  /// theta'_i at the target window, and theta_i of the pre-trained model, both [D/2].
  std::vector<double> inv_freq, base_inv_freq;
  double attention_scale = 1;
  /// A few samples' training positions p(m), each [T].
  std::vector<std::vector<double>> positions;
  RunCost cost;
};

struct ReportOptions {
  std::string title = "Context extension, compared";
  std::string subtitle = {};  // one line: data, model, what was done
  /// Shown at the end in a fixed-width font, e.g. a sample of generated text: {heading, text}.
  std::vector<std::pair<std::string, std::string>> texts = {};
};

/// The page. Errors: no runs.
std::string report_html(const std::vector<ReportRun>& runs, const ReportOptions& options = {});

/// Every number of the page, one record each: run, section, x (what the section counts by), value, ...
std::vector<Record> report_records(const std::vector<ReportRun>& runs);

/// Writes `path` and, with .csv and .jsonl in place of its ending, the same numbers.
void write_report(const std::string& path, const std::vector<ReportRun>& runs, const ReportOptions& options = {});

/// Where a sample's positions change their pace, and both ends: between them they are a straight line.
std::vector<size_t> position_corners(const std::vector<double>& positions);

/// Reads a run folder: metrics.jsonl ({"step", "loss", "tokens_per_s", "time_s"}), config.json, cost.json, recipe.toml
/// (key = "value"), frequencies.json and every eval-*.json as `ropewalk eval --json` writes it. Positions are drawn
/// again from the recipe. Each may be missing, but not all. Errors: no
/// such folder, nothing to show in it, a garbled file (named).
ReportRun load_run(const std::string& folder);

/// Puts the numbers of an evaluation where they belong in `run`. Kinds that the report does not draw are ignored.
void add_eval_result(ReportRun& run, const EvalResult& result);

}  // namespace rw
