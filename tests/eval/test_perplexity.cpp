#include <doctest/doctest.h>

#include <cmath>
#include <numeric>

#include "eval/perplexity.h"
#include "eval/statistics.h"
#include "support.h"
#include "toy.h"

using namespace rw;
using test::ToyScorer;

namespace {

constexpr int32_t kBos = 0;
constexpr int32_t kVocab = 4;

/// p(next token) = 1/2 with at least `enough` tokens of context, 1/8 with less: the loss tells how much context each
/// token had. Token 1 takes the stated probability, the others share the rest.
ToyScorer context_counter(size_t enough) {
  return ToyScorer([enough](std::span<const int32_t> context) {
    const double p = context.size() >= enough ? 0.5 : 0.125;
    return std::vector<double>{(1 - p) / 3, p, (1 - p) / 3, (1 - p) / 3};
  });
}

/// p = {1/8, 1/2, 1/4, 1/8} whatever the context.
ToyScorer fixed_probabilities() {
  return ToyScorer([](std::span<const int32_t>) { return std::vector<double>{0.125, 0.5, 0.25, 0.125}; });
}

TokenCorpus corpus_of(const std::vector<std::vector<int32_t>>& documents) {
  std::vector<std::string> names;
  for (size_t i = 0; i < documents.size(); ++i) names.push_back("d" + std::to_string(i));
  return TokenCorpus(names, documents, kVocab);
}

std::vector<int32_t> ones(size_t n) { return std::vector<int32_t>(n, 1); }

const double kHigh = std::log(8.0), kLow = std::log(2.0);  // loss with too little context, and with enough

}  // namespace

TEST_CASE("A model of fixed probabilities gets its exact perplexity at every window and stride") {
  ToyScorer scorer = fixed_probabilities();
  // Losses in units of ln 2: token 1 -> 1, token 2 -> 2, token 3 -> 3.
  const TokenCorpus corpus = corpus_of({{1, 2, 3, 1, 1, 2, 3, 3, 2, 1, 1}, {2, 2}, {3}});
  const double total = 20 + 4 + 3, tokens = 11 + 2 + 1;
  for (int64_t window : {2, 3, 4, 7, 12, 100}) {
    for (int64_t stride : {int64_t{1}, int64_t{2}, window}) {
      const auto result = evaluate_perplexity(scorer, corpus, {.windows = {window}, .stride = stride, .bos = kBos});
      REQUIRE(result.totals.size() == 1);
      CHECK(result.totals[0].tokens == 14);
      CHECK(result.totals[0].ppl() == doctest::Approx(std::exp2(total / tokens)).epsilon(1e-12));
      CHECK(result.rows[0].nll() == doctest::Approx(20.0 / 11 * std::log(2.0)).epsilon(1e-12));
      CHECK(result.rows[1].tokens == 2);
      CHECK(result.rows[2].nll() == doctest::Approx(3 * std::log(2.0)).epsilon(1e-12));
    }
  }
}

TEST_CASE("Sliding windows score every token once, with at least W - S tokens of context after the first window") {
  for (int64_t n : {1, 2, 6, 7, 8, 9, 20, 21}) {
    for (int64_t window : {2, 3, 8}) {
      for (int64_t stride = 1; stride <= window; ++stride) {
        int64_t next = 0;
        for (const SlidingSpan& s : sliding_spans(n, window, stride, true)) {
          CHECK(s.first == next);
          CHECK(s.end - s.begin + 1 <= window);
          if (s.begin > 0) CHECK(s.first - s.begin + 1 >= window - stride);
          CHECK(s.end > s.first);
          next = s.end;
        }
        CHECK(next == n);
      }
    }
  }
}

