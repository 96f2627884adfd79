#include <doctest/doctest.h>

#include <filesystem>
#include <map>
#include <nlohmann/json.hpp>

#include "data/bpe_train.h"
#include "data/merge.h"
#include "data/sentencepiece.h"
#include "data/tokenizer.h"
#include "sha256.h"
#include "support.h"
#include "tensor/file.h"
#include "tensor/random.h"

using namespace rw;
using nlohmann::json;
using Ids = std::vector<int32_t>;

namespace {

std::string small(const std::string& name) { return test::data_dir() + "/tokenizers/" + name; }
json read_json(const std::string& path) { return json::parse(read_file(path)); }

std::string random_bytes(uint64_t seed, int n) {
  Random random(seed, Purpose::test);
  std::string bytes;
  for (int i = 0; i < n; ++i) bytes.push_back(static_cast<char>(random.below(256)));
  return bytes;
}

/// Texts that are awkward for one reason or another.
std::vector<std::string> awkward_texts() {
  return {"",
          " ",
          "a",
          "  two  spaces  ",
          "tab\tand\r\nlines\n\n\n",
          "Zo\u00EB \u4F60\u597D \U0001F600\U0001F468\u200D\U0001F469\u200D\U0001F467",
          "don't we'll I'VE 12345 3.14",
          "<s> not a token </s>",
          "cut off \xE4\xBD",
          "\xFF\xFE\x80",
          std::string("zero\0byte", 9),
          std::string(300, 'x'),
          std::string(300, ' '),
          random_bytes(1, 1000)};
}

/// Encodes the vectors of one model and compares ids and text. `bos`: the vectors begin with it.
void check_vectors(const Tokenizer& tokenizer, const std::string& model, bool bos) {
  const json vectors = read_json(small("encode_vectors.json"));
  for (const json& entry : vectors[model]) {
    const std::string text = entry["input"];
    const Ids want = entry["ids"];
    CHECK_MESSAGE((bos ? tokenizer.encode_with_bos(text) : tokenizer.encode(text)) == want, model, ": ", text);
    CHECK_MESSAGE(tokenizer.decode(want) == text, model, ": ", text);
  }
}

}  // namespace

TEST_CASE("Short and long words merge as the definition says: lowest rank first, leftmost among equals") {
  Random random(3, Purpose::test);
  MergeTable merges;
  std::map<std::pair<int32_t, int32_t>, MergeTable::Merge> plain;
  for (int32_t id = 4; id < 60; ++id) {  // some ranks are equal, as scores may be
    const std::pair<int32_t, int32_t> pair(random.below(id), random.below(id));
    const MergeTable::Merge merge{static_cast<int32_t>(random.below(30)), id};
    merges.add(pair.first, pair.second, merge);
    plain.emplace(pair, merge);
  }
  for (int64_t length = 0; length < 200; ++length) {
    Ids symbols;
    for (int64_t i = 0; i < length; ++i) symbols.push_back(static_cast<int32_t>(random.below(4)));
    if (length > 10) symbols[5] = -7;  // merges with nothing
    Ids want = symbols;
    for (;;) {
      size_t best = want.size();
      for (size_t i = 0; i + 1 < want.size(); ++i) {
        const auto here = plain.find({want[i], want[i + 1]});
        if (here == plain.end()) continue;
        if (best == want.size() || here->second.rank < plain.at({want[best], want[best + 1]}).rank) best = i;
      }
      if (best == want.size()) break;
      want[best] = plain.at({want[best], want[best + 1]}).id;
      want.erase(want.begin() + static_cast<std::ptrdiff_t>(best) + 1);
    }
    merge_symbols(merges, symbols);
    CHECK_MESSAGE(symbols == want, "length ", length);
  }
}

TEST_CASE("The byte tokenizer gives one token per byte and survives any bytes") {
  const auto tokenizer = make_byte_tokenizer();
  CHECK(tokenizer->vocab_size() == 258);
  CHECK(tokenizer->bos_id() == 0);
  CHECK(tokenizer->eos_id() == 1);
  for (const std::string& text : awkward_texts()) {
    const Ids ids = tokenizer->encode(text);
    CHECK(ids.size() == text.size());
    CHECK(tokenizer->decode(ids) == text);
  }
  test::TempDir folder;
  tokenizer->save(folder.path());
  const auto again = load_tokenizer(folder.path());
  const std::string bytes = random_bytes(2, 2000);
  CHECK(again->encode(bytes) == tokenizer->encode(bytes));
  CHECK(again->bos_id() == 0);
}

