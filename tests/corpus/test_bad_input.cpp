// Everything that can be wrong with the files and numbers a user brings: the error
// says which, where and what was expected.
#include <doctest/doctest.h>
#include <unistd.h>

#include <cstring>
#include <filesystem>

#include "data/batch.h"
#include "data/bpe_train.h"
#include "data/demo_corpus.h"
#include "data/sentencepiece.h"
#include "support.h"
#include "tensor/file.h"
#include "tensor/random.h"

using namespace rw;

namespace {

bool has(const std::string& message, const std::string& part) {
  const bool found = message.find(part) != std::string::npos;
  if (!found) MESSAGE("the error was: ", message);
  return found;
}

std::string small(const std::string& name) { return test::data_dir() + "/tokenizers/" + name; }

/// The error of loading a tokenizer from these bytes.
std::string load_error(const std::string& name, const std::string& bytes) {
  test::TempDir folder;
  write_file_atomic(folder.path(name), bytes);
  return test::error_of([&] { load_tokenizer(folder.path(name)); });
}

/// A tokenizer.json of bytes, with one text replaced by another.
std::string edited_json(const std::string& from, const std::string& to) {
  std::string json = dynamic_cast<const ByteBpe&>(*make_byte_tokenizer()).to_json();
  const size_t at = json.find(from);
  REQUIRE(at != std::string::npos);
  return json.replace(at, from.size(), to);
}

}  // namespace

TEST_CASE("A missing tokenizer is named") {
  CHECK(has(test::error_of([] { load_tokenizer("/no/such/file.json"); }), "/no/such/file.json"));
  test::TempDir folder;
  CHECK(has(test::error_of([&] { load_tokenizer(folder.path()); }), "holds no tokenizer.json"));
  CHECK(has(load_error("tokenizer.txt", "x"), "unknown kind of file"));
  CHECK(has(load_error("tokenizer.json", ""), "is empty"));
}

TEST_CASE("A garbled tokenizer.json says what is wrong and where") {
  const std::string good = edited_json("\"</s>\"", "\"</s>\"");
  CHECK(has(load_error("tokenizer.json", good.substr(0, good.size() / 2)), "not valid JSON"));
  CHECK(has(load_error("tokenizer.json", "[1, 2]"), "neither a tokenizer.json"));
  CHECK(has(load_error("tokenizer.json", edited_json("\"type\": \"BPE\"", "\"type\": \"Unigram\"")), "'Unigram'"));
  CHECK(has(load_error("tokenizer.json", edited_json("\"a\": ", "\"a\": -")), "must be a token id"));
  CHECK(has(load_error("tokenizer.json", edited_json("\"a\": ", "\"a\": 99999999999")), "must be a token id"));
  CHECK(has(load_error("tokenizer.json", edited_json("\"!\": 2", "\"!\": 3")), "both have id 3"));
  CHECK(has(load_error("tokenizer.json", edited_json("\"!\": 2", "\"!!\": 2")), "no token for byte 33"));
  CHECK(has(load_error("tokenizer.json", edited_json("\"!\": 2", "\"\u4F60\": 2")), "not the spelling of bytes"));
  CHECK(has(load_error("tokenizer.json", edited_json("\"merges\": []", "\"merges\": [\"a b\"]")), "makes 'ab'"));
  CHECK(has(load_error("tokenizer.json", edited_json("\"merges\": []", "\"merges\": [\"a bb\"]")), "merges[0]: 'bb'"));
  CHECK(has(load_error("tokenizer.json", edited_json("\"merges\": []", "\"merges\": [\"ab\"]")), "two tokens"));
  CHECK(has(load_error("tokenizer.json", edited_json("\"merges\": []", "\"merges\": [[\"a\"]]")), "two tokens"));
  CHECK(has(load_error("tokenizer.json", edited_json("\"merges\": []", "\"merges\": 5")), "must be a list"));
  CHECK(has(
      load_error("tokenizer.json", edited_json("\"normalizer\": null", "\"normalizer\": {\"type\": \"Lowercase\"}")),
      "normalizer 'Lowercase'"));
  CHECK(has(load_error("tokenizer.json", edited_json("\"type\": \"ByteLevel\"", "\"type\": \"Bert\"")), "Bert"));
  CHECK(has(load_error("tokenizer.json", edited_json("\"dropout\": null", "\"dropout\": 0.1")), "dropout = 0.1"));
}