TEST_CASE("The first window scores W - 1 tokens, later ones S, the last what is left") {
  const auto spans = sliding_spans(10, 5, 2, true);  // w = 4
  REQUIRE(spans.size() == 4);
  CHECK(spans[0].first == 0);
  CHECK(spans[0].end == 4);
  CHECK(spans[1].begin == 2);
  CHECK(spans[1].first == 4);
  CHECK(spans[1].end == 6);
  CHECK(spans[3].begin == 6);
  CHECK(spans[3].first == 8);
  CHECK(spans[3].end == 10);
  const auto short_last = sliding_spans(9, 5, 2, true);
  CHECK(short_last.back().end - short_last.back().first == 1);
  CHECK(sliding_spans(3, 5, 2, true).size() == 1);  // a document shorter than the window is one pass
}

TEST_CASE("Context is counted as the protocol says: BOS, the window's start, and the overlap") {
  // Enough context is 3 tokens. W = 5 and S = 2: the first window has contexts 1, 2, 3, 4; later ones 3 and 4.
  ToyScorer scorer = context_counter(3);
  auto result = evaluate_perplexity(scorer, corpus_of({ones(10)}), {.windows = {5}, .stride = 2, .bos = kBos});
  CHECK(result.rows[0].tokens == 10);
  CHECK(result.rows[0].nll() == doctest::Approx((2 * kHigh + 8 * kLow) / 10).epsilon(1e-12));
  // S = W: every window of 4 tokens has contexts 1, 2, 3, 4; the last of 2 tokens has 1, 2.
  result = evaluate_perplexity(scorer, corpus_of({ones(10)}), {.windows = {5}, .stride = 5, .bos = kBos});
  CHECK(result.rows[0].nll() == doctest::Approx((6 * kHigh + 4 * kLow) / 10).epsilon(1e-12));
}

TEST_CASE("Without a BOS the window holds W document tokens and the first token is not scored") {
  ToyScorer scorer = context_counter(3);
  const auto result = evaluate_perplexity(scorer, corpus_of({ones(10)}), {.windows = {5}, .stride = 2});
  // First window: contexts 1 .. 4 for x[1] .. x[4]; later ones score 2 with contexts 3 and 4; the last scores x[9].
  CHECK(result.rows[0].tokens == 9);
  CHECK(result.rows[0].nll() == doctest::Approx((2 * kHigh + 7 * kLow) / 9).epsilon(1e-12));
  CHECK(scorer.asked[0].ids.size() == 5);
}

TEST_CASE("Window weighting is the mean over windows of their mean losses, pooled over documents") {
  ToyScorer scorer = context_counter(3);
  const auto result = evaluate_perplexity(scorer, corpus_of({ones(10), ones(2)}),
                                          {.windows = {5}, .stride = 2, .bos = kBos, .weighting = Weighting::window});
  const double first = (2 * kHigh + 2 * kLow) / 4;
  CHECK(result.rows[0].nll() == doctest::Approx((first + 3 * kLow) / 4).epsilon(1e-12));
  CHECK(result.rows[1].nll() == doctest::Approx(kHigh).epsilon(1e-12));
  CHECK(result.totals[0].nll == doctest::Approx((first + 3 * kLow + kHigh) / 5).epsilon(1e-12));
}

TEST_CASE("Truncation scores the first W - 1 tokens in one pass") {
  for (bool length_dependent : {false, true}) {
    ToyScorer scorer = context_counter(3);
    scorer.length_dependent = length_dependent;
    const auto result = evaluate_perplexity(scorer, corpus_of({ones(10), ones(3)}),
                                            {.windows = {5, 9}, .bos = kBos, .mode = PerplexityMode::truncate});
    REQUIRE(result.rows.size() == 4);
    CHECK(result.rows[0].tokens == 4);
    CHECK(result.rows[0].nll() == doctest::Approx((2 * kHigh + 2 * kLow) / 4).epsilon(1e-12));
    CHECK(result.rows[1].tokens == 3);
    CHECK(result.rows[2].tokens == 8);
    CHECK(result.rows[2].nll() == doctest::Approx((2 * kHigh + 6 * kLow) / 8).epsilon(1e-12));
    // Under fixed frequencies the shorter window is a prefix of the longer one: a single pass serves both.
    CHECK(scorer.asked.size() == (length_dependent ? 4 : 2));
  }
}

