#include <doctest/doctest.h>

#include <algorithm>
#include <cctype>
#include <filesystem>
#include <map>
#include <sstream>

#include "data/bpe_train.h"
#include "data/corpus.h"
#include "data/demo_corpus.h"
#include "support.h"
#include "tensor/file.h"
#include "tensor/threads.h"

using namespace rw;
using Ids = std::vector<int32_t>;

namespace {

TokenCorpus two_documents() { return TokenCorpus({"first", "second"}, {{5, 6, 7}, {8, 9}}, 10); }

/// Runs `f` with that many threads.
template <class F>
auto with_threads(int threads, F f) {
  const int before = thread_count();
  set_thread_count(threads);
  auto result = f();
  set_thread_count(before);
  return result;
}

}  // namespace

TEST_CASE("A corpus is read from files, folders and JSON lines, in the order of the paths") {
  test::TempDir folder;
  std::filesystem::create_directories(folder.path("books/deep"));
  write_file_atomic(folder.path("books/b.txt"), "bee");
  write_file_atomic(folder.path("books/a.txt"), "ay");
  write_file_atomic(folder.path("books/empty.txt"), "");
  write_file_atomic(folder.path("books/notes.md"), "not text of the corpus");
  write_file_atomic(folder.path("books/deep/c.txt"), "sea");
  write_file_atomic(
      folder.path("lines.jsonl"),
      "{\"text\": \"one\", \"id\": 7}\n\n{\"text\": \"two\\nlines\", \"title\": \"T\"}\n{\"text\": \"x\"}");
  const auto documents = load_corpus({folder.path("lines.jsonl"), folder.path("books"), folder.path("books/notes.md")});
  std::vector<std::string> names, texts;
  for (const Document& d : documents) names.push_back(d.name), texts.push_back(d.text);
  CHECK(names == std::vector<std::string>{"7", "T", "lines:4", "a", "b", "deep/c", "notes"});
  CHECK(texts == std::vector<std::string>{"one", "two\nlines", "x", "ay", "bee", "sea", "not text of the corpus"});
}

TEST_CASE("Tokens are the same for one thread and for many, and for a document that is cut into parts") {
  std::vector<Document> documents = make_demo_corpus(3, 4, 3000);
  const auto tokenizer = train_bpe(documents, 400);
  Document large{"large", ""};
  while (large.text.size() < 3'000'000) large.text += documents[large.text.size() % 4].text;
  documents.push_back(large);
  const auto encode = [&] { return tokenize_corpus(documents, *tokenizer); };
  const TokenCorpus one = with_threads(1, encode), many = with_threads(4, encode);
  REQUIRE(one.documents() == 5);
  for (int64_t d = 0; d < 5; ++d) {
    CHECK(one.tokens(d) == many.tokens(d));
    CHECK(one.tokens(d) == tokenizer->encode(documents[d].text));
    CHECK(one.name(d) == documents[d].name);
  }
}

TEST_CASE("Tokenizing reports its progress up to the last byte") {
  int64_t last = 0, total = 0, calls = 0;
  tokenize_corpus({{"a", "hello"}, {"b", "you"}}, *make_byte_tokenizer(), [&](int64_t done, int64_t all) {
    CHECK(done > last);
    last = done, total = all, ++calls;
  });
  CHECK(last == 8);
  CHECK(total == 8);
  CHECK(calls == 2);
}