TEST_CASE("The pieces of a sequence concatenate to its text") {
  for (const char* file : {"tok512.bin", "tok512.model", "tok512_hf.json"}) {
    const auto tokenizer = load_tokenizer(small(file));
    const Ids ids = tokenizer->encode_with_bos("Once upon a time, Zo\u00EB saw 12 cats.");
    std::string text;
    int32_t previous = -1;
    for (const int32_t id : ids) {
      text += tokenizer->piece(previous, id);
      previous = id;
    }
    CHECK(text == "Once upon a time, Zo\u00EB saw 12 cats.");
    CHECK(text == tokenizer->decode(ids));
  }
}

TEST_CASE("llama2.c's tokenizer.bin survives any bytes and has the known ids") {
  const auto tokenizer = load_tokenizer(small("tok512.bin"));
  CHECK(tokenizer->vocab_size() == 512);
  CHECK(tokenizer->bos_id() == 1);
  CHECK(tokenizer->eos_id() == 2);
  CHECK(tokenizer->encode_with_bos("Once upon a time") == Ids{1, 403, 407, 261, 378});
  for (const std::string& text : awkward_texts()) CHECK(tokenizer->decode(tokenizer->encode(text)) == text);
}

TEST_CASE("llama2.c's prompt has the tokens that its program printed") {
  const std::string prompt = test::shared_data("llama2c/p1.txt"), tokens = test::shared_data("llama2c/p1.tokens");
  if (prompt.empty() || tokens.empty()) return;
  Ids want;
  std::istringstream list(read_file(tokens));
  for (std::string id; std::getline(list, id, ',');) want.push_back(std::stoi(id));
  std::string text = read_file(prompt);
  while (!text.empty() && text.back() == '\n') text.pop_back();
  const Ids got = load_tokenizer(small("tok512.bin"))->encode_with_bos(text);
  REQUIRE(got.size() >= want.size());
  CHECK(Ids(got.begin(), got.begin() + static_cast<std::ptrdiff_t>(want.size())) == want);
}

TEST_CASE("tok512's .bin, .model and tokenizer.json agree") {
  const auto bin = load_tokenizer(small("tok512.bin")), model = load_tokenizer(small("tok512.model")),
             hf = load_tokenizer(small("tok512_hf.json"));
  for (const char* text : {"Once upon a time, there was a little girl named Lily.",
                           "Zo\u00EB said: \u4F60\u597D \U0001F600!", "line\nline\ttab", "ends here", "don't 12345"}) {
    CHECK_MESSAGE(bin->encode(text) == model->encode(text), text);
    CHECK_MESSAGE(bin->encode(text) == hf->encode(text), text);
  }
  // the model says remove_extra_whitespaces, which the .bin cannot
  CHECK(model->encode("  two   spaces ") == bin->encode("two spaces"));
}

TEST_CASE("LLaMA-2's style of tokenizer.json encodes as in HF's library") {
  const json reference = read_json(small("hf_splits.json"));
  const auto tokenizer = load_tokenizer(small("tok512_hf.json"));
  for (size_t i = 0; i < reference["texts"].size(); ++i) {
    const std::string text = reference["texts"][i];
    CHECK_MESSAGE(tokenizer->encode(text) == reference["llama2_style"][i].get<Ids>(), text);
  }
}

TEST_CASE("A llama2.c tokenizer is saved as a SentencePiece model with the same ids") {
  const auto tokenizer = load_tokenizer(small("tok512.bin"));
  test::TempDir folder;
  tokenizer->save(folder.path());
  const auto again = load_tokenizer(folder.path());
  CHECK(std::filesystem::exists(folder.path("tokenizer.model")));
  for (const std::string& text : awkward_texts()) CHECK(again->encode(text) == tokenizer->encode(text));
  CHECK(again->bos_id() == 1);
}

TEST_CASE("A tokenizer that was loaded is saved unchanged") {
  test::TempDir folder, again;
  load_tokenizer(small("tok512.model"))->save(folder.path());
  CHECK(read_file(folder.path("tokenizer.model")) == read_file(small("tok512.model")));
  // But for the post-processor, which states that texts begin with BOS: HF's library adds none without.
  load_tokenizer(small("tok512_hf.json"))->save(folder.path());
  json saved = read_json(folder.path("tokenizer.json")), file = read_json(small("tok512_hf.json"));
  CHECK(saved["post_processor"]["single"][0]["SpecialToken"]["id"] == "<s>");
  CHECK(saved["post_processor"]["special_tokens"]["<s>"]["ids"] == json{1});
  saved.erase("post_processor");
  file.erase("post_processor");
  CHECK(saved == file);
  load_tokenizer(folder.path("tokenizer.json"))->save(again.path());
  CHECK(read_file(again.path("tokenizer.json")) == read_file(folder.path("tokenizer.json")));
}

