// Our RULER prompts beside those of its published generators (tests/hf/ruler_vectors.py): the same wording, the same
// counts, the same score for the published answers. What the two draw differs, so draws are masked.
#include <doctest/doctest.h>

#include <algorithm>
#include <map>
#include <nlohmann/json.hpp>
#include <regex>
#include <set>
#include <sstream>

#include "data/tokenizer.h"
#include "eval/ruler.h"
#include "support.h"
#include "tensor/file.h"

using namespace rw;

namespace {

struct Published {
  std::string text;
  std::vector<std::string> answers;
  int64_t length;
};

const nlohmann::json& file() {
  static const auto json = nlohmann::json::parse(read_file(ROPEWALK_TEST_DATA "/ruler.json"));
  return json;
}

Published published(const std::string& task) {
  const auto& json = file()["tasks"][task];
  return {json["input"].get<std::string>() + json["answer_prefix"].get<std::string>(),
          json["outputs"].get<std::vector<std::string>>(), json["length"].get<int64_t>()};
}

RulerMaterial material() {
  const test::TempDir dir;
  write_file_atomic(dir.path("squad.json"), file()["squad"].dump());
  write_file_atomic(dir.path("hotpotqa.json"), file()["hotpotqa"].dump());
  RulerMaterial out = ruler_material({{"essay", file()["essay"].get<std::string>()}});
  out.squad = load_ruler_questions(dir.path("squad.json"));
  out.hotpotqa = load_ruler_questions(dir.path("hotpotqa.json"));
  return out;
}

RulerPrompt drawn(const std::string& task, int64_t length, int64_t size) {
  const auto bytes = make_byte_tokenizer();
  static const RulerMaterial all = material();
  return draw_ruler_prompt(task, length, size, Random(1, Purpose::test), 0, *bytes, all, {});
}

std::vector<std::string> lines_of(const std::string& text) {
  std::istringstream in(text);
  std::vector<std::string> out;
  for (std::string line; std::getline(in, line);) out.push_back(line);
  return out;
}

std::vector<std::string> words_of(const std::string& text) {
  std::istringstream in(text);
  std::vector<std::string> out;
  for (std::string word; in >> word;) out.push_back(word);
  return out;
}

std::string replaced(std::string text, const char* what, const char* by) {
  return std::regex_replace(text, std::regex(what), by);
}

/// Keys, values and names of variables as letters that say of which sort they are.
std::string masked(std::string text) {
  text = replaced(text, "[0-9a-f]{8}-[0-9a-f]{4}-4[0-9a-f]{3}-[89ab][0-9a-f]{3}-[0-9a-f]{12}", "<uuid>");
  text = replaced(text, "\\b[a-z]+-[a-z]+\\b", "<words>");
  text = replaced(text, "\\b[1-9][0-9]{6}\\b", "<number>");
  text = replaced(text, "VAR [A-Z]{5}\\b", "VAR <five>");
  text = replaced(text, "VAR [A-Z]{3}\\b", "VAR <three>");
  return replaced(text, "\\b[1-9][0-9]{4}\\b", "<value>");
}

std::vector<std::string> sorted(std::vector<std::string> lines) {
  std::sort(lines.begin(), lines.end());
  return lines;
}

size_t count(const std::string& text, const std::string& part) {
  size_t n = 0;
  for (size_t at = text.find(part); at != std::string::npos; at = text.find(part, at + 1)) ++n;
  return n;
}

/// How often each different word stands there, most frequent first.
std::vector<int> frequencies(const std::string& text) {
  std::map<std::string, int> times;
  for (const std::string& w : words_of(text)) {
    if (!std::isdigit(static_cast<unsigned char>(w[0]))) ++times[w];
  }
  std::vector<int> out;
  for (const auto& [word, n] : times) out.push_back(n);
  std::sort(out.rbegin(), out.rend());
  return out;
}

std::string between(const std::string& text, const std::string& from, const std::string& to, bool last = true) {
  const size_t begin = (last ? text.rfind(from) : text.find(from)) + from.size();
  return text.substr(begin, text.find(to, begin) - begin);
}

const std::string kNoise = "The grass is green. The sky is blue. The sun is yellow. Here we go. There and back again.";

}  // namespace

TEST_CASE("Needles among lines are those of the published generators: the same lines for the same size") {
  for (const std::string task : {"niah_single_1", "niah_multikey_2", "niah_multikey_3"}) {
    CAPTURE(task);
    const Published p = published(task);
    const int64_t lines = static_cast<int64_t>(lines_of(p.text).size()) - 2 - 1;  // intro and question; the needle
    const RulerPrompt ours = drawn(task, p.length, lines);
    CHECK(sorted(lines_of(masked(ours.text))) == sorted(lines_of(masked(p.text))));
    CHECK(lines_of(masked(ours.text)).front() == lines_of(masked(p.text)).front());
    CHECK(lines_of(masked(ours.text)).back() == lines_of(masked(p.text)).back());
    CHECK(ours.answers.size() == p.answers.size());
  }
}