TEST_CASE("A tokenizer_config.json with an unknown BOS is refused") {
  test::TempDir folder;
  make_byte_tokenizer()->save(folder.path());
  write_file_atomic(folder.path("tokenizer_config.json"), R"({"bos_token": "<bos>"})");
  CHECK(has(test::error_of([&] { load_tokenizer(folder.path()); }), "'<bos>'"));
}

TEST_CASE("A GPT-2 vocabulary without its merges is refused") {
  CHECK(has(load_error("vocab.json", R"({"a": 0})"), "merges.txt"));
  test::TempDir folder;
  write_file_atomic(folder.path("vocab.json"), R"({"a": 0, "b": 1})");
  write_file_atomic(folder.path("merges.txt"), "#version: 0.2\na c\n");
  const std::string message = test::error_of([&] { load_tokenizer(folder.path()); });
  CHECK(has(message, "merges.txt line 2"));
  CHECK(has(message, "'c'"));
}

TEST_CASE("Every truncation of a binary tokenizer is an error or a shorter vocabulary, never a crash") {
  for (const char* name : {"tok512.bin", "tok512.model"}) {
    const std::string bytes = read_file(small(name));
    for (size_t n = 0; n < bytes.size(); n += n < 64 || n + 64 > bytes.size() ? 1 : 37) {
      try {
        const std::string_view part = std::string_view(bytes).substr(0, n);
        const bool bin = std::string_view(name).ends_with(".bin");
        SentencePieceBpe tokenizer(bin ? parse_llama2c_tokenizer(part, name) : parse_sentencepiece(part, name));
        CHECK(tokenizer.vocab_size() <= 512);
      } catch (const Error& error) {
        CHECK(std::strlen(error.what()) > 20);
      }
    }
    CHECK(has(load_error(name, bytes.substr(0, bytes.size() / 3)), "truncated"));
  }
}

TEST_CASE("Garbled binary tokenizers never crash") {
  for (const char* name : {"tok512.bin", "tok512.model"}) {
    const std::string good = read_file(small(name));
    Random random(1, Purpose::test);
    for (int round = 0; round < 300; ++round) {
      std::string bytes = good;
      for (int k = 0; k < 4; ++k)
        bytes[static_cast<size_t>(random.below(static_cast<int64_t>(bytes.size())))] =
            static_cast<char>(random.below(256));
      try {
        const bool bin = std::string_view(name).ends_with(".bin");
        SentencePieceBpe tokenizer(bin ? parse_llama2c_tokenizer(bytes, name) : parse_sentencepiece(bytes, name));
        tokenizer.decode(tokenizer.encode("Once upon a time\n\xFF"));
      } catch (const Error&) {  // the only thing that may come out
      }
    }
  }
  CHECK(has(load_error("x.model", "this is no protobuf"), "x.model"));
  CHECK(has(load_error("x.bin", std::string("\xFF\xFF\xFF\xFF rest", 9)), "not a llama2.c tokenizer"));
}

TEST_CASE("SentencePiece kinds that are not supported are named") {
  SentencePieceParts parts = parse_sentencepiece(read_file(small("tok512.model")), "m");
  std::string bytes = serialize_sentencepiece(parts);
  const size_t type = bytes.rfind(std::string("\x18\x02\x20", 3));  // model_type = 2, before vocab_size
  REQUIRE(type != std::string::npos);
  bytes[type + 1] = 1;
  CHECK(has(load_error("x.model", bytes), "'unigram'"));
}

TEST_CASE("A file that nests, names or numbers beyond all measure is refused without a matching effort") {
  const std::string deep = std::string(200000, '[') + std::string(200000, ']');
  CHECK(has(load_error("tokenizer.json", deep), "nested deeper"));
  CHECK(has(load_error("tokenizer.json", "{\"model\": {\"vocab\": " + deep + "}}"), "nested deeper"));
  CHECK(has(load_error("tokenizer.json", edited_json("\"a\": ", "\"a\": 999")), "in a vocabulary of"));
  CHECK(has(load_error("tokenizer.json", edited_json("\"id\": 0", "\"id\": 16000000")), "added_tokens[0].id"));
  test::TempDir folder;
  write_file_atomic(folder.path("deep.jsonl"), "{\"text\": \"a\"}\n{\"text\": " + deep + "}\n");
  CHECK(has(test::error_of([&] { load_corpus({folder.path("deep.jsonl")}); }), "nested deeper"));
  SentencePieceParts parts = parse_sentencepiece(read_file(small("tok512.model")), "m");
  parts.pieces.push_back({std::string(1 << 20, 'x'), -1, Piece::Type::normal});
  CHECK(has(load_error("x.model", serialize_sentencepiece(parts)), "more than 1024"));
}

