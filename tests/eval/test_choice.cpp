// Multiple choice: contexts and continuations as tokens, the four ways to choose, and the published files.
#include <doctest/doctest.h>

#include <cmath>

#include "data/tokenizer.h"
#include "eval/choice.h"
#include "support.h"
#include "tensor/file.h"
#include "toy.h"

using namespace rw;

namespace {

/// Over bytes: the letter that it likes best has half of the probability, wherever it stands.
test::ToyScorer likes(int32_t letter) {
  return test::ToyScorer([letter](std::span<const int32_t>) {
    std::vector<double> p(260, 0.5 / 259);
    p[static_cast<size_t>(letter)] = 0.5;
    return p;
  });
}

std::vector<ChoiceItem> read(const std::string& text, const std::string& task = "auto") {
  const test::TempDir dir;
  write_file_atomic(dir.path("items.jsonl"), text);
  return load_choices(dir.path("items.jsonl"), task);
}

}  // namespace

TEST_CASE("A continuation's tokens are those of the joined text after the context's, spaces included") {
  const auto bytes = make_byte_tokenizer();
  const ScoreWindow plain = encode_pair(*bytes, "ab", " c", std::nullopt, 100);
  CHECK(plain.ids == bytes->encode("ab c"));
  CHECK(plain.first == 2);
  const ScoreWindow spaced = encode_pair(*bytes, "ab  ", "c", bytes->bos_id(), 100);
  CHECK(spaced.ids == bytes->encode_with_bos("ab  c"));
  CHECK(spaced.first == 3);  // both spaces belong to the continuation
  const ScoreWindow cut = encode_pair(*bytes, "abcdefgh", " xyz", bytes->bos_id(), 6);
  CHECK(cut.ids == bytes->encode("fgh xyz"));  // six to read, the last is only predicted
  CHECK(cut.first == 3);
  CHECK(encode_pair(*bytes, "", "c", bytes->bos_id(), 6).first == 1);
}

TEST_CASE("The right choice is the one with the highest log-probability, by sum, byte, character and answer context") {
  const auto bytes = make_byte_tokenizer();
  const int32_t a = bytes->encode("a")[0];
  const ChoiceItem longer{{"Q:"}, {"b", "aaaa"}, 1};
  test::ToyScorer scorer = likes(a);
  const EvalResult result = evaluate_choice(scorer, *bytes, {longer}, {.bos = bytes->bos_id()});
  const double other = std::log(0.5 / 259), liked = std::log(0.5);
  CHECK(result.rows[0].number("log_p_0") == doctest::Approx(2 * other));
  CHECK(result.rows[0].number("log_p_1") == doctest::Approx(other + 4 * liked));
  const Record& t = result.totals[0];
  CHECK(t.integer("items") == 1);
  CHECK(t.number("acc") == 1);
  CHECK(t.number("acc_norm") == 1);
  CHECK(t.number("acc_answer") == 0);  // the same after any context: the first of equals
  // A long choice of unlikely letters loses by its sum and wins by its bytes.
  const ChoiceItem unlikely{{"Q:"}, {"bbbbbbbb", "b"}, 0};
  const EvalResult by_byte = evaluate_choice(scorer, *bytes, {unlikely}, {});
  CHECK(by_byte.totals[0].number("acc") == 0);
  CHECK(by_byte.totals[0].number("acc_norm") == 1);
  // Two bytes a character: the divisors differ.
  const EvalResult accents = evaluate_choice(scorer, *bytes, {{{"Q:"}, {"éééé", "bbbbb"}, 0}}, {});
  CHECK(accents.totals[0].number("acc_norm") == 1);
  CHECK(accents.totals[0].number("acc_char") == 0);
}

TEST_CASE("Solved examples stand before every question, each with its answer and an empty line") {
  const auto bytes = make_byte_tokenizer();
  test::ToyScorer scorer = likes(0);
  const ChoiceItem item{{"Q: two?\nA:"}, {"x", "y"}, 0}, shot{{"Q: one?\nA:"}, {"no", "yes"}, 1};
  evaluate_choice(scorer, *bytes, {item}, {.window = 1000, .shots = {shot}});
  bool found = false;
  for (const ScoreWindow& w : scorer.asked) found = found || bytes->decode(w.ids) == "Q: one?\nA: yes\n\nQ: two?\nA: y";
  CHECK(found);
}

TEST_CASE("Published files of six tasks are read as lm-evaluation-harness words them") {
  const auto boolq = read(R"({"question":"is it so","title":"t","answer":true,"passage":"It is."})");
  CHECK(boolq[0].contexts[0] == "It is.\nQuestion: is it so?\nAnswer:");
  CHECK(boolq[0].continuations == std::vector<std::string>{"no", "yes"});
  CHECK(boolq[0].answer == 1);
  const auto piqa = read(R"({"goal":"Cut it","sol1":"with a knife","sol2":"with a song","label":0})");
  CHECK(piqa[0].contexts[0] == "Question: Cut it\nAnswer:");
  const auto race =
      read(R"({"article":"A.","questions":["Q1","Q2"],"options":[["a","b"],["c","d"]],"answers":["B","A"],"id":"x"})");
  REQUIRE(race.size() == 2);
  CHECK(race[0].answer == 1);
  CHECK(race[1].contexts[0] == "Article: A.\n\nQuestion: Q2\nAnswer:");
  const auto winogrande =
      read(R"({"sentence":"Ann hid from Sue as _ was shy.","option1":"Ann","option2":"Sue","answer":"1"})");
  CHECK(winogrande[0].contexts == std::vector<std::string>{"Ann hid from Sue as Ann", "Ann hid from Sue as Sue"});
  CHECK(winogrande[0].continuations[0] == "was shy.");
  CHECK(winogrande[0].answer == 0);
  const auto arc = read(
      R"({"id":"1","question":{"stem":"Why?","choices":[{"text":"so","label":"A"},{"text":"not","label":"B"}]},"answerKey":"B"})");
  CHECK(arc[0].contexts[0] == "Question: Why?\nAnswer:");
  CHECK(arc[0].answer == 1);
  const auto flat = read(R"({"question":"Why?","choices":{"text":["so","not"],"label":["1","2"]},"answerKey":"1"})");
  CHECK(flat[0].answer == 0);
  const auto hellaswag = read(
      R"({"activity_label":"Baking","ctx_a":"A man [x] bakes. [title] He","ctx_b":"then the MAN","endings":["eats.","[step] runs."],"label":"1"})");
  CHECK(hellaswag[0].contexts[0] == "Baking: A man bakes.. He Then the man");
  CHECK(hellaswag[0].continuations[1] == " runs.");
  CHECK(hellaswag[0].answer == 1);
  const auto own = read(R"({"context":"c","choices":["x","y","z"],"answer":2})");
  CHECK(own[0].answer == 2);
}

TEST_CASE("Lines of another form are refused by number and field") {
  const auto error = [](const std::string& text) { return test::error_of([&] { read(text); }); };
  CHECK(error("{\"context\":\"c\",\"choices\":[\"x\",\"y\"],\"answer\":0}\n{\"context\":\"c\"}")
            .find("line 2: \"choices\"") != std::string::npos);
  CHECK(error(R"({"context":"c","choices":["x","y"],"answer":2})").find("none of the choices") != std::string::npos);
  CHECK(error(R"({"context":"c","choices":["x"],"answer":0})").find("2 to 64") != std::string::npos);
  CHECK(error("[]").find("expected a JSON object") != std::string::npos);
  CHECK(error(R"({"x":1})").find("cannot be told") != std::string::npos);
  CHECK(error("\n").find("no items") != std::string::npos);
}
