// The cloze set: real continuations, wrong ones from elsewhere, and no word used twice.
#include <doctest/doctest.h>

#include <set>
#include <sstream>

#include "eval/cloze.h"
#include "support.h"
#include "tensor/file.h"

using namespace rw;

namespace {

/// A book whose words are all different: a word says where it stands.
Document book(const std::string& name, int64_t words) {
  Document d{name, ""};
  for (int64_t i = 0; i < words; ++i) d.text += cat(i ? " " : "", name, i);
  return d;
}

std::vector<std::string> words_of(const std::string& text) {
  std::istringstream in(text);
  std::vector<std::string> out;
  for (std::string word; in >> word;) out.push_back(word);
  return out;
}

}  // namespace

TEST_CASE("The answer goes on where the context ends, and no word of a book stands in two items or choices") {
  const std::vector<Document> books = {book("a", 2000), book("b", 3000)};
  const auto items = make_cloze(books, {.items = 40, .context_words = 8, .choice_words = 3, .seed = 3});
  REQUIRE(items.size() == 40);
  std::set<std::string> seen;
  std::set<int64_t> answers;
  for (const ChoiceItem& item : items) {
    const auto context = words_of(item.contexts.at(0));
    REQUIRE(context.size() == 8);
    REQUIRE(item.continuations.size() == 4);
    const std::string name = context[0].substr(0, 1);
    const int64_t last = std::stoll(context.back().substr(1));
    for (size_t c = 0; c < 4; ++c) {
      const auto words = words_of(item.continuations[c]);
      REQUIRE(words.size() == 3);
      CHECK(words[0].substr(0, 1) == name);
      CHECK((std::stoll(words[0].substr(1)) == last + 1) == (static_cast<int64_t>(c) == item.answer));
      for (const std::string& w : words) CHECK(seen.insert(w).second);
    }
    for (const std::string& w : context) CHECK(seen.insert(w).second);
    answers.insert(item.answer);
  }
  CHECK(answers.size() == 4);
}

TEST_CASE("The same seed makes the same set, another seed another one, and the file reads back as it was") {
  const std::vector<Document> books = {book("a", 2000)};
  const ClozeOptions options{.items = 10, .context_words = 8, .choice_words = 3, .seed = 5};
  const std::string text = choices_to_jsonl(make_cloze(books, options));
  CHECK(choices_to_jsonl(make_cloze(books, options)) == text);
  ClozeOptions other = options;
  other.seed = 6;
  CHECK(choices_to_jsonl(make_cloze(books, other)) != text);
  const test::TempDir dir;
  write_file_atomic(dir.path("cloze.jsonl"), text);
  CHECK(choices_to_jsonl(load_choices(dir.path("cloze.jsonl"))) == text);
}

TEST_CASE("Text that is too short is refused, with what it suffices for") {
  const std::vector<Document> books = {book("a", 100)};
  CHECK(test::error_of([&] { make_cloze(books, {.items = 3, .context_words = 8, .choice_words = 2}); }) ==
        "[cloze] the text suffices for 2 items, 3 are asked for");
  CHECK_THROWS_AS(make_cloze(books, {.items = 0}), Error);
  CHECK_THROWS_AS(make_cloze(books, {.items = 1, .choices = 1}), Error);
}