TEST_CASE("Ids outside the vocabulary are named with their position") {
  const auto tokenizer = make_byte_tokenizer();
  const std::vector<int32_t> ids = {5, 6, 258}, negative = {-1};
  const std::string message = test::error_of([&] { tokenizer->decode(ids); });
  CHECK(has(message, "token id 258 at position 2"));
  CHECK(has(message, "vocabulary of 258"));
  CHECK(has(test::error_of([&] { tokenizer->decode(negative); }), "token id -1"));
  CHECK(has(test::error_of([&] { tokenizer->piece(0, 300); }), "300"));
}

TEST_CASE("A corpus that is missing, unreadable, empty or no JSON is named") {
  test::TempDir folder;
  CHECK(has(test::error_of([] { load_corpus({}); }), "no path"));
  CHECK(has(test::error_of([] { load_corpus({"/no/such/books"}); }), "'/no/such/books' does not exist"));
  CHECK(has(test::error_of([&] { load_corpus({folder.path()}); }), "no text in"));
  write_file_atomic(folder.path("empty.txt"), "");
  CHECK(has(test::error_of([&] { load_corpus({folder.path("empty.txt")}); }), "no text in"));
  write_file_atomic(folder.path("bad.jsonl"), "{\"text\": \"fine\"}\n{\"text\": \n");
  CHECK(has(test::error_of([&] { load_corpus({folder.path("bad.jsonl")}); }), "bad.jsonl line 2: not valid JSON"));
  write_file_atomic(folder.path("bad.jsonl"), "{\"text\": 5}\n");
  CHECK(has(test::error_of([&] { load_corpus({folder.path("bad.jsonl")}); }),
            "line 1: expected an object with a string"));
  if (::geteuid() != 0) {  // root reads everything
    write_file_atomic(folder.path("locked.txt"), "secret");
    std::filesystem::permissions(folder.path("locked.txt"), std::filesystem::perms::none);
    CHECK(has(test::error_of([&] { load_corpus({folder.path("locked.txt")}); }), "locked.txt"));
  }
  CHECK(has(test::error_of([] { tokenize_corpus({}, *make_byte_tokenizer()); }), "no documents"));
  CHECK(has(test::error_of([] { tokenize_corpus({{"a", ""}}, *make_byte_tokenizer()); }), "empty"));
}

TEST_CASE("A corpus names an id beyond its vocabulary") {
  CHECK(has(test::error_of([] {
              TokenCorpus({"a", "b"}, {{1, 2}, {3, 10}}, 10);
            }),
            "token 1 of document 'b' is 10, beyond the vocabulary of 10"));
  CHECK(has(test::error_of([] { TokenCorpus({"a"}, {{-1}}, 10); }), "is -1"));
  CHECK(has(test::error_of([] { TokenCorpus({"a"}, {{1}}, 10).packed(10); }), "token 10"));
}

TEST_CASE("Reading outside a document is refused") {
  const TokenCorpus corpus({"a"}, {{1, 2, 3}}, 10);
  std::vector<int32_t> two(2);
  CHECK(has(test::error_of([&] { corpus.read(0, 2, two); }), "tokens [2, 4) of document 'a', which has 3"));
  CHECK(has(test::error_of([&] { corpus.read(0, -1, two); }), "tokens [-1, 1)"));
  CHECK(has(test::error_of([&] { corpus.read(1, 0, two); }), "document 1 of 1"));
  CHECK(has(test::error_of([&] { TokenCorpus().read(0, 0, two); }), "empty corpus"));
}

