// RULER: fitting its prompts to a length, its score, and the evaluation.
#include "eval/ruler.h"

#include <algorithm>
#include <cctype>
#include <set>
#include <utility>

#include "eval/ruler_tasks.h"
#include "eval/statistics.h"
#include "tensor/error.h"

namespace rw {
namespace {

constexpr const char* kOp = "ruler";
constexpr size_t kLeastCommonWords = 1000;

bool starts(const std::string& task, const char* with) { return task.starts_with(with); }

bool of_text(const std::string& task) {
  return starts(task, "niah") && task != "niah_single_1" && task != "niah_multikey_2" && task != "niah_multikey_3";
}

/// Units of a task from a whole number: fwe's N goes in steps, as in its generator.
struct Units {
  int64_t least, step;
  int64_t size(int64_t n) const { return least + n * step; }
};

Units units_of(const std::string& task, int64_t limit, const RulerMaterial& material, int64_t trial) {
  const int64_t least = ruler::least_size(task, material, trial);
  if (task != "fwe") return {least, 1};
  const int64_t step = std::max<int64_t>(1, limit / 32), middle = limit / 6;
  return {
      middle >= least ? middle - (middle - least) / step * step : middle + (least - middle + step - 1) / step * step,
      step};
}

std::string lowered(std::string text) {
  for (char& c : text) c = static_cast<char>(std::tolower(static_cast<unsigned char>(c)));
  return text;
}

std::vector<int32_t> ids_of(const std::string& text, const Tokenizer& tokenizer, const RulerOptions& options) {
  std::vector<int32_t> ids = tokenizer.encode(text);
  if (options.bos) ids.insert(ids.begin(), *options.bos);
  return ids;
}

/// The largest n with tokens(n) <= limit, by halving: draws make the size jump a little, so the end is checked. -1 if
/// there is none.
template <class Tokens>
int64_t most_that_fits(int64_t limit, const Tokens& tokens) {
  if (tokens(0) > limit) return -1;
  int64_t low = 0, high = 1;
  while (high < limit && tokens(high) <= limit) low = high, high *= 2;
  while (high - low > 1) {
    const int64_t middle = low + (high - low) / 2;
    (tokens(middle) <= limit ? low : high) = middle;
  }
  return low;
}

/// One judged prompt of so many tokens as a row.
Record judge(const Tokenizer& tokenizer, const RulerPrompt& prompt, int64_t tokens, const std::string& said,
             int64_t length, const RulerOptions& options) {
  const size_t at = prompt.text.find(prompt.answers[0]);
  const int64_t token =
      at == std::string::npos ? -1 : static_cast<int64_t>(ids_of(prompt.text.substr(0, at), tokenizer, options).size());
  return {{"task", prompt.task},     {"length", length},      {"score", ruler_score(prompt.task, said, prompt.answers)},
          {"prompt_tokens", tokens}, {"answer_token", token}, {"prediction", said}};
}

/// So many prompts, of which make(i) gives one, judged: a row and a score each. progress(n): n of them are done.
template <class Make, class Progress>
void judge_all(TokenScorer& scorer, const Tokenizer& tokenizer, int64_t prompts, int64_t length,
               const RulerOptions& options, const Make& make, const Progress& progress, EvalResult& out,
               std::vector<double>& scores) {
  for (int64_t first = 0; first < prompts; first += kPromptsAtOnce) {
    std::vector<RulerPrompt> some;
    std::vector<GreedyRequest> requests;
    for (int64_t i = first; i < std::min(prompts, first + kPromptsAtOnce); ++i) {
      some.push_back(make(i));
      requests.push_back(
          {.prompt = ids_of(some.back().text, tokenizer, options), .tokens = ruler_answer_tokens(some.back().task)});
      if (options.eos) requests.back().stop.push_back(*options.eos);
    }
    const auto made = scorer.greedy_all(requests, [&](int64_t n) { progress(first + n); });
    for (size_t i = 0; i < some.size(); ++i) {
      const std::string said = tokenizer.decode(made[i]);
      out.rows.push_back(judge(tokenizer, some[i], std::ssize(requests[i].prompt), said, length, options));
      scores.push_back(out.rows.back().number("score"));
    }
  }
}

Record total_of(const std::string& task, int64_t length, const std::vector<double>& scores, uint64_t seed) {
  double mean = 0;
  for (const double s : scores) mean += s / static_cast<double>(scores.size());
  const Interval interval = bootstrap_mean(scores, seed);
  return {{"task", task},  {"length", length},          {"trials", static_cast<int64_t>(scores.size())},
          {"score", mean}, {"score_low", interval.low}, {"score_high", interval.high}};
}

Record protocol_of(const RulerOptions& options) {
  return {{"success", std::string("share of the answers in the generated text, case left out; questions: any of them")},
          {"benchmark", std::string("RULER")},
          {"shots", options.shots},
          {"bos", options.bos.has_value()},
          {"interval", std::string("95 % bootstrap over prompts")}};
}

}  // namespace

const std::vector<std::string>& ruler_tasks() {
  static const std::vector<std::string> names = {"niah_single_1",
                                                 "niah_single_2",
                                                 "niah_single_3",
                                                 "niah_multikey_1",
                                                 "niah_multikey_2",
                                                 "niah_multikey_3",
                                                 "niah_multivalue",
                                                 "niah_multiquery",
                                                 "vt",
                                                 "cwe",
                                                 "fwe",
                                                 "qa_1",
                                                 "qa_2"};
  return names;
}

std::vector<std::string> ruler_tasks_of(const RulerMaterial& material) {
  std::vector<std::string> out;
  for (const std::string& task : ruler_tasks()) {
    if (of_text(task) && material.words.empty()) continue;
    if (task == "qa_1" && material.squad.questions.empty()) continue;
    if (task == "qa_2" && material.hotpotqa.questions.empty()) continue;
    out.push_back(task);
  }
  return out;
}

int64_t ruler_answer_tokens(const std::string& task) {
  if (task == "vt") return 30;
  if (task == "cwe") return 120;
  if (task == "fwe") return 50;
  if (starts(task, "qa_")) return 32;
  check(starts(task, "niah_"), kOp, "unknown task '", task, "'");
  return 128;
}

RulerMaterial ruler_material(const std::vector<Document>& documents) {
  RulerMaterial out;
  std::set<std::string> small;
  for (const Document& d : documents) {
    std::string word;
    for (const char c : d.text + " ") {
      if (!std::isspace(static_cast<unsigned char>(c))) {
        word += c;
        continue;
      }
      const bool letters = std::all_of(word.begin(), word.end(), [](char l) { return l >= 'a' && l <= 'z'; });
      if (letters && word.size() >= 3 && word.size() <= 12) small.insert(word);
      if (!word.empty()) out.words.push_back(std::exchange(word, ""));
    }
  }
  if (small.size() >= kLeastCommonWords) out.common.assign(small.begin(), small.end());
  return out;
}

RulerPrompt draw_ruler_prompt(const std::string& task, int64_t length, int64_t size, Random random, int64_t trial,
                              const Tokenizer& tokenizer, const RulerMaterial& material, const RulerOptions& options) {
  RulerPrompt out = task == "vt"          ? ruler::variables(size, random, tokenizer, options.shots)
                    : task == "cwe"       ? ruler::common_words(length, size, random, material, options.shots)
                    : task == "fwe"       ? ruler::frequent_words(length, size, random)
                    : starts(task, "qa_") ? ruler::question(task, size, trial, random, material)
                                          : ruler::needles(task, size, random, material);
  out.task = task;
  return out;
}

RulerPrompt make_ruler_prompt(const std::string& task, int64_t length, int64_t trial, const Tokenizer& tokenizer,
                              const RulerMaterial& material, const RulerOptions& options) {
  const auto known = std::find(ruler_tasks().begin(), ruler_tasks().end(), task);
  check(known != ruler_tasks().end(), kOp, "unknown task '", task,
        "'; known: niah_single_1 to 3, niah_multikey_1 to 3, ",
        "niah_multivalue, niah_multiquery, vt, cwe, fwe, qa_1, qa_2");
  const Random random(options.seed, Purpose::eval, static_cast<uint64_t>(known - ruler_tasks().begin()),
                      static_cast<uint64_t>(trial));
  const int64_t limit = length - ruler_answer_tokens(task);
  const Units units = units_of(task, limit, material, trial);
  const auto drawn = [&](int64_t n) {
    return draw_ruler_prompt(task, length, units.size(n), random, trial, tokenizer, material, options);
  };
  const auto tokens = [&](int64_t n) { return static_cast<int64_t>(ids_of(drawn(n).text, tokenizer, options).size()); };
  const int64_t n = most_that_fits(limit, tokens);
  check(n >= 0, kOp, task, " does not fit into ", length, " tokens: the least prompt takes ", tokens(0),
        " and the answer ", ruler_answer_tokens(task),
        task == "vt" || task == "cwe" ? "; --no-shots leaves the solved example out" : "");
  return drawn(n);
}

double ruler_score(const std::string& task, const std::string& prediction, const std::vector<std::string>& answers) {
  check(!answers.empty(), kOp, "a prompt of ", task, " has no answers");
  const std::string said = lowered(prediction);
  double found = 0;
  for (const std::string& answer : answers) found += said.find(lowered(answer)) != std::string::npos;
  return starts(task, "qa_") ? std::min(1.0, found) : found / static_cast<double>(answers.size());
}

EvalResult evaluate_ruler(TokenScorer& scorer, const Tokenizer& tokenizer, const RulerMaterial& material,
                          const RulerOptions& options) {
  check(options.trials >= 1, kOp, "needs at least one trial, got ", options.trials);
  const std::vector<std::string> tasks = options.tasks.empty() ? ruler_tasks_of(material) : options.tasks;
  EvalResult out;
  out.kind = "ruler";
  out.protocol = protocol_of(options);
  out.protocol.set("trials", options.trials);
  std::string names;
  for (const std::string& task : tasks) names += (names.empty() ? "" : ", ") + task;
  out.protocol.set("tasks", names);
  const int64_t all = static_cast<int64_t>(tasks.size() * options.lengths.size()) * options.trials;
  int64_t done = 0;
  for (const int64_t length : options.lengths) {
    std::vector<double> means;
    for (const std::string& task : tasks) {
      std::vector<double> scores;
      judge_all(
          scorer, tokenizer, options.trials, length, options,
          [&](int64_t trial) { return make_ruler_prompt(task, length, trial, tokenizer, material, options); },
          [&](int64_t n) {
            if (options.progress) options.progress(done + n, all);
          },
          out, scores);
      done += options.trials;
      out.totals.push_back(total_of(task, length, scores, options.seed));
      means.push_back(out.totals.back().number("score"));
    }
    if (tasks.size() < 2) continue;
    double average = 0;
    for (const double m : means) average += m / static_cast<double>(means.size());
    out.totals.push_back({{"task", std::string("average")},
                          {"length", length},
                          {"trials", options.trials * static_cast<int64_t>(tasks.size())},
                          {"score", average}});
  }
  return out;
}

EvalResult evaluate_ruler_prompts(TokenScorer& scorer, const Tokenizer& tokenizer,
                                  const std::vector<RulerPrompt>& prompts, int64_t window,
                                  const RulerOptions& options) {
  check(!prompts.empty(), kOp, "no prompts");
  EvalResult out;
  out.kind = "ruler";
  out.protocol = protocol_of(options);
  out.protocol.set("trials", static_cast<int64_t>(prompts.size()));
  std::vector<double> scores;
  for (size_t i = 0; i < prompts.size(); ++i) {
    const int64_t tokens = static_cast<int64_t>(ids_of(prompts[i].text, tokenizer, options).size());
    check(tokens + ruler_answer_tokens(prompts[i].task) <= window, kOp, "prompt ", i + 1, " has ", tokens,
          " tokens; with an answer of ", ruler_answer_tokens(prompts[i].task), " it exceeds the window of ", window);
  }
  judge_all(
      scorer, tokenizer, std::ssize(prompts), window, options,
      [&](int64_t i) { return prompts[static_cast<size_t>(i)]; },
      [&](int64_t n) {
        if (options.progress) options.progress(n, std::ssize(prompts));
      },
      out, scores);
  out.totals.push_back(total_of(prompts[0].task, window, scores, options.seed));
  return out;
}

}  // namespace rw
