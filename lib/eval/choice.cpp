// Multiple choice: contexts and continuations as tokens, their log-probabilities in batches, and the four ways to
// choose.
#include "eval/choice.h"

#include <algorithm>
#include <numeric>

#include "data/unicode.h"
#include "eval/statistics.h"
#include "tensor/error.h"

namespace rw {
namespace {

constexpr const char* kOp = "choice";

int64_t characters(const std::string& text) {
  int64_t n = 0;
  for (size_t at = 0; at < text.size(); at += char_at(text, at).length) ++n;
  return n;
}

const std::string& context_of(const ChoiceItem& item, size_t choice) {
  return item.contexts[item.contexts.size() == 1 ? 0 : choice];
}

/// The solved examples as text, each followed by an empty line.
std::string solved(const std::vector<ChoiceItem>& shots) {
  std::string out;
  for (const ChoiceItem& shot : shots) {
    const size_t answer = static_cast<size_t>(shot.answer);
    out += cat(context_of(shot, answer), " ", shot.continuations[answer], "\n\n");
  }
  return out;
}

/// Sums of log p of each window's scored tokens. Windows of like length share a batch.
std::vector<double> log_probabilities(TokenScorer& scorer, const std::vector<ScoreWindow>& windows, int64_t length,
                                      const Progress& progress) {
  std::vector<size_t> order(windows.size());
  std::iota(order.begin(), order.end(), size_t{0});
  std::stable_sort(order.begin(), order.end(),
                   [&](size_t a, size_t b) { return windows[a].ids.size() > windows[b].ids.size(); });
  std::vector<double> sums(windows.size());
  for (size_t begin = 0; begin < order.size();) {
    const int64_t longest = static_cast<int64_t>(windows[order[begin]].ids.size());
    const size_t end = std::min(order.size(), begin + static_cast<size_t>(scorer.windows_per_batch(longest)));
    std::vector<ScoreWindow> batch;
    for (size_t i = begin; i < end; ++i) batch.push_back(windows[order[i]]);
    const auto scores = scorer.score(batch, length);
    for (size_t i = begin; i < end; ++i) {
      for (const TokenScore& s : scores[i - begin]) sums[order[i]] -= s.nll;
    }
    begin = end;
    if (progress) progress(static_cast<int64_t>(end), static_cast<int64_t>(order.size()));
  }
  return sums;
}

/// The first of the largest values, as numpy's argmax.
int64_t argmax(const std::vector<double>& values) {
  return std::max_element(values.begin(), values.end()) - values.begin();
}

struct Choices {
  int64_t plain = 0, by_bytes = 0, by_characters = 0, by_answer = 0;
};

Choices choose(const ChoiceItem& item, const double* given, const double* alone) {
  std::vector<double> plain, bytes, chars, answer;
  for (size_t c = 0; c < item.continuations.size(); ++c) {
    const std::string& text = item.continuations[c];
    plain.push_back(given[c]);
    bytes.push_back(given[c] / static_cast<double>(std::max<size_t>(1, text.size())));
    chars.push_back(given[c] / static_cast<double>(std::max<int64_t>(1, characters(text))));
    answer.push_back(given[c] - alone[c]);
  }
  return {argmax(plain), argmax(bytes), argmax(chars), argmax(answer)};
}

void add_accuracy(Record& total, const std::string& name, int64_t hits, int64_t items) {
  const Interval interval = wilson_interval(hits, items);
  total.set(name, static_cast<double>(hits) / static_cast<double>(items));
  total.set(name + "_low", interval.low);
  total.set(name + "_high", interval.high);
}

}  // namespace

ScoreWindow encode_pair(const Tokenizer& tokenizer, std::string context, std::string continuation,
                        std::optional<int32_t> bos, int64_t window) {
  // Spaces at the context's end belong to the continuation: tokenizers join them with the word that follows.
  const size_t last = context.find_last_not_of(' ');
  const size_t keep = last == std::string::npos ? 0 : last + 1;
  continuation = context.substr(keep) + continuation;
  context.resize(keep);
  const std::vector<int32_t> before = tokenizer.encode(context), whole = tokenizer.encode(context + continuation);
  std::vector<int32_t> ids = whole;
  size_t first = std::min(before.size(), whole.size() - std::min<size_t>(1, whole.size()));
  if (bos) {
    ids.insert(ids.begin(), *bos);
    ++first;
  }
  const size_t limit = static_cast<size_t>(window) + 1;  // the last token is only predicted
  if (ids.size() > limit) {
    const size_t cut = ids.size() - limit;
    ids.erase(ids.begin(), ids.begin() + static_cast<std::ptrdiff_t>(cut));
    first = first > cut ? first - cut : 0;
  }
  return {std::move(ids), std::max<int64_t>(1, static_cast<int64_t>(first))};
}

EvalResult evaluate_choice(TokenScorer& scorer, const Tokenizer& tokenizer, const std::vector<ChoiceItem>& items,
                           const ChoiceOptions& options) {
  check(!items.empty(), kOp, "no items");
  check(options.window >= 2, kOp, "a window needs at least 2 tokens, got ", options.window);
  const std::string before = solved(options.shots);
  std::vector<ScoreWindow> windows;  // every choice after its context, then every choice after the answer context
  for (const ChoiceItem& item : items) {
    for (size_t c = 0; c < item.continuations.size(); ++c) {
      windows.push_back(encode_pair(tokenizer, before + context_of(item, c), " " + item.continuations[c], options.bos,
                                    options.window));
    }
  }
  const size_t choices = windows.size();
  for (const ChoiceItem& item : items) {
    for (const std::string& text : item.continuations)
      windows.push_back(encode_pair(tokenizer, options.answer_context, " " + text, options.bos, options.window));
  }
  const std::vector<double> sums = log_probabilities(scorer, windows, options.window, options.progress);

  EvalResult out;
  out.kind = "choice";
  out.protocol = {{"success", std::string("the right choice has the highest log-probability")},
                  {"shots", static_cast<int64_t>(options.shots.size())},
                  {"window", options.window},
                  {"answer_context", options.answer_context},
                  {"bos", options.bos.has_value()},
                  {"interval", std::string("95 % Wilson")}};
  int64_t hits[4] = {};
  size_t at = 0;
  for (size_t i = 0; i < items.size(); ++i) {
    const ChoiceItem& item = items[i];
    const Choices chosen = choose(item, &sums[at], &sums[choices + at]);
    hits[0] += chosen.plain == item.answer;
    hits[1] += chosen.by_bytes == item.answer;
    hits[2] += chosen.by_characters == item.answer;
    hits[3] += chosen.by_answer == item.answer;
    Record row{{"item", static_cast<int64_t>(i)},
               {"answer", item.answer},
               {"chosen", chosen.plain},
               {"chosen_norm", chosen.by_bytes}};
    for (size_t c = 0; c < item.continuations.size(); ++c) row.set(cat("log_p_", c), sums[at + c]);
    out.rows.push_back(std::move(row));
    at += item.continuations.size();
  }
  const int64_t n = static_cast<int64_t>(items.size());
  Record total{{"items", n}};
  add_accuracy(total, "acc", hits[0], n);
  add_accuracy(total, "acc_norm", hits[1], n);
  add_accuracy(total, "acc_char", hits[2], n);
  add_accuracy(total, "acc_answer", hits[3], n);
  out.totals.push_back(std::move(total));
  return out;
}

}  // namespace rw