TEST_CASE("A damaged token file is refused") {
  test::TempDir folder;
  const std::string path = folder.path("c.tokens");
  write_token_file(path, TokenCorpus({"a", "b"}, {{1, 2, 3}, {4, 5}}, 10));
  const std::string good = read_file(path);
  const auto open_error = [&](const std::string& bytes) {
    write_file_atomic(path, bytes);
    return test::error_of([&] { TokenCorpus::open(path); });
  };
  for (size_t n = 0; n < good.size(); ++n) {
    const std::string message = open_error(good.substr(0, n));
    CHECK(has(message, n < 64 ? "not a token file" : "truncated"));
  }
  CHECK(has(open_error(good + "x"), "expected"));
  CHECK(has(open_error("RWTOKENX" + good.substr(8)), "not a token file"));
  for (size_t at = 8; at < good.size() - 10; ++at) {  // header and tables; the last 10 bytes are ids
    std::string bytes = good;
    bytes[at] = static_cast<char>(bytes[at] ^ 0x40);
    CHECK(open_error(bytes).find(path) != std::string::npos);
  }
  std::string bytes = good;
  bytes[good.size() - 4] = 77;  // the first id of document b
  write_file_atomic(path, bytes);
  const TokenCorpus corpus = TokenCorpus::open(path);
  CHECK(corpus.tokens(0) == std::vector<int32_t>{1, 2, 3});
  const std::string message = test::error_of([&] { corpus.tokens(1); });
  CHECK(has(message, "token 0 of document 'b' is 77, beyond the vocabulary of 10"));
  CHECK(has(message, path));
}

TEST_CASE("A token file that cannot be written leaves the old one alone") {
  test::TempDir folder;
  const TokenCorpus corpus({"a"}, {{1}}, 10);
  CHECK(has(test::error_of([&] { write_token_file(folder.path("no/such/c.tokens"), corpus); }), "cannot write"));
  CHECK(has(test::error_of([&] { make_byte_tokenizer()->save(folder.path("nowhere")); }), "cannot write"));
  CHECK(has(test::error_of([&] { write_token_file(folder.path("c"), TokenCorpus()); }), "nothing to write"));
}

TEST_CASE("A corpus shorter than one window says both sizes") {
  const TokenCorpus corpus({"a", "b"}, {{1, 2, 3}, {1, 2, 3, 4, 5}}, 10);
  const std::string message = test::error_of([&] { SampleChooser(corpus, {.window = 5}); });
  CHECK(has(message, "shorter than one window"));
  CHECK(has(message, "need 6"));
  CHECK(has(message, "longest of 2 documents has 5"));
  CHECK(SampleChooser(corpus, {.window = 4}).starts() == 1);
  CHECK(has(test::error_of([&] { SampleChooser(corpus, {.window = 0}); }), "window of 0"));
  CHECK(has(test::error_of([&] { SampleChooser(TokenCorpus(), {.window = 4}); }), "0 documents"));
}

TEST_CASE("Batches refuse spans that do not fit") {
  const TokenCorpus corpus({"a"}, {{1, 2, 3, 4, 5, 6, 7, 8}}, 10);
  const std::vector<Region> where = {{0, 0, 7}, {0, 0, 7}};
  const auto error = [&](std::vector<std::vector<Span>> content, BatchOptions options = {}) {
    return test::error_of([&] { make_batch(corpus, where, content, options); });
  };
  CHECK(has(error({{{0, 4}}}), "2 regions and 1 lists"));
  CHECK(has(error({{{0, 4}}, {{0, 3}}}), "sample 1 has 3 tokens, expected 4"));
  CHECK(has(error({{{0, 4}}, {{4, 4}}}), "sample 1: span [4, 8) outside the 7 tokens"));
  CHECK(has(error({{{0, 4}}, {{-1, 4}}}), "sample 1: span [-1, 3)"));
  CHECK(has(error({{{0, 0}}, {{0, 0}}}), "sample 0"));
  CHECK(has(error({{}, {}}), "sample 0 has 0 tokens"));
  CHECK(has(error({{{0, 4}}, {{0, 4}}}, {.bos = 10}), "BOS 10"));
}

TEST_CASE("BPE training refuses what it cannot do") {
  const std::vector<Document> documents = {{"a", "text"}}, empty = {{"a", ""}};
  CHECK(has(test::error_of([&] { train_bpe(documents, 257); }), "257"));
  CHECK(has(test::error_of([&] { train_bpe(empty, 300); }), "no text"));
  CHECK(has(test::error_of([] { make_demo_corpus(1, 0, 10); }), "0 stories"));
}
