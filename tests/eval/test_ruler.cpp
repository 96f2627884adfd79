// RULER's tasks: their counts and answers, their lengths, their score, and oracles that know or forget.
#include <doctest/doctest.h>

#include <algorithm>
#include <map>
#include <regex>
#include <sstream>

#include "data/tokenizer.h"
#include "eval/ruler.h"
#include "support.h"
#include "tensor/file.h"
#include "toy.h"

using namespace rw;

namespace {

std::vector<std::string> words_of(const std::string& text) {
  std::istringstream in(text);
  std::vector<std::string> out;
  for (std::string word; in >> word;) out.push_back(word);
  return out;
}

RulerMaterial material() {
  std::string text;
  for (int i = 0; i < 400; ++i) text += cat("Once upon day ", i, " a person walked home. ");
  RulerMaterial out = ruler_material({{"book", text}});
  for (int d = 0; d < 30; ++d) out.squad.documents.push_back(cat("Town ", d, " has a river called Stream", d, "."));
  out.hotpotqa.documents = out.squad.documents;
  for (int64_t q = 0; q < 5; ++q) {
    const std::string ask = cat("Which river has town ", q, "?"), answer = cat("Stream", q);
    out.squad.questions.push_back({ask, {answer, "the river"}, {q}, {q + 10, q + 11}});
    out.hotpotqa.questions.push_back({ask, {answer}, {q, q + 1}, {}});
  }
  return out;
}

std::string after_last(const std::string& text, const std::string& mark) {
  return text.substr(text.rfind(mark) + mark.size());
}

/// The most frequent words of those between the last `from` and the last `to`, in order.
std::string most_frequent(const std::string& text, const std::string& from, const std::string& to, size_t count) {
  std::map<std::string, int> times;
  const size_t begin = text.rfind(from), end = text.rfind(to);
  if (begin == std::string::npos || end == std::string::npos || end < begin) return "";
  for (const std::string& w : words_of(text.substr(begin + from.size(), end - begin - from.size()))) {
    if (std::isalpha(static_cast<unsigned char>(w[0]))) ++times[w];
  }
  std::vector<std::pair<int, std::string>> order;
  for (const auto& [w, n] : times) order.emplace_back(-n, w);
  std::sort(order.begin(), order.end());
  std::string out;
  for (size_t i = 0; i < std::min(count, order.size()); ++i) out += order[i].second + " ";
  return out;
}

/// Answers from what it sees, by reading it.
std::string solved(const std::string& text) {
  if (text.find("special magic") != std::string::npos) {
    const std::string asked = after_last(text, " for ");
    std::string out;
    const std::regex fact("for ([0-9a-z-]+) is: ([0-9a-z-]+)\\.");
    for (auto it = std::sregex_iterator(text.begin(), text.end(), fact); it != std::sregex_iterator(); ++it) {
      if (asked.find((*it)[1].str()) != std::string::npos) out += (*it)[2].str() + " ";
    }
    return out;
  }
  if (text.find("variables are assigned the value") != std::string::npos) {
    const std::string value = after_last(text, "are assigned the value ").substr(0, 5);
    std::string out, holder = value;
    const std::regex fact("VAR ([A-Z]+) = (?:VAR )?([A-Z0-9]+)");
    for (auto it = std::sregex_iterator(text.begin(), text.end(), fact); it != std::sregex_iterator(); ++it) {
      if ((*it)[2].str() == holder) out += (holder = (*it)[1].str()) + " ";
    }
    return out;
  }
  if (text.find("most common words") != std::string::npos)
    return most_frequent(text, "appear most often.\n", "\nQuestion:", 10);
  if (text.find("appeared coded words") != std::string::npos)
    return most_frequent(text, "appeared coded words. ", "\nQuestion:", 3);
  return text.substr(0, text.rfind("Question:"));  // questions: says all that it has read
}

/// A scorer that sees the last `window` tokens of a prompt.
class Oracle : public test::ToyScorer {
 public:
  Oracle(const Tokenizer& tokenizer, size_t window)
      : test::ToyScorer([](std::span<const int32_t>) { return std::vector<double>{1}; }),
        tokenizer_(tokenizer),
        window_(window) {}
  std::vector<int32_t> greedy(std::span<const int32_t> prompt, int64_t, std::span<const int32_t>) override {
    const auto seen = prompt.subspan(prompt.size() - std::min(prompt.size(), window_));
    return tokenizer_.encode(solved(tokenizer_.decode(seen)));
  }

 private:
  const Tokenizer& tokenizer_;
  size_t window_;
};

}  // namespace