TEST_CASE("Needles in text are those of the published generators: intro, needles, question, words between them") {
  for (const std::string task :
       {"niah_single_2", "niah_single_3", "niah_multikey_1", "niah_multivalue", "niah_multiquery"}) {
    CAPTURE(task);
    const Published p = published(task);
    const std::string needle = "One of the special magic [a-z]+ for [a-z<>]+ is: [a-z<>]+\\.";
    const auto parts = [&](const std::string& text) {
      const std::vector<std::string> lines = lines_of(masked(text));
      REQUIRE(lines.size() == 3);
      std::vector<std::string> found;
      const std::regex pattern(needle);
      for (auto it = std::sregex_iterator(lines[1].begin(), lines[1].end(), pattern); it != std::sregex_iterator();
           ++it)
        found.push_back(it->str());
      const size_t words = words_of(replaced(lines[1], needle.c_str(), "")).size();
      return std::tuple(lines[0], found, lines[2], words);
    };
    const auto theirs = parts(p.text);
    const RulerPrompt ours = drawn(task, p.length, static_cast<int64_t>(std::get<3>(theirs)));
    CHECK(parts(ours.text) == theirs);
    CHECK(ours.answers.size() == p.answers.size());
  }
}

TEST_CASE("Variable tracking is that of the published generator, the solved example included") {
  const Published p = published("vt");
  const std::string cut = "\n\nMemorize";
  const std::string theirs = masked(p.text.substr(p.text.rfind(cut)));
  const int64_t noise = static_cast<int64_t>(count(theirs, kNoise));
  const RulerPrompt ours = drawn("vt", p.length, noise);
  CHECK(sorted(lines_of(masked(ours.text.substr(ours.text.rfind(cut))))) == sorted(lines_of(theirs)));
  // The example's length follows the tokenizer, and its answers are names of three letters.
  const auto example = [&](const std::string& text) {
    std::string out = replaced(masked(text.substr(0, text.rfind(cut))), "\\b[A-Z]{3}( |$)", "<three> ");
    out = replaced(out, "VAR <three> = VAR <three> ", "VAR <three> = VAR <three>");
    std::set<std::string> different;
    for (const std::string& line : lines_of(replaced(out, " +", " "))) different.insert(line);
    return different;
  };
  CHECK(example(ours.text) == example(p.text));
  CHECK(ours.answers.size() == p.answers.size());
}

TEST_CASE("Common and frequent words stand as often as in the published generators") {
  const Published cwe = published("cwe");
  const std::string from = "appear most often.\n", to = "\nQuestion";
  const std::vector<int> theirs = frequencies(between(cwe.text, from, to));
  const RulerPrompt ours = drawn("cwe", cwe.length, static_cast<int64_t>(theirs.size()));
  CHECK(frequencies(between(ours.text, from, to)) == theirs);
  CHECK(frequencies(between(ours.text, from, to, false)) == frequencies(between(cwe.text, from, to, false)));
  const auto frame = [](const std::string& text) {  // without the numbered words
    std::string out;
    for (const std::string& line : lines_of(text)) {
      bool after_number = false;
      for (const std::string& w : words_of(line)) {
        const bool number = std::isdigit(static_cast<unsigned char>(w[0])) && w.back() == '.';
        if (!number && !after_number) out += w + " ";
        after_number = number;
      }
      out += "\n";
    }
    return out;
  };
  CHECK(frame(ours.text) == frame(cwe.text));

  const Published fwe = published("fwe");
  const std::string begin = "coded words. ";
  const std::vector<int> counts = frequencies(between(fwe.text, begin, to));
  // The most frequent one stands there floor(N / zeta(2)) times, which leaves one or two N.
  bool found = false;
  for (int64_t n = counts[0]; n <= 2 * counts[0] && !found; ++n) {
    if (static_cast<int>(static_cast<double>(n) / 1.6449340668482264) != counts[0]) continue;
    const RulerPrompt same = drawn("fwe", fwe.length, n);
    found = frequencies(between(same.text, begin, to)) == counts;
    if (!found) continue;
    const auto without = [&](const std::string& text) {
      const std::string list = between(text, begin, to);
      return text.substr(0, text.find(list)) + text.substr(text.find(list) + list.size());
    };
    CHECK(without(same.text) == without(fwe.text));
    CHECK(same.answers.size() == fwe.answers.size());
  }
  CHECK(found);
}

TEST_CASE("Questions stand after the same documents as in the published generator, repeated where there are too few") {
  for (const std::string task : {"qa_1", "qa_2"}) {
    CAPTURE(task);
    const Published p = published(task);
    const auto parts = [](const std::string& text) {
      const std::string documents = between(text, "following are given documents.\n\n", "\n\nAnswer the");
      std::vector<std::string> out;
      for (const std::string& line : lines_of(documents)) {
        if (!line.empty()) out.push_back(line);
      }
      const size_t at = text.find(documents);
      out = sorted(std::move(out));
      out.push_back(text.substr(0, at) + text.substr(at + documents.size()));
      return out;
    };
    const RulerPrompt ours = drawn(task, p.length, static_cast<int64_t>(count(p.text, "Document ")));
    CHECK(parts(ours.text) == parts(p.text));
    CHECK(ours.answers == p.answers);
  }
}

TEST_CASE("Published prompts are read as they are, and the published answers score 100 %") {
  const test::TempDir dir;
  for (const std::string& task : ruler_tasks()) {
    CAPTURE(task);
    write_file_atomic(dir.path("v.jsonl"), file()["tasks"][task].dump() + "\n");
    const std::vector<RulerPrompt> prompts = load_ruler(dir.path("v.jsonl"), task);
    const Published p = published(task);
    REQUIRE(prompts.size() == 1);
    CHECK(prompts[0].text == p.text);
    std::string said;
    for (const std::string& a : p.answers) said += a + ", ";
    CHECK(ruler_score(task, said, prompts[0].answers) == 1);
    CHECK(ruler_score(task, "nothing", prompts[0].answers) == 0);
    CHECK(count(p.text, p.answers[0]) >= 1);
  }
}
