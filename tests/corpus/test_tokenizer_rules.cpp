// What tokenizer files state is honoured, or refused by name.
#include <doctest/doctest.h>

#include <nlohmann/json.hpp>

#include "data/byte_bpe.h"
#include "data/corpus.h"
#include "data/merge.h"
#include "data/normal_form.h"
#include "data/sentencepiece.h"
#include "data/tokenizer.h"
#include "data/unicode.h"
#include "support.h"
#include "tensor/file.h"
#include "tensor/random.h"

using namespace rw;
using nlohmann::json;
using Ids = std::vector<int32_t>;

namespace {

std::string small(const std::string& name) { return test::data_dir() + "/tokenizers/" + name; }

bool has(const std::string& message, const std::string& part) {
  const bool found = message.find(part) != std::string::npos;
  if (!found) MESSAGE("the error was: ", message);
  return found;
}

json byte_json() { return json::parse(dynamic_cast<const ByteBpe&>(*make_byte_tokenizer()).to_json()); }

std::unique_ptr<Tokenizer> from_json(const json& file) {
  test::TempDir folder;
  write_file_atomic(folder.path("tokenizer.json"), file.dump());
  return load_tokenizer(folder.path("tokenizer.json"));
}

std::string error_of(const json& file) {
  return test::error_of([&] { from_json(file); });
}

/// Characters a, b, "▁" and "▁a", with an unknown token and without byte pieces.
json letters_json() {
  return json::parse(R"({"normalizer": null, "pre_tokenizer": {"type": "Metaspace", "replacement": "▁",
    "prepend_scheme": "always", "split": true}, "decoder": null, "post_processor": null, "added_tokens": [],
    "model": {"type": "BPE", "unk_token": "<unk>", "fuse_unk": true,
              "vocab": {"<unk>": 0, "▁": 1, "a": 2, "b": 3, "▁a": 4}, "merges": [["▁", "a"]]}})");
}

/// A folder with a tokenizer.model and these two files ("" leaves one out).
std::unique_ptr<Tokenizer> from_model(const std::string& added, const std::string& config) {
  test::TempDir folder;
  write_file_atomic(folder.path("tokenizer.model"), read_file(small("tok512.model")));
  if (!added.empty()) write_file_atomic(folder.path("added_tokens.json"), added);
  if (!config.empty()) write_file_atomic(folder.path("tokenizer_config.json"), config);
  return load_tokenizer(folder.path());
}

}  // namespace

TEST_CASE("Tokenizers of every published kind give the ids of Hugging Face's library") {
  const json vectors = json::parse(read_file(small("hf_vectors.json")));
  const json& texts = vectors["texts"];
  for (const auto& [name, entry] : vectors["tokenizers"].items()) {
    const auto tokenizer = from_json(entry["tokenizer"]);
    for (size_t i = 0; i < texts.size(); ++i) {
      CHECK_MESSAGE(tokenizer->encode(texts[i].get<std::string>()) == entry["ids"][i].get<Ids>(), name, ": ",
                    texts[i].dump());
    }
  }
}

TEST_CASE("U+2581 in a text is a space") {
  const auto tokenizer = load_tokenizer(small("tok512.bin"));
  CHECK(tokenizer->encode("a\u2581b") == tokenizer->encode("a b"));
  CHECK(tokenizer->encode("\u2581Once") == tokenizer->encode(" Once"));
}

TEST_CASE("An added token may be one that the vocabulary has already") {
  json file = byte_json();
  file["added_tokens"].push_back({{"id", file["model"]["vocab"]["$"]}, {"content", "$"}, {"special", false}});
  const auto tokenizer = from_json(file);
  CHECK(tokenizer->encode("a $5") == make_byte_tokenizer()->encode("a $5"));
  CHECK(tokenizer->decode(tokenizer->encode("a $5")) == "a $5");
  file["added_tokens"].back()["id"] = 7;
  CHECK(has(error_of(file), "the vocabulary has '$' as"));
}

