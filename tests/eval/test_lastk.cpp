#include <doctest/doctest.h>

#include <cmath>

#include "eval/lastk.h"
#include "support.h"
#include "toy.h"

using namespace rw;
using test::ToyScorer;

namespace {

/// Loss of every token: ln 8 with fewer than `enough` tokens before it, ln 2 with more.
ToyScorer context_counter(size_t enough) {
  return ToyScorer([enough](std::span<const int32_t> context) {
    const double p = context.size() >= enough ? 0.5 : 0.125;
    return std::vector<double>{(1 - p) / 3, p, (1 - p) / 3, (1 - p) / 3};
  });
}

TokenCorpus ones(const std::vector<size_t>& lengths) {
  std::vector<std::string> names;
  std::vector<std::vector<int32_t>> documents;
  for (size_t n : lengths) {
    names.push_back("d" + std::to_string(n));
    documents.emplace_back(n, 1);
  }
  return TokenCorpus(names, documents, 4);
}

}  // namespace

TEST_CASE("The same last tokens are scored under every context, and differences are paired") {
  ToyScorer scorer = context_counter(10);
  const LastKOptions options{.contexts = {16, 8}, .last = 4, .targets = 3, .bos = 0};
  const LastKResult result = evaluate_last_k(scorer, ones({40, 15, 20}), options);
  REQUIRE(result.points.size() == 2);
  CHECK(result.points[0].context == 8);
  CHECK(result.points[0].documents == 2);  // the one of 15 tokens is too short
  CHECK(result.points[0].tokens == 24);
  CHECK(result.points[0].nll == doctest::Approx(std::log(8.0)));  // contexts of 4 .. 7 tokens
  CHECK(result.points[1].nll == doctest::Approx(std::log(2.0)));  // 12 .. 15
  CHECK(result.points[1].difference == doctest::Approx(std::log(0.25)));
  CHECK(result.points[1].difference_high < 0);
  CHECK(result.points[0].difference == 0);
  for (const ScoreWindow& w : scorer.asked) CHECK(w.ids.size() - static_cast<size_t>(w.first) == 4);
  CHECK(to_eval_result(result, options).totals[1].integer("context") == 16);
}

TEST_CASE("Targets are spread from the first full context to the document's end") {
  // Tokens are their own index, so that windows show where they were cut.
  std::vector<int32_t> count(31);
  for (size_t i = 0; i < count.size(); ++i) count[i] = static_cast<int32_t>(i);
  ToyScorer scorer([](std::span<const int32_t>) { return std::vector<double>(31, 1.0 / 31); });
  evaluate_last_k(scorer, TokenCorpus({"d"}, {count}, 31), {.contexts = {5, 11}, .last = 2, .targets = 3});
  REQUIRE(scorer.asked.size() == 6);
  CHECK(scorer.asked[0].ids.back() == 10);
  CHECK(scorer.asked[1].ids.back() == 20);
  CHECK(scorer.asked[2].ids.back() == 30);
  CHECK(scorer.asked[2].ids.front() == 26);
  CHECK(scorer.asked[5].ids.front() == 20);
}

TEST_CASE("Bins average the loss by token index over documents") {
  ToyScorer scorer = context_counter(8);
  const auto bins = evaluate_bins(scorer, ones({15, 40, 3}), {.window = 16, .bin = 6, .bos = 0});
  REQUIRE(bins.size() == 3);
  CHECK(bins[0].begin == 0);
  CHECK(bins[0].end == 6);
  CHECK(bins[0].tokens == 10);  // index 0 is the BOS
  CHECK(bins[0].nll == doctest::Approx(std::log(8.0)));
  CHECK(bins[1].nll == doctest::Approx((2 * std::log(8.0) + 4 * std::log(2.0)) / 6));
  CHECK(bins[2].end == 16);
  CHECK(bins[2].tokens == 8);
  CHECK(bins[2].nll == doctest::Approx(std::log(2.0)));
}

TEST_CASE("Documents too short for a context are named") {
  ToyScorer scorer = context_counter(8);
  CHECK(test::error_of([&] { evaluate_last_k(scorer, ones({10}), {.contexts = {16}, .last = 4}); }) ==
        "[lastk] no document has 16 tokens; the longest of 1 has 10");
  CHECK(test::error_of([&] { evaluate_last_k(scorer, ones({10}), {.contexts = {8}, .last = 8}); }) ==
        "[lastk] context 8 leaves nothing before the last 8 tokens");
  CHECK(test::error_of([&] { evaluate_bins(scorer, ones({10}), {.window = 12, .bin = 4}); }) ==
        "[bins] no document has 12 tokens; the longest of 1 has 10");
}
