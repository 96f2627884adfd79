// Text as people have it is read rightly, or refused by what it is.
#include <doctest/doctest.h>

#include "data/corpus.h"
#include "data/text_file.h"
#include "support.h"
#include "tensor/file.h"

using namespace rw;

namespace {

bool has(const std::string& message, const std::string& part) {
  const bool found = message.find(part) != std::string::npos;
  if (!found) MESSAGE("the error was: ", message);
  return found;
}

/// The documents of a folder with one file.
std::vector<Document> load(const std::string& name, const std::string& bytes) {
  test::TempDir folder;
  write_file_atomic(folder.path(name), bytes);
  return load_corpus({folder.path()});
}

std::string error_of(const std::string& name, const std::string& bytes) {
  test::TempDir folder;
  write_file_atomic(folder.path(name), bytes);
  return test::error_of([&] { load_corpus({folder.path(name)}); });
}

/// gzip of "{\"text\": \"one\"}\n{\"text\": \"two\"}\n".
const std::string kPacked(
    "\x1f\x8b\x08\x00\x00\x00\x00\x00\x02\x03\xab\x56\x2a\x49\xad\x28\x51\xb2\x52\x50\xca\xcf\x4b\x55\xaa\xe5"
    "\xaa\x86\xf3\x4b\xca\xf3\x81\x7c\x00\xd1\x5b\x69\xd5\x20\x00\x00\x00",
    43);

}  // namespace

TEST_CASE("JSON lines are read whatever the case of their name, and from .json as a list or line by line") {
  const std::string lines = "{\"text\": \"one\"}\n{\"text\": \"two\", \"id\": 7}\n";
  for (const char* name : {"a.jsonl", "a.JSONL", "a.ndjson", "a.json"}) {
    const std::vector<Document> documents = load(name, lines);
    REQUIRE(documents.size() == 2);
    CHECK(documents[0].text == "one");
    CHECK(documents[0].name == "a:1");
    CHECK(documents[1].name == "7");
  }
  CHECK(load("a.json", R"([{"text": "one"}, {"text": "two"}])").size() == 2);
  CHECK(load("a.json", "{\n \"text\": \"one\"\n}\n")[0].text == "one");
  CHECK(load("a.TXT", "plain")[0].name == "a");
}

TEST_CASE("JSON that is not marked as such is not trained on in silence") {
  CHECK(has(error_of("a.txt", "{\"text\": \"one\"}\n{\"text\": \"two\"}\n"), "is JSON, not plain text"));
  CHECK(has(error_of("a.txt", "[\n {\"a\": 1},\n {\"a\": 2}\n]"), "is JSON, not plain text"));
  CHECK(has(error_of("a.txt", std::string(100000, '[')), "is JSON, not plain text"));
  CHECK(load("a.txt", "[1] A footnote begins so.\n")[0].text.size() == 26);
  CHECK(load("a.txt", "{braces} begin this\n")[0].text.size() == 20);
  CHECK(has(error_of("a.json", R"({"name": "no text"})"), "expected an object with a string \"text\""));
  CHECK(has(error_of("a.jsonl", R"({"messages": [{"role": "user", "content": "hi"}]})"), "chat template"));
}

TEST_CASE("UTF-16, NUL bytes, archives and git-lfs pointers are named, a UTF-8 mark is left out") {
  CHECK(has(error_of("a.txt", "\xFF\xFEh\0i\0"), "UTF-16"));
  CHECK(has(error_of("a.txt", std::string("\xFE\xFF\0h\0i", 6)), "UTF-16"));
  CHECK(has(error_of("a.txt", std::string("\xFF\xFE\0\0h\0\0\0", 8)), "UTF-32"));
  CHECK(has(error_of("a.txt", std::string("ab\0c", 4)), "byte 2 is NUL"));
  CHECK(has(error_of("a.jsonl", std::string("{\"text\": \"\0\"}", 13)), "is NUL"));
  CHECK(has(error_of("a.zst", "\x28\xB5\x2F\xFDrest"), "zstd"));
  CHECK(has(error_of("a.parquet", "PAR1rest"), "Parquet"));
  CHECK(has(error_of("a.txt", "version https://git-lfs.github.com/spec/v1\n"), "git-lfs"));
  CHECK(load("a.txt", "\xEF\xBB\xBFplain")[0].text == "plain");
}

TEST_CASE("gzip is unpacked, by its bytes and not by its name, and damage is named") {
  test::TempDir folder;
  write_file_atomic(folder.path("a.jsonl.gz"), kPacked);
  std::string message;
  try {
    const std::vector<Document> documents = load_corpus({folder.path()});
    REQUIRE(documents.size() == 2);
    CHECK(documents[1].text == "two");
    CHECK(documents[1].name == "a:2");
    CHECK(has(error_of("a.txt", kPacked), "is JSON, not plain text"));
    CHECK(load("a.jsonl.gz", kPacked + kPacked).size() == 4);
    for (size_t n = 3; n < kPacked.size(); ++n) CHECK(has(error_of("a.jsonl.gz", kPacked.substr(0, n)), "cut off"));
    std::string damaged = kPacked;
    damaged[20] = static_cast<char>(damaged[20] ^ 0x55);
    CHECK(has(error_of("a.jsonl.gz", damaged), "a.jsonl.gz"));
    CHECK(has(error_of("a.jsonl.gz", kPacked + "rest"), "damaged"));
  } catch (const Error& error) {
    message = error.what();
  }
  if (message.empty()) return;
  CHECK(has(message, "built without zlib"));
  MESSAGE("SKIPPED: this build has no zlib");
}

TEST_CASE("Text in another encoding than UTF-8 is refused, a few damaged or cut characters are not") {
  std::string latin1, shift_jis;
  for (int i = 0; i < 100; ++i) latin1 += "caf\xE9 ol\xE9 ", shift_jis += "\x93\xFA\x96\x7B\x8C\xEA";
  CHECK(has(error_of("a.txt", latin1), "is no UTF-8: 200 bytes are not, the first is byte 3"));
  CHECK(has(error_of("a.txt", shift_jis), "is no UTF-8"));
  CHECK(load("a.txt", "na\xC3\xAFve, and cut at \xC3")[0].text.size() == 20);
}