TEST_CASE("Added tokens take the white space beside them, or stand alone, as their options say") {
  json file = byte_json();
  const auto add = [&](const char* text, const char* option) {
    const int64_t id = 258 + static_cast<int64_t>(file["added_tokens"].size()) - 2;
    file["added_tokens"].push_back({{"id", id}, {"content", text}, {"special", false}, {"normalized", false}});
    file["added_tokens"].back()[option] = true;
  };
  add("<l>", "lstrip");
  add("<r>", "rstrip");
  add("word", "single_word");
  const auto tokenizer = from_json(file);
  const int32_t a = tokenizer->encode("a")[0];
  CHECK(tokenizer->encode("a \t<l>a") == Ids{a, 258, a});
  CHECK(tokenizer->encode("a<r> \u3000a") == Ids{a, 259, a});
  CHECK(tokenizer->encode("word") == Ids{260});
  CHECK(tokenizer->encode("words").size() == 5);
  CHECK(tokenizer->encode("\u00E9word").size() == 6);
  CHECK(tokenizer->encode("-word-").size() == 3);
}

TEST_CASE("added_tokens.json and added_tokens_decoder add tokens to a SentencePiece model, and are saved") {
  const std::string decoder =
      R"({"added_tokens_decoder": {"512": {"content": "<|im_start|>", "special": false, "normalized": false}}})";
  for (const auto& tokenizer : {from_model(R"({"<|im_start|>": 512})", ""), from_model("", decoder)}) {
    CHECK(tokenizer->vocab_size() == 513);
    const Ids ids = tokenizer->encode("<|im_start|>user");
    CHECK(ids[0] == 512);
    CHECK(tokenizer->token(ids[1]).front() == 'u');  // no space is put after an added token
    CHECK(tokenizer->decode(ids) == "<|im_start|>user");
    test::TempDir folder;
    tokenizer->save(folder.path());
    CHECK(load_tokenizer(folder.path())->encode("<|im_start|>user") == ids);
  }
  CHECK(has(test::error_of([] { from_model(R"({"<|x|>": 600})", ""); }), "the next free id is 512"));
  CHECK(has(test::error_of([] { from_model(R"({"<s>": 512})", ""); }), "in the vocabulary it has 1"));
}

TEST_CASE("Special tokens that tokenizer_config.json names and the vocabulary lacks follow it, and are saved") {
  const auto tokenizer = from_model("", R"({"pad_token": "[PAD]", "additional_special_tokens": ["<|im_start|>"],
    "extra_special_tokens": {"image": {"content": "<image>"}}, "unk_token": "<unk>"})");
  CHECK(tokenizer->vocab_size() == 515);  // in transformers' order
  CHECK(tokenizer->encode_special("[PAD]<|im_start|><image>") == Ids{512, 513, 514});
  CHECK(tokenizer->encode("[PAD]").size() > 1);
  test::TempDir folder;
  tokenizer->save(folder.path());
  CHECK(load_tokenizer(folder.path())->encode_special("[PAD]<|im_start|><image>") == Ids{512, 513, 514});
  CHECK(from_model("", R"({"pad_token": "</s>", "mask_token": "<s>"})")->vocab_size() == 512);
}

TEST_CASE("add_prefix_space of tokenizer_config.json counts where transformers makes the tokenizer from it") {
  const auto first = [](const Tokenizer& tokenizer) { return tokenizer.token(tokenizer.encode("once")[0]); };
  CHECK(first(*from_model("", "")).starts_with("\u2581"));
  CHECK(first(*from_model("", R"({"add_prefix_space": false})")).starts_with("o"));
  test::TempDir folder;
  write_file_atomic(folder.path("tokenizer.json"), byte_json().dump());
  const auto with_class = [&](const std::string& name) {
    write_file_atomic(folder.path("tokenizer_config.json"),
                      R"({"add_prefix_space": true, "tokenizer_class": ")" + name + "\"}");
    return load_tokenizer(folder.path())->encode("once").size();
  };
  CHECK(with_class("GPT2TokenizerFast") == 5);
  CHECK(with_class("PreTrainedTokenizerFast") == 4);
}