TEST_CASE("An oracle that reads the whole prompt scores 100 % in all thirteen tasks") {
  const auto bytes = make_byte_tokenizer();
  const RulerMaterial all = material();
  Oracle oracle(*bytes, 1 << 20);
  const EvalResult r =
      evaluate_ruler(oracle, *bytes, all, {.lengths = {4000, 12000}, .trials = 3, .bos = bytes->bos_id()});
  REQUIRE(r.totals.size() == 28);
  for (const Record& t : r.totals) {
    CAPTURE(t.text("task"));
    CAPTURE(t.integer("length"));
    CHECK(t.number("score") == doctest::Approx(1));
  }
  CHECK(r.totals[13].text("task") == "average");
}

TEST_CASE("An oracle with a window finds a needle exactly where the needle lies within it") {
  const auto bytes = make_byte_tokenizer();
  Oracle oracle(*bytes, 2000);
  const EvalResult r =
      evaluate_ruler(oracle, *bytes, material(),
                     {.tasks = {"niah_single_1", "niah_single_2", "niah_multikey_2"}, .lengths = {6000}, .trials = 40});
  int found = 0;
  for (const Record& row : r.rows) {
    const int64_t from_end = row.integer("prompt_tokens") - row.integer("answer_token");
    if (from_end < 1900) CHECK(row.number("score") == 1);
    if (from_end > 2000) CHECK(row.number("score") == 0);
    found += row.number("score") == 1;
  }
  CHECK(found > 120 / 5);
  CHECK(found < 120 / 2);
  const EvalResult counts =
      evaluate_ruler(oracle, *bytes, material(), {.tasks = {"vt"}, .lengths = {9000}, .trials = 5});
  CHECK(counts.totals[0].number("score") < 0.5);  // a chain breaks at the first link that is out of sight
}

TEST_CASE("Prompts fill their length to the last unit, and the answer has room") {
  const auto bytes = make_byte_tokenizer();
  const RulerMaterial all = material();
  for (const std::string& task : ruler_tasks()) {
    CAPTURE(task);
    const RulerPrompt p = make_ruler_prompt(task, 8000, 1, *bytes, all, {.bos = bytes->bos_id()});
    const int64_t tokens = static_cast<int64_t>(bytes->encode(p.text).size()) + 1 + ruler_answer_tokens(task);
    CHECK(tokens <= 8000);
    CHECK(tokens > 8000 - (task == "fwe" ? 2200 : 200));
    CHECK_FALSE(p.answers.empty());
    CHECK(p.text == make_ruler_prompt(task, 8000, 1, *bytes, all, {.bos = bytes->bos_id()}).text);
    RulerOptions other{.bos = bytes->bos_id()};
    other.seed = 43;
    CHECK(p.text != make_ruler_prompt(task, 8000, 1, *bytes, all, other).text);
  }
}

TEST_CASE("The counts are RULER's: needles, hops, common and frequent words") {
  const auto bytes = make_byte_tokenizer();
  const RulerMaterial all = material();
  const auto count = [](const std::string& text, const std::string& what) {
    int n = 0;
    for (size_t at = text.find(what); at != std::string::npos; at = text.find(what, at + 1)) ++n;
    return n;
  };
  const auto drawn = [&](const std::string& task, int64_t length, int64_t size) {
    return draw_ruler_prompt(task, length, size, Random(1, Purpose::test), 0, *bytes, all, {});
  };
  const auto needles = [&](const std::string& task, int64_t size) {
    return count(drawn(task, 4096, size).text, "One of the special magic ");
  };
  CHECK(needles("niah_single_1", 20) == 1);
  CHECK(needles("niah_single_3", 200) == 1);
  CHECK(needles("niah_multikey_1", 200) == 4);
  CHECK(needles("niah_multikey_2", 20) == 21);
  CHECK(needles("niah_multivalue", 200) == 4);
  CHECK(drawn("niah_multivalue", 4096, 200).answers.size() == 4);
  CHECK(drawn("niah_multiquery", 4096, 200).answers.size() == 4);
  CHECK(drawn("niah_single_1", 4096, 20).answers[0].size() == 7);
  CHECK(drawn("niah_multikey_3", 4096, 20).answers[0].size() == 36);
  CHECK(count(drawn("niah_single_1", 4096, 20).text, "The grass is green.") == 20);
  const RulerPrompt vt = drawn("vt", 4096, 30);
  CHECK(vt.answers.size() == 5);
  CHECK(vt.answers[0].size() == 5);
  CHECK(count(vt.text, "VAR ") == 2 * 9);  // the example's and its own: five assignments, four of them from a variable
  CHECK(vt.text.ends_with(" variables are assigned the value " + after_last(vt.text, "the value ")));
  for (const int64_t length : {2048, 4096}) {
    const RulerPrompt cwe = drawn("cwe", length, 50);
    const std::string list = after_last(cwe.text, "appear most often.\n");
    std::map<std::string, int> times;
    for (const std::string& w : words_of(list.substr(0, list.find("\nQuestion")))) ++times[w];
    for (const std::string& a : cwe.answers) CHECK(times[a] == (length < 4096 ? 6 : 30));
    CHECK(cwe.answers.size() == 10);
    int seldom = 0;
    for (const auto& [w, n] : times)
      seldom += std::isalpha(static_cast<unsigned char>(w[0])) && n == (length < 4096 ? 1 : 3);
    CHECK(seldom == 40);
  }
  const RulerPrompt fwe = drawn("fwe", 4096, 1000);  // floor(1000 k^-2 / zeta(2)) for k = 1 .. 4
  CHECK(count(fwe.text, " ... ") + count(fwe.text, ". ... ") >= 1);
  CHECK(count(fwe.text, fwe.answers[0]) == 151);
  CHECK(count(fwe.text, fwe.answers[1]) == 67);
  CHECK(count(fwe.text, fwe.answers[2]) == 37);
  const RulerPrompt qa = drawn("qa_1", 4096, 12);
  CHECK(count(qa.text, "Document ") == 12);
  CHECK(qa.text.find("Stream0.") != std::string::npos);
}