TEST_CASE("Chunked evaluation skips the first token of every chunk and weighs a chunk by its length") {
  ToyScorer scorer = context_counter(5);
  // [BOS] + 9 tokens, chunks of 4: targets have contexts {1,2,3}, {5,6,7}, {9}; chunk lengths 4, 4, 2.
  const auto result = evaluate_perplexity(scorer, corpus_of({ones(20)}),
                                          {.windows = {10}, .bos = kBos, .mode = PerplexityMode::chunked, .chunk = 4});
  CHECK(result.rows[0].tokens == 7);
  CHECK(result.rows[0].nll() == doctest::Approx((4 * kHigh + 4 * kLow + 2 * kLow) / 10).epsilon(1e-12));
}

TEST_CASE("Length-dependent scales come from the window, in short last windows too") {
  ToyScorer scorer = fixed_probabilities();
  evaluate_perplexity(scorer, corpus_of({ones(10), ones(2)}), {.windows = {6, 8}, .bos = kBos});
  CHECK(scorer.lengths.front() == 6);
  CHECK(scorer.lengths.back() == 8);
  for (int64_t length : scorer.lengths) CHECK((length == 6 || length == 8));

  scorer.lengths.clear();
  const PerplexityResult longer =
      evaluate_perplexity(scorer, corpus_of({ones(10)}), {.windows = {6, 8}, .as_length = 32, .bos = kBos});
  for (int64_t length : scorer.lengths) CHECK(length == 32);
  CHECK(scorer.lengths.size() > 1);
  CHECK(longer.rows[0].window == 6);
}

TEST_CASE("max_tokens, min_tokens and documents choose what is read") {
  ToyScorer scorer = fixed_probabilities();
  const TokenCorpus corpus = corpus_of({ones(3), ones(10), ones(12), ones(11)});
  const auto result = evaluate_perplexity(
      scorer, corpus, {.windows = {4}, .max_tokens = 9, .min_tokens = 9, .documents = 2, .bos = kBos});
  REQUIRE(result.rows.size() == 2);
  CHECK(result.rows[0].document == "d1");
  CHECK(result.rows[1].document == "d2");
  CHECK(result.totals[0].tokens == 18);
}

TEST_CASE("Bits per byte divide all nats by the bytes of the scored text") {
  ToyScorer scorer = fixed_probabilities();
  const auto result = evaluate_perplexity(scorer, corpus_of({{1, 2, 3}, {1, 1, 1}}),
                                          {.windows = {4}, .bos = kBos, .byte_count = [](std::span<const int32_t> ids) {
                                             return 2 * static_cast<int64_t>(ids.size());
                                           }});
  CHECK(result.totals[0].bits_per_byte == doctest::Approx(9.0 / 12).epsilon(1e-12));
}

TEST_CASE("Bootstrap intervals repeat, contain the mean and vanish for equal documents") {
  const std::vector<double> nll = {10, 22, 28, 44}, tokens = {10, 10, 10, 20};
  const Interval a = bootstrap_ratio(nll, tokens, 7), b = bootstrap_ratio(nll, tokens, 7);
  CHECK(a.low == b.low);
  CHECK(a.high == b.high);
  CHECK(a.low < 104.0 / 50);
  CHECK(a.high > 104.0 / 50);
  CHECK(a.low >= 1.0);
  CHECK(a.high <= 2.8);
  const Interval equal = bootstrap_mean(std::vector<double>{3, 3, 3}, 1);
  CHECK(equal.low == doctest::Approx(3));
  CHECK(equal.high == doctest::Approx(3));
}