TEST_CASE("Classes with GPT-2's kind of vocabulary put no BOS before a text unless told to") {
  test::TempDir folder;
  write_file_atomic(folder.path("tokenizer.json"), byte_json().dump());
  const auto begins = [&](const std::string& name, const std::string& more) {
    write_file_atomic(folder.path("tokenizer_config.json"),
                      R"({"bos_token": "<s>", "tokenizer_class": ")" + name + "\"" + more + "}");
    const auto tokenizer = load_tokenizer(folder.path());
    CHECK(tokenizer->named_bos() == 0);
    return tokenizer->bos_id();
  };
  for (const char* name : {"GPT2Tokenizer", "GPTNeoXTokenizerFast", "Qwen2Tokenizer", "CodeGenTokenizer"}) {
    CHECK(begins(name, "") == std::nullopt);
    CHECK(begins(name, R"(, "add_bos_token": true)") == 0);
  }
  CHECK(begins("PreTrainedTokenizerFast", "") == 0);
}

TEST_CASE("Of spaces alone, a SentencePiece model that trims them makes no token") {
  const std::string path = small("tok512.model");
  SentencePieceParts parts = parse_sentencepiece(read_file(path), path);
  parts.remove_extra_whitespaces = true;
  CHECK(SentencePieceBpe(std::move(parts)).encode("   ").empty());
}

TEST_CASE("Every file of a tokenizer may be a git-lfs pointer, which is named") {
  const std::string pointer = "version https://git-lfs.github.com/spec/v1\noid sha256:00\nsize 1\n";
  CHECK(has(test::error_of([&] { from_model(pointer, ""); }), "added_tokens.json is a git-lfs pointer"));
  CHECK(has(test::error_of([&] { from_model("", pointer); }), "tokenizer_config.json is a git-lfs pointer"));
  test::TempDir folder;
  write_file_atomic(folder.path("vocab.json"), byte_json()["model"]["vocab"].dump());
  write_file_atomic(folder.path("merges.txt"), pointer);
  CHECK(has(test::error_of([&] { load_tokenizer(folder.path()); }), "merges.txt is a git-lfs pointer"));
}

TEST_CASE("Whether a text begins with BOS is what the files state") {
  const auto begins = [](const std::string& config) { return from_model("", config)->bos_id(); };
  CHECK(begins("") == 1);
  CHECK(begins(R"({"bos_token": "<s>", "add_bos_token": false})") == std::nullopt);
  CHECK(begins(R"({"bos_token": "<s>", "add_bos_token": true})") == 1);
  CHECK(from_model("", R"({"add_bos_token": true, "add_eos_token": true})")->encode_template("").size() == 2);
  const auto none = from_model("", R"({"bos_token": null})");
  CHECK(none->bos_id() == std::nullopt);
  CHECK(has(test::error_of([&] { none->encode_with_bos("a"); }), "no BOS"));

  json file = byte_json();
  const json text = {{"Sequence", {{"id", "A"}, {"type_id", 0}}}};
  const json bos = {{"SpecialToken", {{"id", "<s>"}, {"type_id", 0}}}};
  file["post_processor"] = {{"type", "TemplateProcessing"}, {"single", {bos, text}}};
  CHECK(from_json(file)->bos_id() == 0);
  CHECK(from_json(file)->appended_eos() == std::nullopt);
  file["post_processor"]["single"] = {text, bos};
  CHECK(from_json(file)->bos_id() == std::nullopt);
  CHECK(from_json(file)->encode_template("a").back() == 0);
  file["post_processor"]["single"] = {bos, bos, text};
  CHECK(has(error_of(file), "2 tokens before a text"));
  file["post_processor"] = {{"type", "ByteLevel"}};
  CHECK(from_json(file)->bos_id() == std::nullopt);
}