TEST_CASE("Special tokens in a text stay text unless asked for") {
  const auto tokenizer = make_byte_tokenizer();
  CHECK(tokenizer->encode("<s>x").size() == 4);
  CHECK(tokenizer->encode_special("<s>x</s>") == Ids{0, tokenizer->encode("x")[0], 1});
  CHECK(tokenizer->decode(tokenizer->encode_special("<s>x</s>")) == "x");
  CHECK(tokenizer->encode_with_bos("x") == Ids{0, tokenizer->encode("x")[0]});
}

TEST_CASE("A word that is a token is taken whole when the tokenizer ignores merges") {
  ByteBpeParts parts = dynamic_cast<const ByteBpe&>(*make_byte_tokenizer()).parts();
  parts.tokens.push_back(" whole");
  const ByteBpe merging(parts);
  parts.ignore_merges = true;
  const ByteBpe whole(parts);
  CHECK(merging.encode(" whole").size() == 6);
  CHECK(whole.encode(" whole") == Ids{258});
}

TEST_CASE("Added tokens that are not special are always matched, the longest first") {
  ByteBpeParts parts = dynamic_cast<const ByteBpe&>(*make_byte_tokenizer()).parts();
  parts.tokens.resize(260);
  parts.added.push_back({"    ", 258, false});
  parts.added.push_back({"  ", 259, false});
  const ByteBpe tokenizer(parts);
  CHECK(tokenizer.encode("      ") == Ids{258, 259});
  CHECK(tokenizer.decode(tokenizer.encode("x      y")) == "x      y");
  test::TempDir folder;
  tokenizer.save(folder.path());
  CHECK(load_tokenizer(folder.path())->encode("x      y") == tokenizer.encode("x      y"));
}

TEST_CASE("tokenizer_config.json names BOS and EOS") {
  test::TempDir folder;
  make_byte_tokenizer()->save(folder.path());
  write_file_atomic(folder.path("tokenizer_config.json"),
                    R"({"bos_token": {"content": "</s>"}, "eos_token": "<s>", "add_bos_token": true})");
  const auto tokenizer = load_tokenizer(folder.path());
  CHECK(tokenizer->bos_id() == 1);
  CHECK(tokenizer->eos_id() == 0);
}

TEST_CASE("GPT-2's vocabulary gives the published ids") {
  const std::string path = test::shared_data("tokenizers/gpt2_vocab.json");
  if (path.empty()) return;
  const auto tokenizer = load_tokenizer(path);
  const json golden = read_json(small("golden_gpt2_encoded_tokens.json"));
  CHECK(tokenizer->encode(golden["text"].get<std::string>()) == golden["token_ids"].get<Ids>());
  check_vectors(*tokenizer, "gpt2", false);
  CHECK(tokenizer->eos_id() == 50256);
  for (const std::string& text : awkward_texts()) CHECK(tokenizer->decode(tokenizer->encode(text)) == text);
  test::TempDir folder;
  tokenizer->save(folder.path());
  CHECK(load_tokenizer(folder.path())->encode("Hi  Hello") == Ids{17250, 220, 18435});
}

TEST_CASE("LLaMA-2's SentencePiece model gives the published ids") {
  const std::string path = test::shared_data("tokenizers/llama2_tokenizer.model");
  if (path.empty()) return;
  const auto tokenizer = load_tokenizer(path);
  const json golden = read_json(small("golden_llama_encoded.json"));
  CHECK(tokenizer->encode_with_bos(golden["text"].get<std::string>()) == golden["token_ids"].get<Ids>());
  check_vectors(*tokenizer, "llama2", true);
  for (const std::string& text : awkward_texts()) CHECK(tokenizer->decode(tokenizer->encode(text)) == text);
}

TEST_CASE("books30m's tokenizer gives the very tokens of its oracle") {
  const std::string model = test::shared_data("models/books30m"), books = test::shared_data("books/test.tar.xz");
  if (model.empty() || books.empty()) return;
  test::TempDir folder;
  if (std::system(("tar -xf '" + books + "' -C '" + folder.path() + "' 2>/dev/null").c_str()) != 0) {
    std::printf("SKIPPED: tar cannot unpack the test books\n");
    return;
  }
  const json oracle = read_json(model + "/eval_oracle.json");
  const auto tokenizer = load_tokenizer(model);
  CHECK(tokenizer->vocab_size() == 8192);
  Ids all;
  for (const int book : oracle["eval_book_ids"]) {
    const std::string text = read_file(folder.path(cat("test/", book, ".txt")));
    const Ids ids = tokenizer->encode(text);
    REQUIRE(ids.size() >= 16384);
    all.insert(all.end(), ids.begin(), ids.begin() + 16384);
  }
  // little-endian i32, document after document
  const std::string_view bytes(reinterpret_cast<const char*>(all.data()), all.size() * 4);
  CHECK(test::sha256(bytes) == oracle["eval_sha256_of_tokens"].get<std::string>());
}
