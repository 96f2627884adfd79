// Evaluations as points of a report: which numbers are taken, in which range they must lie, and how they were measured.
#include <algorithm>
#include <cmath>
#include <functional>
#include <limits>

#include "eval/report.h"
#include "tensor/error.h"

namespace rw {
namespace {

constexpr const char* kOp = "report";
constexpr int64_t kMostTokens = int64_t{1} << 40;
constexpr size_t kMostTotals = 16384;

/// The numbers of one total, with errors that name the evaluation.
class Total {
 public:
  Total(const Record& record, const std::string& name) : record_(record), name_(name) {}

  int64_t count(const char* key, int64_t low, int64_t high = kMostTokens) const {
    const double value = number(key);
    check(value >= static_cast<double>(low) && value <= static_cast<double>(high), kOp, name_, ": \"", key,
          "\" of a total must be from ", low, " to ", high, ", got ",
          record_.find(key) ? record_.text(key) : std::string("none"));
    return static_cast<int64_t>(std::llround(value));
  }
  double share(const char* key) const {
    const double value = number(key);
    check(value >= 0 && value <= 1, kOp, name_, ": \"", key, "\" of a total must be from 0 to 1, got ",
          record_.find(key) ? record_.text(key) : std::string("none"));
    return value;
  }
  /// NaN where it is missing or null: the page shows a dash.
  double number(const char* key) const { return record_.number(key, std::numeric_limits<double>::quiet_NaN()); }
  bool has(const char* key) const { return record_.find(key) != nullptr; }