TEST_CASE("What is written states whether texts begin with BOS, and keeps the rest of tokenizer_config.json") {
  test::TempDir folder;
  make_byte_tokenizer()->save(folder.path());
  json config = json::parse(read_file(folder.path("tokenizer_config.json")));
  CHECK(config["add_bos_token"] == true);
  CHECK(config["add_eos_token"] == false);
  config["add_bos_token"] = false;
  config["chat_template"] = "{{ messages }}";
  write_file_atomic(folder.path("tokenizer_config.json"), config.dump());
  test::TempDir again;
  load_tokenizer(folder.path())->save(again.path());
  CHECK(json::parse(read_file(again.path("tokenizer_config.json"))) == config);
}

TEST_CASE("A run of characters that a vocabulary lacks is one unknown token, or one each, as fuse_unk says") {
  json file = letters_json();
  CHECK(from_json(file)->encode("a xyz b") == Ids{4, 1, 0, 1, 3});
  file["model"]["fuse_unk"] = false;
  CHECK(from_json(file)->encode("a xyz b") == Ids{4, 1, 0, 0, 0, 1, 3});
  file["pre_tokenizer"]["prepend_scheme"] = "never";
  CHECK(from_json(file)->encode("a xa b") == Ids{2, 1, 0, 2, 1, 3});
  file["model"]["unk_token"] = nullptr;
  CHECK(has(error_of(file), "neither all 256 byte pieces nor an unknown piece"));
}

TEST_CASE("Normalization forms follow Unicode") {
  CHECK(normalized("e\u0301", NormalForm::nfc) == "\u00E9");
  CHECK(normalized("\u00E9", NormalForm::nfd) == "e\u0301");
  CHECK(normalized("\uFB01 \u2460 \u212B", NormalForm::nfkc) == "fi 1 \u00C5");
  CHECK(normalized("\u212B\uFB01", NormalForm::nfc) == "\u00C5\uFB01");
  CHECK(normalized("\u1112\u1161\u11AB", NormalForm::nfc) == "\uD55C");
  CHECK(normalized("\uD55C", NormalForm::nfd) == "\u1112\u1161\u11AB");
  CHECK(normalized("a\u0301\u0316", NormalForm::nfd) == "a\u0316\u0301");  // marks in the order of their classes
  CHECK(normalized("a\u0316\u0301", NormalForm::nfc) == "\u00E1\u0316");
  CHECK(normalized("\u0958", NormalForm::nfc) == "\u0915\u093C");  // excluded from composition
  CHECK(normalized("ab\xFF\xE4\xBD", NormalForm::nfkc) == "ab\xFF\xE4\xBD");
  CHECK(normalized("", NormalForm::nfc).empty());
  for (const NormalForm form : {NormalForm::nfc, NormalForm::nfd, NormalForm::nfkc, NormalForm::nfkd}) {
    std::string all;
    for (uint32_t c = 1; c < 0x30000; c += 7) {
      if (c < 0xD800 || c > 0xDFFF) append_utf8(all, c);
    }
    const std::string once = normalized(all, form);
    CHECK(normalized(once, form) == once);
  }
}

TEST_CASE("Components that are not supported are refused by name") {
  const auto with = [](const char* key, const json& value) {
    json file = byte_json();
    file[key] = value;
    return error_of(file);
  };
  for (const char* name : {"Lowercase", "StripAccents", "Nmt", "Precompiled", "BertNormalizer"})
    CHECK(has(with("normalizer", {{"type", name}}), cat("normalizer '", name, "' is not supported")));
  for (const char* name : {"Whitespace", "BertPreTokenizer", "UnicodeScripts", "Punctuation"})
    CHECK(has(with("pre_tokenizer", {{"type", name}}), cat("pre-tokenizer '", name, "' is not supported")));
  CHECK(has(with("post_processor", {{"type", "Odd"}}), "post-processor 'Odd' is not supported"));
  CHECK(has(with("decoder", {{"type", "WordPiece"}}), "decoder 'WordPiece' is not supported"));
  CHECK(has(with("pre_tokenizer", {{"type", "Split"}, {"pattern", {{"Regex", "a+"}}}, {"behavior", "Isolated"}}),
            "split by {\"Regex\":\"a+\"}"));
  const json grow = {{"type", "Replace"}, {"pattern", {{"String", "a"}}}, {"content", "aaaaaaaaa"}};
  CHECK(has(with("normalizer", grow), "more than 8 times as long"));
  json steps = json::array();
  for (int i = 0; i < 100; ++i) steps.push_back({{"type", "NFC"}});
  CHECK(has(with("normalizer", {{"type", "Sequence"}, {"normalizers", steps}}), "more than 16 normalizers"));
}

