// LongBench items: reading them, cutting prompts in the middle, generating answers, and the two scores.
#include "eval/longbench.h"

#include <algorithm>
#include <cctype>
#include <map>
#include <nlohmann/json.hpp>
#include <sstream>

#include "eval/rouge.h"
#include "eval/statistics.h"
#include "tensor/error.h"
#include "tensor/file.h"
#include "tensor/json_depth.h"

namespace rw {
namespace {

constexpr const char* kOp = "longbench";

std::vector<std::string> words_of(const std::string& text, bool plain) {
  std::string clean;
  for (char c : text) {
    const unsigned char u = static_cast<unsigned char>(c);
    if (plain && std::ispunct(u)) continue;
    clean += static_cast<char>(std::tolower(u));
  }
  std::istringstream in(clean);
  std::vector<std::string> words;
  for (std::string word; in >> word;) {
    if (plain && (word == "a" || word == "an" || word == "the")) continue;
    words.push_back(word);
  }
  return words;
}

double f_measure(double common, size_t predicted, size_t wanted) {
  if (common == 0) return 0;
  const double precision = common / static_cast<double>(predicted), recall = common / static_cast<double>(wanted);
  return 2 * precision * recall / (precision + recall);
}

/// The template with its parts put in; text that is put in is not searched again.
std::string fill(const std::string& prompt, const LongBenchItem& item) {
  std::string out;
  for (size_t at = 0; at < prompt.size();) {
    if (prompt.compare(at, 9, "{context}") == 0) {
      out += item.context;
      at += 9;
    } else if (prompt.compare(at, 7, "{input}") == 0) {
      out += item.input;
      at += 7;
    } else {
      out += prompt[at++];
    }
  }
  return out;
}

}  // namespace

std::vector<LongBenchItem> load_longbench(const std::string& path) {
  std::istringstream in(read_file(path));
  std::vector<LongBenchItem> out;
  std::string line;
  for (int64_t number = 1; std::getline(in, line); ++number) {
    if (line.find_first_not_of(" \t\r") == std::string::npos) continue;
    check_json_depth(line, "longbench", path);
    const auto json = nlohmann::json::parse(line, nullptr, /*allow_exceptions=*/false);
    const auto is_text = [&](const char* key) { return json.contains(key) && json[key].is_string(); };
    const bool whole =
        json.is_object() && is_text("context") && is_text("input") && json.contains("answers") &&
        json["answers"].is_array() && !json["answers"].empty() &&
        std::all_of(json["answers"].begin(), json["answers"].end(), [](const auto& a) { return a.is_string(); });
    check(whole, kOp, path, " line ", number, ": expected an object with \"context\", \"input\" and \"answers\"");
    out.push_back({json["context"].get<std::string>(), json["input"].get<std::string>(),
                   json["answers"].get<std::vector<std::string>>()});
  }
  check(!out.empty(), kOp, path, " holds no items");
  return out;
}

std::vector<int32_t> truncate_middle(const std::vector<int32_t>& ids, int64_t limit) {
  const int64_t n = static_cast<int64_t>(ids.size());
  if (n <= limit) return ids;
  const int64_t head = limit / 2, tail = limit - head;
  std::vector<int32_t> out(ids.begin(), ids.begin() + head);
  out.insert(out.end(), ids.end() - tail, ids.end());
  return out;
}

double word_f1(const std::string& prediction, const std::string& answer) {
  const auto p = words_of(prediction, true), a = words_of(answer, true);
  std::map<std::string, int64_t> left;
  for (const std::string& word : a) ++left[word];
  double common = 0;
  for (const std::string& word : p) {
    const auto it = left.find(word);
    if (it == left.end() || it->second == 0) continue;
    --it->second;
    common += 1;
  }
  return f_measure(common, p.size(), a.size());
}

double rouge_l(const std::string& prediction, const std::string& answer) {
  const auto p = words_of(prediction, false), a = words_of(answer, false);
  std::vector<int64_t> row(a.size() + 1);  // LCS of the prediction so far and each prefix of the answer
  for (const std::string& word : p) {
    int64_t diagonal = 0;
    for (size_t j = 1; j <= a.size(); ++j) {
      const int64_t above = row[j];
      row[j] = word == a[j - 1] ? diagonal + 1 : std::max(row[j], row[j - 1]);
      diagonal = above;
    }
  }
  return f_measure(static_cast<double>(row.back()), p.size(), a.size());
}

namespace {

/// The scores of the answer with the highest ROUGE-L.
Rouge best_rouge(const std::string& text, const std::vector<std::string>& answers, bool stem) {
  Rouge best;
  for (size_t a = 0; a < answers.size(); ++a) {
    const Rouge r = rouge_scores(text, answers[a], stem);
    if (a == 0 || r.rougeL > best.rougeL) best = r;
  }
  return best;
}

/// What a model said to an item.
struct Answer {
  std::string text;
  int64_t prompt_tokens = 0;
  bool truncated = false;
};

void add_mean(Record& total, const std::string& name, const std::vector<double>& values) {
  double mean = 0;
  for (const double v : values) mean += v / static_cast<double>(values.size());
  const Interval interval = bootstrap_mean(values, 0);
  total.set(name, mean);
  total.set(name + "_low", interval.low);
  total.set(name + "_high", interval.high);
}

}  // namespace

EvalResult evaluate_longbench(TokenScorer& scorer, const Tokenizer& tokenizer, const std::vector<LongBenchItem>& items,
                              const LongBenchOptions& options) {
  check(!items.empty(), kOp, "no items");
  const bool summaries = options.metric == "rouge-score";
  check(options.metric == "f1" || options.metric == "rouge" || summaries, kOp, "unknown metric '", options.metric,
        "'; known: f1, rouge, rouge-score");
  check(!options.stem || summaries, kOp, "stems are for the metric rouge-score, got ", options.metric);
  const int64_t limit = options.window - options.max_new - (options.bos ? 1 : 0);
  check(limit >= 2, kOp, "a window of ", options.window, " leaves no prompt beside ", options.max_new, " new tokens");
  EvalResult out;
  out.kind = "longbench";
  out.protocol = {{"metric", options.metric},
                  {"prompt", options.prompt},
                  {"window", options.window},
                  {"max_new", options.max_new},
                  {"truncation", std::string("middle")}};
  std::vector<int32_t> stop;
  if (options.eos) stop.push_back(*options.eos);
  if (summaries) out.protocol.set("stem", options.stem);
  std::vector<double> scores, ones, twos;
  const auto answers_from = [&](size_t first) {  // of some items from `first` on
    std::vector<Answer> some;
    std::vector<GreedyRequest> requests;
    for (size_t i = first; i < std::min(items.size(), first + static_cast<size_t>(kPromptsAtOnce)); ++i) {
      const std::vector<int32_t> whole = tokenizer.encode(fill(options.prompt, items[i]));
      std::vector<int32_t> ids = truncate_middle(whole, limit);
      if (options.bos) ids.insert(ids.begin(), *options.bos);
      some.push_back({"", std::ssize(ids), std::ssize(whole) > limit});
      requests.push_back({.prompt = std::move(ids), .tokens = options.max_new, .stop = stop});
    }
    const auto made = scorer.greedy_all(requests, [&](int64_t n) {
      if (options.progress) options.progress(static_cast<int64_t>(first) + n, std::ssize(items));
    });
    for (size_t i = 0; i < some.size(); ++i) some[i].text = tokenizer.decode(made[i]);
    return some;
  };
  std::vector<Answer> answers;
  for (size_t i = 0; i < items.size(); ++i) {
    const size_t within = i % static_cast<size_t>(kPromptsAtOnce);
    if (within == 0) answers = answers_from(i);
    const auto& [text, prompt_tokens, truncated] = answers[within];
    Rouge rouge;
    double best = 0;
    if (summaries) {
      rouge = best_rouge(text, items[i].answers, options.stem);
      best = rouge.rougeL;
      ones.push_back(rouge.rouge1);
      twos.push_back(rouge.rouge2);
    }
    for (const std::string& answer : items[i].answers) {
      if (!summaries) best = std::max(best, options.metric == "f1" ? word_f1(text, answer) : rouge_l(text, answer));
    }
    scores.push_back(best);
    out.rows.push_back({{"item", static_cast<int64_t>(i)},
                        {"score", best},
                        {"prompt_tokens", prompt_tokens},
                        {"truncated", truncated},
                        {"answer", text}});
    if (summaries) {
      out.rows.back().set("rouge1", rouge.rouge1);
      out.rows.back().set("rouge2", rouge.rouge2);
      out.rows.back().set("rougeL", rouge.rougeL);
    }
  }
  Record total{{"items", static_cast<int64_t>(items.size())}, {"metric", options.metric}};
  add_mean(total, "score", scores);
  if (summaries) {
    add_mean(total, "rouge1", ones);
    add_mean(total, "rouge2", twos);
    add_mean(total, "rougeL", scores);
  }
  out.totals.push_back(std::move(total));
  return out;
}

}  // namespace rw