TEST_CASE("A token file gives back the corpus, with narrow and with wide ids") {
  for (const int32_t vocab : {10, 100'000}) {
    test::TempDir folder;
    TokenCorpus corpus({"first", "", "third"}, {{5, 6, 7}, {}, {8, vocab - 1}}, vocab);
    write_token_file(folder.path("c.tokens"), corpus);
    const TokenCorpus read = TokenCorpus::open(folder.path("c.tokens"));
    CHECK(read.documents() == 3);
    CHECK(read.total_tokens() == 5);
    CHECK(read.vocab_size() == vocab);
    for (int64_t d = 0; d < 3; ++d) {
      CHECK(read.tokens(d) == corpus.tokens(d));
      CHECK(read.name(d) == corpus.name(d));
      CHECK(read.length(d) == corpus.length(d));
    }
    Ids part(1);
    read.read(2, 1, part);
    CHECK(part == Ids{vocab - 1});
  }
}

TEST_CASE("A packed corpus is one stream of documents with BOS and EOS between them") {
  const TokenCorpus plain = two_documents().packed(1), both = two_documents().packed(1, 0);
  CHECK(plain.documents() == 1);
  CHECK(plain.tokens(0) == Ids{5, 6, 7, 1, 8, 9, 1});
  CHECK(both.tokens(0) == Ids{0, 5, 6, 7, 1, 0, 8, 9, 1});
  CHECK(both.total_tokens() == 9);
  const Ids whole = both.tokens(0);
  for (int64_t begin = 0; begin <= 9; ++begin) {  // every piece of the stream
    for (int64_t n = 0; begin + n <= 9; ++n) {
      Ids part(static_cast<size_t>(n));
      both.read(0, begin, part);
      CHECK(part == Ids(whole.begin() + begin, whole.begin() + begin + n));
    }
  }
}

TEST_CASE("A BPE trained twice is the same, with any number of threads") {
  const auto documents = make_demo_corpus(5, 6, 4000);
  const auto train = [&] { return train_bpe(documents, 600)->to_json(); };
  const std::string one = with_threads(1, train);
  CHECK(one == with_threads(3, train));
}

TEST_CASE("A trained BPE has the ids of the bytes first, merges the most frequent pair first, and survives any bytes") {
  const std::vector<Document> documents = {{"d", "aaaa abab abab 12 12 12"}};
  const auto tokenizer = train_bpe(documents, 262);
  CHECK(tokenizer->token(0) == "<s>");
  CHECK(tokenizer->token(1) == "</s>");
  CHECK(tokenizer->token(2) == "!");
  // " abab" twice: ab 4, then (with ab gone) " ab" 2, aa 3, ...; digits never merge
  CHECK(tokenizer->token(258) == "ab");
  for (int32_t id = 258; id < tokenizer->vocab_size(); ++id) CHECK(tokenizer->token(id).find('1') == std::string::npos);
  std::string all;
  for (int b = 0; b < 256; ++b) all.push_back(static_cast<char>(b));
  CHECK(tokenizer->decode(tokenizer->encode(all)) == all);
}

TEST_CASE("A trained BPE that is saved loads to the same ids") {
  const auto documents = make_demo_corpus(5, 6, 4000);
  const auto tokenizer = train_bpe(documents, 600);
  CHECK(tokenizer->vocab_size() == 600);
  test::TempDir folder;
  tokenizer->save(folder.path());
  const auto again = load_tokenizer(folder.path());
  CHECK(again->vocab_size() == 600);
  CHECK(again->bos_id() == 0);
  CHECK(again->eos_id() == 1);
  for (const Document& d : documents) CHECK(again->encode(d.text) == tokenizer->encode(d.text));
  CHECK(again->encode("Unseen: \u4F60 123") == tokenizer->encode("Unseen: \u4F60 123"));
}

TEST_CASE("Training stops early when the text has no more pairs") {
  const std::vector<Document> documents = {{"d", "ab ab"}};
  CHECK(train_bpe(documents, 1000)->vocab_size() == 259);  // "ab"; " ab" is there once only
}

TEST_CASE("Demo stories depend on seed and number alone") {
  const auto few = make_demo_corpus(7, 2, 2000), more = make_demo_corpus(7, 5, 2000),
             other = make_demo_corpus(8, 2, 2000);
  CHECK(few[1].text == more[1].text);
  CHECK(few[0].text != few[1].text);
  CHECK(few[0].text != other[0].text);
  CHECK(few[0].name == "story-0");
  for (const Document& d : more) CHECK(std::abs(static_cast<int64_t>(d.text.size()) - 2000) < 100);
}

TEST_CASE("In a demo story names and keys stay the same, and come up again near and far away") {
  std::map<std::string, std::map<std::string, int>> surnames_of;  // first name -> surnames over all stories
  int64_t near = 0, far = 0, keys = 0;
  for (const Document& story : make_demo_corpus(1, 20, 8000)) {
    std::map<std::string, std::pair<std::string, int64_t>> known;  // first name -> surname, last sentence
    std::map<std::string, std::string> key_of;
    std::string text = story.text;
    std::replace(text.begin(), text.end(), '\n', ' ');
    std::istringstream words(text);
    std::string word, before;
    int64_t sentence = 0;
    while (words >> word) {
      const bool ends = word.back() == '.';
      if (ends) word.pop_back();
      if (!before.empty() && std::isupper(before[0]) && before != "The" && std::isupper(word[0])) {
        if (known.contains(before)) {
          CHECK(known[before].first == word);
          const int64_t age = sentence - known[before].second;
          near += age < 10;             // 60 tokens
          far += age > 21 && age < 85;  // beyond 128 tokens, within 512
        }
        known[before] = {word, sentence};
        ++surnames_of[before][word];
      }
      before = ends ? "" : word;  // a surname and the next sentence's first word are no name
      sentence += ends;
    }
    for (size_t at = text.find("The key of "); at != std::string::npos; at = text.find("The key of ", at + 1)) {
      const std::string name = text.substr(at + 11, text.find(" is ", at) - at - 11);
      const size_t value = text.find(" is ", at) + 4;
      const std::string key = text.substr(value, text.find('.', value) - value);
      CHECK(key_of.emplace(name, key).first->second == key);
      ++keys;
    }
  }
  CHECK(keys > 200);
  CHECK(near > 1000);  // a window of 128 learns to look up
  CHECK(far > 1000);   // and one of 512 gains by it
  CHECK(surnames_of.size() == 40);
  for (const auto& entry : surnames_of)
    CHECK_MESSAGE(entry.second.size() >= 3, entry.first, " is called the same everywhere");
}
