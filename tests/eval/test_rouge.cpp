// ROUGE and Porter's stems against the values of the packages rouge-score and NLTK (tests/hf/rouge_vectors.py).
#include <doctest/doctest.h>

#include <nlohmann/json.hpp>

#include "data/tokenizer.h"
#include "eval/longbench.h"
#include "eval/rouge.h"
#include "support.h"
#include "tensor/file.h"
#include "toy.h"

using namespace rw;

namespace {
nlohmann::json vectors() { return nlohmann::json::parse(read_file(ROPEWALK_TEST_DATA "/rouge.json")); }
}  // namespace

TEST_CASE("ROUGE-1, -2 and -L are those of rouge-score, with stems and without") {
  const auto all = vectors();
  REQUIRE(all["pairs"].size() >= 10);
  for (const auto& pair : all["pairs"]) {
    for (const bool stem : {false, true}) {
      CAPTURE(pair.dump());
      const Rouge r = rouge_scores(pair["prediction"].get<std::string>(), pair["reference"].get<std::string>(), stem);
      const auto& want = pair[stem ? "stemmed" : "plain"];
      CHECK(r.rouge1 == doctest::Approx(want[0].get<double>()).epsilon(1e-12));
      CHECK(r.rouge2 == doctest::Approx(want[1].get<double>()).epsilon(1e-12));
      CHECK(r.rougeL == doctest::Approx(want[2].get<double>()).epsilon(1e-12));
    }
  }
}

TEST_CASE("Every stem is that of NLTK's PorterStemmer") {
  const auto all = vectors();
  REQUIRE(all["stems"].size() >= 300);
  for (const auto& [word, stem] : all["stems"].items()) {
    CAPTURE(word);
    CHECK(porter_stem(word) == stem.get<std::string>());
  }
}

TEST_CASE("Summaries are judged by all three ROUGEs, the best of an item's references by ROUGE-L") {
  const auto bytes = make_byte_tokenizer();
  // Says "ab ab" whatever it is asked: b after a, a space after b, a after anything else.
  test::ToyScorer scorer([&](std::span<const int32_t> ids) {
    std::vector<double> p(260, 0.1 / 259);
    const std::string last = bytes->decode(std::vector<int32_t>{ids.back()});
    p[static_cast<size_t>(bytes->encode(last == "a" ? "b" : last == "b" ? " " : "a")[0])] = 0.9;
    return p;
  });
  const std::vector<LongBenchItem> items = {{"text", "sum up?", {"x y", "ab x"}}};
  const EvalResult r =
      evaluate_longbench(scorer, *bytes, items, {.metric = "rouge-score", .window = 100, .max_new = 5});
  CHECK(r.rows[0].text("answer") == "ab ab");
  const Record& t = r.totals[0];
  CHECK(t.number("rouge1") == doctest::Approx(0.5));
  CHECK(t.number("rouge2") == 0);
  CHECK(t.number("rougeL") == doctest::Approx(0.5));
  CHECK(t.number("score") == t.number("rougeL"));
  CHECK_THROWS_AS(evaluate_longbench(scorer, *bytes, items, {.metric = "f1", .stem = true}), Error);
}
