// LongPPL: which tokens are key, and the perplexity of those alone.
#include <doctest/doctest.h>

#include <cmath>

#include "eval/longppl.h"
#include "support.h"
#include "toy.h"

using namespace rw;

namespace {

/// Four symbols. A model that knows token 3 well if the context holds at least `needed` tokens, and badly otherwise;
/// the others are equally likely at all times.
test::ToyScorer needs_context(size_t needed) {
  return test::ToyScorer([needed](std::span<const int32_t> context) {
    const double p = context.size() >= needed ? 0.9 : 0.01;
    return std::vector<double>{(1 - p) / 3, (1 - p) / 3, (1 - p) / 3, p};
  });
}

/// Documents of 64 tokens, 0 1 2 0 1 2 ..., with a 3 at these places.
TokenCorpus documents(const std::vector<std::vector<size_t>>& places) {
  std::vector<std::vector<int32_t>> out;
  std::vector<std::string> names;
  for (const auto& at : places) {
    std::vector<int32_t> ids;
    for (int32_t i = 0; i < 64; ++i) ids.push_back(i % 3);
    for (const size_t i : at) ids[i] = 3;
    out.push_back(ids);
    names.push_back("d" + std::to_string(names.size()));
  }
  return {names, out, 4};
}

}  // namespace

TEST_CASE("Key tokens are those that the long context alone makes likely, and LongPPL counts no others") {
  test::ToyScorer scorer = needs_context(32);
  const TokenCorpus corpus = documents({{10, 40, 50}, {60}});
  const EvalResult result = evaluate_long_ppl(scorer, corpus, {.window = 64, .short_window = 16});
  const Record& t = result.totals.at(0);
  CHECK(t.integer("tokens") == 2 * (64 - 16));
  CHECK(t.integer("key_tokens") == 3);  // the 3 at 10 stands in both contexts, and before the judged tokens
  CHECK(t.number("longppl") == doctest::Approx(1 / 0.9));
  CHECK(t.number("longppl_low") == doctest::Approx(1 / 0.9));
  CHECK(result.rows.at(0).integer("key_tokens") == 2);
  const double common = -std::log(0.1 / 3), early = -std::log(0.99 / 3);
  // Judged tokens 16 to 31 see less than 32 tokens in both contexts.
  const double expected = (2 * 16 * early + (2 * 32 - 3) * common - 3 * std::log(0.9)) / (2 * 48);
  CHECK(t.number("ppl") == doctest::Approx(std::exp(expected)));
}

TEST_CASE("Where no token is key LongPPL is not a number, and a short context as long as the window is refused") {
  test::ToyScorer same = needs_context(0);
  const TokenCorpus corpus = documents({{40}});
  const Record none = evaluate_long_ppl(same, corpus, {.window = 64, .short_window = 16}).totals.at(0);
  CHECK(none.integer("key_tokens") == 0);
  CHECK(std::isnan(none.number("longppl")));
  CHECK(none.number("difference") == doctest::Approx(0));
  const auto error = [&](const LongPplOptions& o) {
    return test::error_of([&] { evaluate_long_ppl(same, corpus, o); });
  };
  CHECK(error({.window = 64, .short_window = 64}).find("below the long one of 64") != std::string::npos);
  CHECK(error({.window = 65, .short_window = 16}).find("no document has 65 tokens") != std::string::npos);
}

TEST_CASE("Short contexts hold the short window's tokens at most, and every judged token is scored once in each") {
  test::ToyScorer scorer = needs_context(32);
  evaluate_long_ppl(scorer, documents({{40}}), {.window = 64, .short_window = 16, .bos = 0});
  int64_t scored = 0;
  for (const ScoreWindow& w : scorer.asked) {
    CHECK((w.ids.size() <= 16 || w.ids.size() == 64));
    scored += static_cast<int64_t>(w.ids.size()) - w.first;
  }
  CHECK(scored == 2 * (63 - 15));
}