TEST_CASE("The bootstrap covers the true mean about 95 % of the time") {
  int covered = 0;
  for (uint64_t trial = 0; trial < 200; ++trial) {
    Random random(trial, Purpose::test);
    std::vector<double> values;
    for (int i = 0; i < 40; ++i) values.push_back(1.0 + random.normal());
    const Interval interval = bootstrap_mean(values, trial, 500);
    covered += interval.low <= 1.0 && 1.0 <= interval.high;
  }
  CHECK(covered >= 176);  // 95 % of 200 minus more than four standard deviations
  CHECK(covered <= 199);
}

TEST_CASE("Wilson intervals are those of the textbook, and end at 0 and 1") {
  const Interval middle = wilson_interval(16, 20);  // Brown, Cai and DasGupta's formula by hand
  CHECK(middle.low == doctest::Approx(0.58398).epsilon(1e-4));
  CHECK(middle.high == doctest::Approx(0.91933).epsilon(1e-4));
  CHECK(wilson_interval(0, 10).low == 0);
  CHECK(wilson_interval(0, 10).high == doctest::Approx(0.27753).epsilon(1e-4));
  CHECK(wilson_interval(10, 10).high == 1);
}

TEST_CASE("A perplexity that cannot be computed says why") {
  ToyScorer scorer = fixed_probabilities();
  const TokenCorpus corpus = corpus_of({ones(5)});
  const auto message = [&](PerplexityOptions options) {
    return test::error_of([&] { evaluate_perplexity(scorer, corpus, options); });
  };
  CHECK(message({.windows = {1}}) == "[perplexity] a window needs at least 2 tokens, got 1");
  CHECK(message({.windows = {8}, .stride = 9}) == "[perplexity] stride must be in [1, 8] for window 8, got 9");
  CHECK(message({.windows = {8}, .min_tokens = 6}) == "[perplexity] no document has 6 tokens; the longest of 1 has 5");
  CHECK(message({.windows = {4, 8}, .as_length = 7}) ==
        "[perplexity] as_length must be 0 or at least the window 8, got 7");
  CHECK(message({.windows = {4}, .as_length = 8, .mode = PerplexityMode::chunked}).find("in chunks") !=
        std::string::npos);
  ToyScorer broken([](std::span<const int32_t>) { return std::vector<double>(kVocab, std::nan("")); });
  CHECK(test::error_of([&] { evaluate_perplexity(broken, corpus, {.windows = {8}}); }) ==
        "[perplexity] the model gives NaN on document d0 at window 8");
}

TEST_CASE("Perplexity results survive JSON and give CSV and a text table") {
  ToyScorer scorer = fixed_probabilities();
  const PerplexityOptions options{.windows = {4, 8}, .bos = kBos};
  const EvalResult result =
      to_eval_result(evaluate_perplexity(scorer, corpus_of({{1, 2, 3}, {1, 1}}), options), options);
  const EvalResult back = eval_result_from_json(to_json(result), "result");
  CHECK(back.kind == "ppl");
  CHECK(back.protocol.text("weighting") == "token");
  REQUIRE(back.rows.size() == 4);
  CHECK(back.rows[0].text("document") == "d0");
  CHECK(back.rows[0].integer("window") == 4);
  CHECK(back.rows[0].number("nll") == result.rows[0].number("nll"));
  CHECK(back.totals[1].number("ppl") == result.totals[1].number("ppl"));
  CHECK(to_csv(result.rows).starts_with("document,window,stride,tokens,nll,ppl\nd0,4,1,3,"));
  CHECK(
      to_text_table({{{"name", std::string("a")}, {"ppl", 1234567.0}}, {{"name", std::string("bcd")}, {"ppl", 2.5}}}) ==
      "name      ppl\na     1234567\nbcd       2.5\n");
  CHECK(test::error_of([] { eval_result_from_json("{", "x.json"); }) == "[eval] x.json: not valid JSON");
  CHECK(test::error_of([] { eval_result_from_json("[]", "x.json"); }) ==
        "[eval] x.json: not a result of `ropewalk eval` (no \"kind\")");
}