 private:
  const Record& record_;
  const std::string& name_;
};

/// "a half of the window", "256", as the totals have it.
std::string stride_in_words(const EvalResult& result) {
  std::string fixed, share;
  bool same = true, same_share = true;
  for (const Record& t : result.totals) {
    const int64_t stride = t.integer("stride"), window = t.integer("window");
    if (stride <= 0 || window <= 0) return "";
    const std::string now = cat(stride), part = cat("1/", window / stride, " of the window");
    same = same && (fixed.empty() || fixed == now);
    same_share = same_share && window % stride == 0 && (share.empty() || share == part);
    fixed = now;
    share = part;
  }
  if (same_share && (!same || result.totals.size() > 1 || share != "1/1 of the window")) return share;
  return same ? fixed : "by window";
}

/// Of "N tokens in D documents, fnv1a HASH" the hash.
std::string text_hash(const Record& protocol) {
  const std::string text = protocol.text("text");
  const size_t hash = text.rfind(' ');
  return hash == std::string::npos ? text : text.substr(hash + 1);
}

std::string text_in_words(const EvalResult& result) {
  const Record& p = result.protocol;
  std::string out;
  if (p.integer("max_tokens") > 0) out += cat("the first ", p.integer("max_tokens"), " tokens of ");
  const int64_t documents = result.totals.empty() ? 0 : result.totals[0].integer("documents");
  if (documents > 0) out += cat(documents, documents == 1 ? " document" : " documents");
  else out += "all documents";
  if (p.find("text")) {
    out += cat(" of text ", text_hash(p));
  } else if (!result.totals.empty() && result.totals[0].integer("tokens") > 0) {
    out += cat(" (", result.totals[0].integer("tokens"), " tokens)");
  }
  return out;
}

void add_ppl(ReportRun& run, const EvalResult& result, const std::string& protocol, const std::string& name) {
  for (const Record& record : result.totals) {
    const Total t(record, name);
    const int64_t window = t.count("window", 2);
    // Of two evaluations at one window, the first counts.
    if (std::any_of(run.ppl.begin(), run.ppl.end(),
                    [&](const PplPoint& p) { return p.window == window && p.protocol == protocol; }))
      continue;
    run.ppl.push_back({.window = window,
                       .ppl = t.number("ppl"),
                       .low = t.number("ppl_low"),
                       .high = t.number("ppl_high"),
                       .protocol = protocol});
  }
  std::stable_sort(run.ppl.begin(), run.ppl.end(),
                   [](const PplPoint& a, const PplPoint& b) { return a.window < b.window; });
}

void add_passkey(ReportRun& run, const EvalResult& result, const std::string& protocol, const std::string& name) {
  std::vector<PasskeyPoint> points;
  for (const Record& record : result.totals) {
    const Total t(record, name);
    if (!t.has("distance") && !t.has("mean_distance")) continue;
    points.push_back({.distance = t.count(t.has("distance") ? "distance" : "mean_distance", 0),
                      .accuracy = t.share("accuracy"),
                      .trials = t.has("trials") ? t.count("trials", 0) : 0,
                      .protocol = protocol});
  }
  // Of two evaluations by one protocol, the one that reaches farther is drawn.
  const auto reach = [&](const std::vector<PasskeyPoint>& list) {
    int64_t farthest = -1;
    for (const PasskeyPoint& q : list) {
      if (q.protocol == protocol) farthest = std::max(farthest, q.distance);
    }
    return farthest;
  };
  if (reach(points) <= reach(run.passkey)) return;
  std::erase_if(run.passkey, [&](const PasskeyPoint& p) { return p.protocol == protocol; });
  run.passkey.insert(run.passkey.end(), points.begin(), points.end());
}

void add_longppl(ReportRun& run, const Total& t, const std::string& protocol) {
  const int64_t window = t.count("window", 2);
  for (const LongPplPoint& p : run.longppl) {
    if (p.window == window && p.protocol == protocol) return;  // of two at one window, the first counts
  }
  const double tokens = static_cast<double>(t.count("tokens", 1)), key = static_cast<double>(t.count("key_tokens", 0));
  run.longppl.push_back({window, t.number("longppl"), t.number("longppl_low"), t.number("longppl_high"),
                         std::min(1.0, key / tokens), t.number("ppl"), protocol});
  std::stable_sort(run.longppl.begin(), run.longppl.end(),
                   [](const LongPplPoint& a, const LongPplPoint& b) { return a.window < b.window; });
}

/// The scores of one total: RULER and tasks in its form by length, multiple choice by its four rules, generated
/// answers, of which summaries have one score for each ROUGE.
void add_scores(ReportRun& run, const EvalResult& result, const std::string& protocol, const Total& t,
                const Record& record) {
  const auto put = [&](const std::string& name, const char* key, int64_t length = 0) {
    const std::string low = cat(key, "_low"), high = cat(key, "_high"), task = name.substr(0, 60);
    // Of two evaluations of a task, the first counts.
    for (const ScorePoint& p : run.scores) {
      if (p.task == task && p.length == length && p.kind == result.kind && p.protocol == protocol) return;
    }
    run.scores.push_back(
        {task, t.share(key), t.number(low.c_str()), t.number(high.c_str()), protocol, result.kind, length});
  };
  if (result.kind == "tasks") {
    put(record.text("task"), "accuracy", t.count("length", 1));
  } else if (result.kind == "ruler") {
    put(record.text("task"), "score", t.count("length", 1));
  } else if (result.kind == "choice") {
    for (const char* rule : {"acc", "acc_norm", "acc_char", "acc_answer"}) {
      if (t.has(rule)) put(rule, rule);
    }
  } else if (result.kind == "longbench" && t.has("rouge1")) {
    for (const char* rouge : {"rouge1", "rouge2", "rougeL"}) put(rouge, rouge);
  } else if (result.kind == "longbench") {
    put(record.text("metric"), "score");
  }
}

/// The last part of a path, with the checksum of what the file held where that is known.
std::string file_in_words(const Record& protocol, const std::string& key) {
  if (!protocol.find(key)) return "";
  const std::string path = protocol.text(key), checksum = protocol.text(key + "_checksum");
  if (checksum.empty()) return path;
  return cat(path.substr(path.rfind('/') + 1), " (", checksum, ")");
}

/// How prompts were made and answers judged, for the kinds whose results are scores.
void add_score_protocol(const EvalResult& result, const std::function<void(const std::string&)>& add) {
  const Record& p = result.protocol;
  const auto given = [&](const char* key, const std::string& before, const std::string& after = "") {
    if (p.find(key)) add(before + p.text(key) + after);
  };
  add(result.kind == "tasks"    ? "retrieval tasks"
      : result.kind == "ruler"  ? "RULER"
      : result.kind == "choice" ? "multiple choice"
                                : "questions");
  add(file_in_words(p, "file"));
  if (result.kind == "ruler") {
    const std::string tasks = p.text("tasks");  // their mean is one of the scores
    const int64_t count = 1 + std::count(tasks.begin(), tasks.end(), ',');
    if (!tasks.empty()) add(count > 3 ? cat(count, " tasks") : tasks);
    if (p.text("shots") == "false") add("without solved examples");
    for (const char* key : {"squad", "hotpotqa"}) add(file_in_words(p, key));
    if (p.find("text")) add("haystack of text " + text_hash(p));
  } else {
    given("shots", "", " solved examples");
    add(file_in_words(p, "shots_file"));
  }
  given("trials", "", " prompts each");
  given("metric", "by ");
  if (p.text("stem") == "true") add("stems");
  given("keys", "", " keys");
  given("hops", "", " hops");
  given("digits", "", " digits");
  if (!result.totals.empty() && result.totals[0].find("items")) add(cat(result.totals[0].text("items"), " items"));
}

}  // namespace

std::string protocol_in_words(const EvalResult& result) {
  const Record& p = result.protocol;
  std::string out;
  const auto add = [&](const std::string& part) {
    if (!part.empty()) out += cat(out.empty() ? "" : ", ", part);
  };
  const auto given = [&](const char* key, const std::string& before, const std::string& after = "") {
    if (p.find(key)) add(before + p.text(key) + after);
  };
  if (result.kind == "ppl") {
    const std::string mode = p.text("mode");
    add(mode == "truncate"  ? "the first window of each document in one pass"
        : mode == "chunked" ? "the first window of each document in chunks over a KV cache"
        : mode.empty()      ? ""
                            : mode + " windows");
    const std::string stride = stride_in_words(result);
    if (!stride.empty() && p.text("mode", "sliding") == "sliding") add("stride " + stride);
    if (p.text("weighting", "token") != "token") given("weighting", "mean by ");
    if (p.text("scale", "from the window") != "from the window") given("scale", "RoPE scale ");
    add(text_in_words(result));
  } else if (result.kind == "lastk") {
    given("last", "the last ", " tokens");
    given("targets_per_document", "at ", " places");
    add(text_in_words(result));
  } else if (result.kind == "bins") {
    given("window", "a window of ", " tokens");
    given("bin", "bins of ");
    add(text_in_words(result));
  } else if (result.kind == "passkey" || result.kind == "needle") {
    given("place", "");
    given("template", "template ");
    given("filler", "filler from ");
    if (p.text("place") == "uniform depth") {  // the distances that come up depend on the lengths
      std::string lengths;
      for (const Record& t : result.totals) {
        if (t.find("length")) lengths += cat(lengths.empty() ? "prompts of " : ", ", t.text("length"));
      }
      add(lengths);
    }
  }
  if (result.kind == "longppl") {
    given("short_window", "a short context of ", " tokens");
    given("alpha", "alpha ");
    given("beta", "beta ");
    given("judge", "judged by ");
    add(text_in_words(result));
  }
  if (result.kind == "tasks" || result.kind == "ruler" || result.kind == "choice" || result.kind == "longbench")
    add_score_protocol(result, add);
  if (p.text("bos") == "false") add("without BOS");
  if (out.size() > 400) out.resize(400);
  return out;
}

void add_eval_result(ReportRun& run, const EvalResult& result, const std::string& name) {
  check(result.totals.size() <= kMostTotals, kOp, name, ": at most ", kMostTotals, " totals are shown, got ",
        result.totals.size());
  const int64_t trained = result.protocol.integer("trained_window");
  if (run.trained_window == 0 && trained > 0 && trained <= kMostTokens) run.trained_window = trained;
  for (const auto& [key, fact] :
       {std::pair{"device", &run.facts.device}, {"version", &run.facts.version}, {"date", &run.facts.date}}) {
    if (fact->empty() && result.protocol.find(key)) *fact = result.protocol.text(key).substr(0, 80);
  }
  const std::string protocol = protocol_in_words(result);
  if (result.kind == "ppl") add_ppl(run, result, protocol, name);
  else if (result.kind == "passkey") add_passkey(run, result, protocol, name);
  for (const Record& record : result.totals) {
    const Total t(record, name);
    if (result.kind == "bins") {
      const int64_t begin = t.count("begin", 0);
      run.bins.push_back(
          {.begin = begin, .end = t.count("end", begin + 1), .nll = t.number("nll"), .protocol = protocol});
    } else if (result.kind == "lastk") {
      run.lastk.push_back({.context = t.count("context", 1),
                           .nll = t.number("nll"),
                           .low = t.number("nll_low"),
                           .high = t.number("nll_high"),
                           .protocol = protocol});
    } else if (result.kind == "needle") {
      run.needle.push_back({.length = t.count("length", 1),
                            .depth = t.share("depth"),
                            .accuracy = t.share("accuracy"),
                            .protocol = protocol});
    } else if (result.kind == "longppl") {
      add_longppl(run, t, protocol);
    } else {
      add_scores(run, result, protocol, t, record);
    }
  }
}

}  // namespace rw
