// Passkey and needle trials: prompts in batches, what counts as found, and the lengths that still work.
#include "eval/passkey.h"

#include <algorithm>
#include <cctype>
#include <cmath>
#include <map>

#include "eval/statistics.h"
#include "tensor/parallel_for.h"

namespace rw {
namespace {

std::vector<PasskeyGroup> make_groups(const PasskeyOptions& options) {
  std::vector<PasskeyGroup> groups;
  for (int64_t length : options.lengths) {
    for (int64_t d : options.distances) {
      if (d <= length) groups.push_back({.length = length, .wanted_distance = d});
    }
    for (double depth : options.depths) groups.push_back({.length = length, .depth = depth});
    if (options.distances.empty() && options.depths.empty()) groups.push_back({.length = length});
  }
  check(!groups.empty(), "passkey", "no length, or no distance within one");
  return groups;
}

/// The first run of digits.
std::string first_number(const std::string& text) {
  const auto digit = [](char c) { return std::isdigit(static_cast<unsigned char>(c)) != 0; };
  const auto begin = std::find_if(text.begin(), text.end(), digit);
  return {begin, std::find_if_not(begin, text.end(), digit)};
}

RetrievalPrompt make_prompt(const RetrievalPrompts& prompts, const PasskeyGroup& group, uint64_t seed, uint64_t index,
                            uint64_t trial) {
  Random random(seed, Purpose::eval, index, trial);
  if (group.wanted_distance >= 0) return prompts.at_distance(group.length, group.wanted_distance, random);
  const double depth = group.depth >= 0 ? group.depth : random.uniform();
  return prompts.at_depth(group.length, depth, random);
}

PasskeyTrial judge(const RetrievalPrompt& prompt, const std::vector<TokenScore>& scores, int64_t group) {
  PasskeyTrial trial{.group = group, .distance = prompt.distance(), .key = prompt.key, .hit = true};
  for (size_t i = 0; i < scores.size(); ++i) {
    trial.hit = trial.hit && scores[i].best == prompt.ids[static_cast<size_t>(prompt.answer_begin) + i];
    trial.margin += scores[i].margin / static_cast<double>(scores.size());
  }
  return trial;
}

/// Generates twice the key's length after each prompt of a group's trials.
void judge_generated(TokenScorer& scorer, const Tokenizer& tokenizer, std::span<const GreedyRequest> requests,
                     std::span<PasskeyTrial> trials, PasskeyGroup& group) {
  const auto made = scorer.greedy_all(requests);
  for (size_t i = 0; i < requests.size(); ++i) {
    trials[i].greedy_hit = first_number(tokenizer.decode(made[i])) == trials[i].key;
    group.greedy_hits += trials[i].greedy_hit;
  }
}

void summarise(PasskeyResult& result) {
  std::map<int64_t, std::pair<int64_t, int64_t>> by_length;  // hits, trials
  std::map<int64_t, double> worst_depth;
  int64_t longest = 0;
  for (const PasskeyGroup& g : result.groups) {
    by_length[g.length].first += g.hits;
    by_length[g.length].second += g.trials;
    longest = std::max(longest, g.length);
    if (g.depth < 0) continue;
    const auto [it, fresh] = worst_depth.try_emplace(g.length, g.accuracy());
    if (!fresh) it->second = std::min(it->second, g.accuracy());
  }
  bool unbroken = true;
  for (const auto& [length, counts] : by_length) {
    if (counts.first * 5 >= counts.second * 4) result.longest_80 = length;
    unbroken = unbroken && counts.first * 5 >= counts.second;
    if (unbroken) result.length_20 = length;
  }
  for (const auto& [length, accuracy] : worst_depth) {
    if (accuracy >= 0.8) result.effective_length = length;
  }
  std::map<int64_t, double> by_distance;
  for (const PasskeyGroup& g : result.groups) {
    if (g.length == longest && g.wanted_distance >= 0) by_distance[g.wanted_distance] = g.accuracy();
  }
  for (const auto& [distance, accuracy] : by_distance) {
    if (accuracy < 0.2) break;
    result.k_max = distance;
  }
}

}  // namespace

std::vector<int64_t> distance_grid(int64_t length, int64_t count) {
  std::vector<int64_t> out;
  for (int64_t i = 1; i <= count; ++i) out.push_back(i * length / count);
  return out;
}

PasskeyResult evaluate_passkey(TokenScorer& scorer, const RetrievalPrompts& prompts, const Tokenizer& tokenizer,
                               const PasskeyOptions& options) {
  check(options.trials >= 1, "passkey", "needs at least one trial, got ", options.trials);
  PasskeyResult result;
  result.groups = make_groups(options);
  const int64_t total = static_cast<int64_t>(result.groups.size()) * options.trials;
  int64_t done = 0;
  for (size_t g = 0; g < result.groups.size(); ++g) {
    PasskeyGroup& group = result.groups[g];
    std::vector<GreedyRequest> requests;
    for (int64_t begin = 0; begin < options.trials;) {
      const int64_t end = std::min(options.trials, begin + scorer.windows_per_batch(group.length));
      std::vector<RetrievalPrompt> batch(static_cast<size_t>(end - begin));
      parallel_items(end - begin, [&](int64_t i) {
        batch[static_cast<size_t>(i)] = make_prompt(prompts, group, options.seed, g, static_cast<uint64_t>(begin + i));
      });
      std::vector<ScoreWindow> windows;
      for (const RetrievalPrompt& p : batch) windows.push_back({p.ids, p.answer_begin});
      const auto scores = scorer.score(windows, group.length, /*details=*/true);
      for (size_t i = 0; i < batch.size(); ++i) {
        PasskeyTrial trial = judge(batch[i], scores[i], static_cast<int64_t>(g));
        if (options.greedy) {
          requests.push_back({.prompt = {batch[i].ids.begin(), batch[i].ids.begin() + batch[i].answer_begin},
                              .tokens = 2 * static_cast<int64_t>(batch[i].key.size())});
        }
        group.trials += 1;
        group.hits += trial.hit;
        group.margin += trial.margin / static_cast<double>(options.trials);
        group.distance += static_cast<double>(trial.distance) / static_cast<double>(options.trials);
        result.trials.push_back(std::move(trial));
      }
      begin = end;
      if (options.greedy && (begin == options.trials || std::ssize(requests) >= kPromptsAtOnce)) {
        judge_generated(scorer, tokenizer, requests, std::span(result.trials).last(requests.size()), group);
        requests.clear();
      }
      done += std::ssize(windows);
      if (options.progress) options.progress(done, total);
    }
  }
  summarise(result);
  return result;
}

namespace {

Record counts_of(int64_t trials, int64_t hits, double margin) {
  const Interval interval = wilson_interval(hits, trials);
  return {{"trials", trials},
          {"accuracy", static_cast<double>(hits) / static_cast<double>(trials)},
          {"accuracy_low", interval.low},
          {"accuracy_high", interval.high},
          {"margin", margin}};
}

Record joined(Record a, const Record& b) {
  for (const auto& [name, value] : b.fields()) a.set(name, value);
  return a;
}

/// Uniform depths: accuracy of the trials whose distance lies in (2^(n-1), 2^n].
void add_by_distance(const PasskeyResult& result, EvalResult& out) {
  struct Sum {
    int64_t trials = 0, hits = 0;
    double margin = 0;
  };
  std::map<int64_t, Sum> sums;
  for (const PasskeyTrial& t : result.trials) {
    Sum& sum = sums[int64_t{1} << static_cast<int>(std::ceil(std::log2(static_cast<double>(t.distance))))];
    sum.trials += 1;
    sum.hits += t.hit;
    sum.margin += t.margin;
  }
  for (const auto& [distance, sum] : sums) {
    out.totals.push_back(joined({{"by", std::string("distance")}, {"distance", distance}},
                                counts_of(sum.trials, sum.hits, sum.margin / static_cast<double>(sum.trials))));
  }
}

}  // namespace

EvalResult to_eval_result(const PasskeyResult& result, const PasskeyOptions& options, const std::string& kind) {
  EvalResult out;
  out.kind = kind;
  const bool uniform = options.distances.empty() && options.depths.empty();
  out.protocol = {{"success", std::string("every answer token is the most likely one, teacher-forced")},
                  {"trials", options.trials},
                  {"place", std::string(uniform                  ? "uniform depth"
                                        : options.depths.empty() ? "distance grid"
                                                                 : "depth grid")},
                  {"k_max_20", result.k_max},
                  {"length_20", result.length_20},
                  {"longest_80", result.longest_80},
                  {"effective_length", result.effective_length},
                  {"interval", std::string("95 % Wilson")}};
  for (const PasskeyGroup& g : result.groups) {
    Record record{{"length", g.length}};
    if (uniform) record = {{"by", std::string("length")}, {"length", g.length}};
    if (g.wanted_distance >= 0) record.set("distance", g.wanted_distance);
    if (g.depth >= 0) record.set("depth", g.depth);
    if (g.depth >= 0) record.set("mean_distance", g.distance);
    record = joined(std::move(record), counts_of(g.trials, g.hits, g.margin));
    if (options.greedy)
      record.set("greedy_accuracy", static_cast<double>(g.greedy_hits) / static_cast<double>(g.trials));
    out.totals.push_back(std::move(record));
  }
  if (uniform) add_by_distance(result, out);
  for (const PasskeyTrial& t : result.trials) {
    const PasskeyGroup& g = result.groups[static_cast<size_t>(t.group)];
    Record row{{"length", g.length}, {"distance", t.distance}, {"key", t.key}, {"hit", t.hit}, {"margin", t.margin}};
    if (options.greedy) row.set("greedy_hit", t.greedy_hit);
    out.rows.push_back(std::move(row));
  }
  return out;
}

}  // namespace rw