TEST_CASE("Files of other kinds are refused by what they are") {
  const auto refused = [](const char* name, const std::string& bytes) {
    test::TempDir folder;
    write_file_atomic(folder.path(name), bytes);
    return test::error_of([&] { load_tokenizer(folder.path()); });
  };
  CHECK(has(refused("tokenizer.model", "IQ== 0\nIg== 1\n"), "tiktoken"));
  CHECK(has(refused("qwen.tiktoken", "IQ== 0\n"), "tiktoken"));
  CHECK(has(refused("tiktoken.model", "IQ== 0\n"), "tiktoken vocabulary"));
  CHECK(has(refused("tekken.json", "{}"), "tekken.json"));
  CHECK(
      has(refused("tokenizer.json", "version https://git-lfs.github.com/spec/v1\noid sha256:00\nsize 1\n"), "git-lfs"));
}

TEST_CASE("merges.txt may have the line ends of Windows") {
  json vocab = byte_json()["model"]["vocab"];
  vocab["ab"] = 258;
  test::TempDir folder;
  write_file_atomic(folder.path("vocab.json"), vocab.dump());
  write_file_atomic(folder.path("merges.txt"), "#version: 0.2\r\na b\r\n");
  CHECK(load_tokenizer(folder.path())->encode("ab") == Ids{258});
  write_file_atomic(folder.path("tokenizer_config.json"), R"({"tokenizer_class": "RobertaTokenizer"})");
  CHECK(has(test::error_of([&] { load_tokenizer(folder.path()); }), "'RobertaTokenizer' is not supported"));
}

TEST_CASE("A model may have more tokens than its tokenizer, or fewer until one is needed") {
  const auto tokenizer = make_byte_tokenizer();
  tokenizer->fit_model(300);
  CHECK(tokenizer->decode(Ids{tokenizer->encode("a")[0], 299, 258}) == "a");
  CHECK(has(test::error_of([&] { tokenizer->decode(Ids{300}); }), "beyond the vocabulary of 300"));
  const int32_t z = tokenizer->encode("z")[0];
  tokenizer->fit_model(z);
  CHECK(tokenizer->encode("abc").size() == 3);
  CHECK(has(test::error_of([&] { tokenizer->encode("xyz"); }), cat("needs token ", z, " ('z'), the model has ", z)));
  CHECK(tokenize_corpus({{"a", "abc"}}, *tokenizer).vocab_size() == z);
}

TEST_CASE("A word of megabytes is merged block by block, to the ids of the whole") {
  MergeTable merges;  // pairs of pairs of pairs: every merge comes after those that make its parts
  Random random(7, Purpose::test);
  int32_t next = 4, rank = 0;
  for (; next < 400; ++next)
    merges.add(static_cast<int32_t>(random.below(next)), static_cast<int32_t>(random.below(next)), {rank++, next});
  for (int32_t a = 0, id = 400; id < 404; ++id) merges.add(a, a, {rank++, id}), a = id;  // runs of one letter
  for (const int64_t letters : {1, 2, 4}) {
    Ids symbols(100000);
    for (int32_t& s : symbols) s = static_cast<int32_t>(random.below(letters));
    Ids whole = symbols, blocks;
    merge_symbols(merges, whole);
    const NextSymbols one = [&](size_t at, Ids& to) {
      to.push_back(symbols[at]);
      return at + 1;
    };
    merge_word(merges, /*ordered=*/true, symbols.size(), one, blocks);
    CHECK(blocks == whole);
  }
}
