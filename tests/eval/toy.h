// Models whose probabilities are known, for tests of the protocols.
#pragma once
#include <algorithm>
#include <cmath>
#include <functional>
#include <utility>
#include <vector>

#include "eval/scorer.h"

namespace test {

/// Distribution of the next token given what stands before it.
using NextToken = std::function<std::vector<double>(std::span<const int32_t> context)>;

/// A TokenScorer over such a distribution; it also records what it was asked.
class ToyScorer : public rw::TokenScorer {
 public:
  explicit ToyScorer(NextToken next) : next_(std::move(next)) {}

  std::vector<std::vector<rw::TokenScore>> score(std::span<const rw::ScoreWindow> windows, int64_t length,
                                                 bool details) override {
    std::vector<std::vector<rw::TokenScore>> out;
    for (const rw::ScoreWindow& w : windows) {
      asked.push_back(w);
      lengths.push_back(length);
      std::vector<rw::TokenScore> scores;
      for (size_t i = static_cast<size_t>(w.first); i < w.ids.size(); ++i) {
        scores.push_back(score_one(std::span(w.ids).subspan(0, i), w.ids[i], details));
      }
      out.push_back(std::move(scores));
    }
    return out;
  }
  std::vector<double> score_in_chunks(std::span<const int32_t> ids, int64_t) override {
    std::vector<double> out;
    for (size_t i = 1; i < ids.size(); ++i) out.push_back(score_one(ids.subspan(0, i), ids[i], false).nll);
    return out;
  }
  std::vector<int32_t> greedy(std::span<const int32_t> prompt, int64_t count, std::span<const int32_t> stop) override {
    std::vector<int32_t> all(prompt.begin(), prompt.end());
    for (int64_t i = 0; i < count; ++i) {
      const std::vector<double> p = next_(all);
      const int32_t best = static_cast<int32_t>(std::max_element(p.begin(), p.end()) - p.begin());
      if (std::find(stop.begin(), stop.end(), best) != stop.end()) break;
      all.push_back(best);
    }
    return {all.begin() + static_cast<std::ptrdiff_t>(prompt.size()), all.end()};
  }
  int64_t windows_per_batch(int64_t) const override { return batch; }
  bool depends_on_length() const override { return length_dependent; }

  int64_t batch = 3;
  bool length_dependent = false;
  std::vector<rw::ScoreWindow> asked;
  std::vector<int64_t> lengths;

 private:
  rw::TokenScore score_one(std::span<const int32_t> context, int32_t token, bool details) const {
    const std::vector<double> p = next_(context);
    const size_t t = static_cast<size_t>(token);
    rw::TokenScore score{.nll = -std::log(p.at(t))};
    if (!details) return score;
    score.best = static_cast<int32_t>(std::max_element(p.begin(), p.end()) - p.begin());
    double other = 0;
    for (size_t v = 0; v < p.size(); ++v) {
      if (v != t) other = std::max(other, p[v]);
    }
    score.margin = std::log(p[t]) - std::log(other);
    return score;
  }

  NextToken next_;
};

}  // namespace test