TEST_CASE("The score is the share of answers that are found, case left out, and for questions any of them") {
  CHECK(ruler_score("vt", "AB and ef", {"ab", "CD", "EF", "GH"}) == 0.5);
  CHECK(ruler_score("qa_1", "It is PARIS.", {"Paris", "the capital"}) == 1);
  CHECK(ruler_score("qa_2", "no", {"Paris"}) == 0);
  CHECK_THROWS_AS(ruler_score("vt", "x", {}), Error);
}

TEST_CASE("Missing material, unknown tasks and lengths that are too short are refused by name") {
  const auto bytes = make_byte_tokenizer();
  const auto error = [&](const std::string& task, int64_t length) {
    return test::error_of([&] { make_ruler_prompt(task, length, 0, *bytes, {}, {}); });
  };
  CHECK(error("niah_single_2", 4096) == "[ruler] needles in text need text: name it with --data");
  CHECK(error("qa_1", 4096) == "[ruler] qa_1 needs questions: name SQuAD's file with --squad");
  CHECK(error("sing", 4096).find("[ruler] unknown task 'sing'; known: niah_single_1") == 0);
  CHECK(error("vt", 500).find("--no-shots leaves the solved example out") != std::string::npos);
  CHECK(ruler_tasks_of({}) ==
        std::vector<std::string>{"niah_single_1", "niah_multikey_2", "niah_multikey_3", "vt", "cwe", "fwe"});
}

TEST_CASE("RULER's own files are read: prompts, SQuAD's and HotpotQA's questions") {
  const test::TempDir dir;
  write_file_atomic(dir.path("p.jsonl"),
                    R"({"index":0,"input":"Find X.","outputs":["12"],"length":9,"answer_prefix":" X is"})"
                    "\n");
  const auto prompts = load_ruler(dir.path("p.jsonl"), "niah_single_1");
  REQUIRE(prompts.size() == 1);
  CHECK(prompts[0].text == "Find X. X is");
  CHECK(prompts[0].answers == std::vector<std::string>{"12"});
  CHECK_THROWS_AS(load_ruler(dir.path("p.jsonl"), "sing"), Error);
  write_file_atomic(dir.path("squad.json"), R"({"data":[{"paragraphs":[
      {"context":"B text","qas":[{"question":"b?","is_impossible":false,"answers":[{"text":"B"}]},
                                 {"question":"c?","is_impossible":true,"answers":[]}]},
      {"context":"A text","qas":[]}]}]})");
  const RulerQuestions squad = load_ruler_questions(dir.path("squad.json"));
  CHECK(squad.documents == std::vector<std::string>{"A text", "B text"});
  REQUIRE(squad.questions.size() == 1);
  CHECK(squad.questions[0].documents == std::vector<int64_t>{1});
  CHECK(squad.questions[0].neighbours == std::vector<int64_t>{0});
  write_file_atomic(dir.path("hotpot.json"),
                    R"([{"question":"q?","answer":"yes","context":[["T",["One. ","Two."]],["S",["Three."]]]}])");
  const RulerQuestions hotpot = load_ruler_questions(dir.path("hotpot.json"));
  CHECK(hotpot.documents == std::vector<std::string>{"S\nThree.", "T\nOne. Two."});
  CHECK(hotpot.questions[0].documents == std::vector<int64_t>{1, 0});
  write_file_atomic(dir.path("bad.json"), "{}");
  CHECK_THROWS_AS(load_ruler_questions(dir.path("bad.json")), Error);
}
