// One self-contained HTML page that compares runs. Curves are inline SVG, with a table beside every picture. The page
// is light or dark, for a phone or a desk. It loads nothing. The same numbers are written as CSV and JSON lines.
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

// Points of an evaluation carry the protocol that they were measured by, in words: only points of the same protocol are
// set against each other.

struct LossPoint {
  int64_t step = 0;
  double loss = 0;  // nats per token
};

/// Perplexity of the whole corpus under one window; low and high: a 95 % interval (NaN or equal: none).
struct PplPoint {
  int64_t window = 0;
  double ppl = 0, low = 0, high = 0;
  std::string protocol = {};
};

/// Mean loss of the tokens with indices [begin, end) of their documents.
struct BinPoint {
  int64_t begin = 0, end = 0;
  double nll = 0;
  std::string protocol = {};
};

/// Loss of the same last tokens under a context of so many tokens.
struct ContextPoint {
  int64_t context = 0;
  double nll = 0, low = 0, high = 0;
  std::string protocol = {};
};

/// Share of right answers with the key so many tokens before the end.
struct PasskeyPoint {
  int64_t distance = 0;
  double accuracy = 0;  // in [0, 1]
  int64_t trials = 0;
  std::string protocol = {};
};

/// Share of right answers for a prompt length and a needle depth in [0, 1] (0: at the beginning).
struct NeedleCell {
  int64_t length = 0;
  double depth = 0, accuracy = 0;
  std::string protocol = {};
};

/// LongPPL under one window: perplexity of the tokens that the long context decides. NaN: there is none.
struct LongPplPoint {
  int64_t window = 0;
  double longppl = 0, low = 0, high = 0;
  double key_share = 0;  // of the judged tokens, in [0, 1]
  double ppl = 0;        // of all judged tokens
  std::string protocol = {};
};

/// A score of a task: share of right answers, or ROUGE.
struct ScorePoint {
  std::string task;                     // "vt", "acc", "rougeL"
  double value = 0, low = 0, high = 0;  // in [0, 1]
  std::string protocol = {};
  std::string kind = {};  // of the evaluation: "ruler", "tasks", "choice", "longbench"
  int64_t length = 0;     // tokens of the prompts; 0: whatever the items have
};

/// What a run cost; 0: unknown.
struct RunCost {
  double seconds = 0;
  int64_t tokens = 0;
  double tokens_per_s = 0;
  int64_t peak_memory_bytes = 0;
};

/// Loss on text that is not trained on, after so many steps.
struct ValidationPoint {
  int64_t step = 0;
  double loss = 0;
  std::string protocol = {};
};

enum class RunState {
  unknown,
  finished,
  training,  // another process holds the folder
  stopped,   // steps were recorded, but there is no model
};

/// What a run is and where it was made; empty or 0: unknown.
struct RunFacts {
  RunState state = RunState::unknown;
  int64_t steps_done = 0, steps_planned = 0;
  int64_t parameters = 0;
  std::string architecture, tokenizer;  // "llama, 4 layers of 256", "4096 tokens"
  std::string device, date, version;
};

struct ReportRun {
  std::string name;
  bool baseline = false;  // drawn dashed, and grey if it is the first: what the others are compared with
  std::vector<std::pair<std::string, std::string>> recipe;
  int64_t trained_window = 0;  // L: tokens of a sample in pre-training
  int64_t target_window = 0;   // after extension
  std::vector<LossPoint> loss;
  std::vector<ValidationPoint> validation;
  std::vector<PplPoint> ppl;
  std::vector<BinPoint> bins;
  std::vector<ContextPoint> lastk;
  std::vector<PasskeyPoint> passkey;
  std::vector<NeedleCell> needle;
  std::vector<LongPplPoint> longppl;
  std::vector<ScorePoint> scores;
  /// theta'_i at the target window, and theta_i of the pre-trained model, both [D/2].
  std::vector<double> inv_freq, base_inv_freq;
  double attention_scale = 1;
  /// A few samples' training positions p(m), each [T].
  std::vector<std::vector<double>> positions;
  RunCost cost;
  RunFacts facts;
  std::vector<std::string> notices;  // what a reader must know: a stale evaluation, lines that could not be read
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

/// Writes `path` and, with .csv and .jsonl in place of its ending, the same numbers. Errors: a path that does not end
/// in .html, one of the three is there already and is not part of a report.
void write_report(const std::string& path, const std::vector<ReportRun>& runs, const ReportOptions& options = {});

/// Where a sample's positions change their pace, and both ends: between them they are a straight line.
std::vector<size_t> position_corners(const std::vector<double>& positions);

/// Reads a run folder: metrics.jsonl ({"step", "loss", "tokens_per_s", "time_s"}), config.json, cost.json, recipe.toml
/// (key = "value"), validation.jsonl, frequencies.json and every eval-*.json as `ropewalk eval --json` writes it.
/// Positions are drawn again from the recipe. Each may be missing, but not all. An evaluation of other weights than the
/// folder has is left out, with a notice. Errors: no such folder, nothing to show in it, a garbled file or numbers out
/// of range (named).
ReportRun load_run(const std::string& folder);

/// Runs by folder, and evaluations by file, wherever `ropewalk eval --json` wrote them. A file goes to the run whose
/// folder or weights it was measured on; one that fits no folder makes a run of its own.
std::vector<ReportRun> load_runs(const std::vector<std::string>& paths);

/// Puts the numbers of an evaluation where they belong in `run`. Kinds that the report does not draw are ignored.
/// Errors: totals without their numbers, or out of range; the message begins with `name`.
void add_eval_result(ReportRun& run, const EvalResult& result, const std::string& name = "the evaluation");

/// How an evaluation was measured, in words: what must be equal before two of them are compared.
std::string protocol_in_words(const EvalResult& result);

}  // namespace rw
