// Tokenizers through GGUF files: the same ids come back, also from the lists that llama.cpp reads, and what it has no
// name for is refused.
#include <doctest/doctest.h>

#include <algorithm>

#include "data/bpe_train.h"
#include "data/byte_bpe.h"
#include "data/chat_template.h"
#include "data/sentencepiece.h"
#include "data/tokenizer_gguf.h"
#include "support.h"
#include "tensor/file.h"

using namespace rw;

namespace {

std::string small(const std::string& name) { return test::data_dir() + "/tokenizers/" + name; }

const std::vector<std::string> kTexts = {
    "Once upon a time, there was a little dog.",
    "  two  spaces and 12345 digits\n\n\tdon't WE'LL ",
    "Zo\u00EB \u4F60\u597D \U0001F600 e\u0301",
    "<s> stays text </s> <|im_start|>",
    "",
};

/// tok512.model without its rule that llama.cpp does not have.
std::unique_ptr<Tokenizer> tok512() {
  SentencePieceParts parts = dynamic_cast<const SentencePieceBpe&>(*load_tokenizer(small("tok512.model"))).parts();
  parts.remove_extra_whitespaces = false;
  parts.file_name.clear();
  return std::make_unique<SentencePieceBpe>(std::move(parts));
}

/// Through a file, with or without the tokenizer.json that it keeps.
std::unique_ptr<Tokenizer> through_file(const Tokenizer& tokenizer, int64_t vocab, bool keep_json) {
  const test::TempDir dir;
  GgufMetadata keys = gguf_tokenizer(tokenizer, vocab);
  if (!keep_json) std::erase_if(keys, [](const auto& key) { return key.first == "tokenizer.huggingface.json"; });
  save_gguf(dir.path("t.gguf"), keys, {});
  return load_tokenizer(dir.path("t.gguf"));
}

/// `templates`: also texts with special tokens in them.
void check_same(const Tokenizer& a, const Tokenizer& b, bool templates = true) {
  for (const std::string& text : kTexts) {
    CAPTURE(text);
    CHECK(a.encode(text) == b.encode(text));
    CHECK(a.decode(a.encode(text)) == b.decode(b.encode(text)));
    if (templates) CHECK(a.encode_template(text) == b.encode_template(text));
  }
  CHECK(a.bos_id() == b.bos_id());
  CHECK(a.eos_id() == b.eos_id());
  CHECK(a.appended_eos() == b.appended_eos());
}

ByteBpeParts trained_parts() {
  const std::vector<Document> documents = {{"d", "the cat and the dog sat on the mat. the end of 1234 days, don't!"}};
  const auto trained = train_bpe(documents, 300);
  return dynamic_cast<const ByteBpe&>(*trained).parts();
}

std::string refusal(const Tokenizer& tokenizer, int64_t vocab = 1000) {
  return test::error_of([&] { gguf_tokenizer(tokenizer, vocab); });
}

}  // namespace

TEST_CASE("every tokenizer that llama.cpp has a name for comes back from a GGUF file with the same ids") {
  std::vector<std::unique_ptr<Tokenizer>> all;
  all.push_back(make_byte_tokenizer());
  all.push_back(tok512());
  for (const char* file : {"tok512.bin", "tok512_hf.json"}) all.push_back(load_tokenizer(small(file)));
  using R = SplitRule;
  const std::vector<std::pair<std::vector<SplitStep>, bool>> rules = {{{R::gpt2}, false},
                                                                      {{R::llama3}, true},
                                                                      {{R::llama3}, false},
                                                                      {{R::qwen2}, false},
                                                                      {{R::individual_digits, R::gpt2}, false}};
  for (const auto& [steps, ignore_merges] : rules) {
    ByteBpeParts parts = trained_parts();
    parts.json.clear();
    parts.pre_tokenizer.rules = steps;
    parts.ignore_merges = ignore_merges;
    if (steps[0].rule == R::qwen2)
      parts.normalizer.add({.kind = NormalizerStep::Kind::form, .form = NormalForm::nfc, .from = {}, .to = {}});
    parts.added.push_back({"<|im_start|>", static_cast<int32_t>(parts.tokens.size()), false});
    parts.tokens.emplace_back();
    all.push_back(std::make_unique<ByteBpe>(std::move(parts)));
  }
  for (const auto& tokenizer : all) {
    CAPTURE(tokenizer->kind());
    for (const bool keep_json : {true, false}) {
      const auto again = through_file(*tokenizer, tokenizer->vocab_size() + 7, keep_json);
      CHECK(again->vocab_size() == tokenizer->vocab_size());
      // Where a tokenizer.json puts a space after every special token, the lists alone put one in front of the text.
      const auto* pieces = dynamic_cast<const SentencePieceBpe*>(tokenizer.get());
      check_same(*tokenizer, *again, keep_json || pieces == nullptr || !pieces->parts().from_json);
      const test::TempDir dir;
      again->save(dir.path());
      check_same(*again, *load_tokenizer(dir.path()));
    }
  }
}

TEST_CASE("BOS, EOS and the chat template of a GGUF file are those of the tokenizer") {
  const auto tokenizer = tok512();
  tokenizer->set_ends({.bos = false, .eos = true});
  tokenizer->set_kept_config(R"({"chat_template":"{{ bos_token }}[INST]","model_max_length":5})");
  const auto again = through_file(*tokenizer, 512, true);
  CHECK_FALSE(again->bos_id().has_value());
  CHECK(again->named_bos() == 1);
  CHECK(again->appended_eos() == 2);
  CHECK(stated_chat_template(*again) == "{{ bos_token }}[INST]");
  CHECK(through_file(*make_byte_tokenizer(), 258, true)->bos_id() == 0);
}

TEST_CASE("what llama.cpp has no name for in a tokenizer is refused by name") {
  ByteBpeParts parts = trained_parts();
  parts.json.clear();
  const auto changed = [&](auto change) {
    ByteBpeParts p = parts;
    change(p);
    return refusal(ByteBpe(std::move(p)));
  };
  CHECK(changed([](auto& p) { p.pre_tokenizer.prefix = SpacePrefix::always; }).find("add_prefix_space") !=
        std::string::npos);
  CHECK(changed([](auto& p) { p.pre_tokenizer.rules = {SplitRule::digits}; }).find("no name for how") !=
        std::string::npos);
  CHECK(changed([](auto& p) { p.ignore_merges = true; }).find("with ignore_merges") != std::string::npos);
  CHECK(changed([](auto& p) {
          p.normalizer.add({.kind = NormalizerStep::Kind::form, .form = NormalForm::nfkc, .from = {}, .to = {}});
        }).find("NFKC") != std::string::npos);
  CHECK(refusal(*tok512(), 511).find("has 512 tokens, the model has 511") != std::string::npos);
  CHECK(refusal(*load_tokenizer(small("tok512.model"))).find("remove_extra_whitespaces") != std::string::npos);
  SentencePieceParts json = dynamic_cast<const SentencePieceBpe&>(*load_tokenizer(small("tok512_hf.json"))).parts();
  json.merges.resize(json.merges.size() / 2);
  CHECK(refusal(SentencePieceBpe(json)).find("scores of tokens cannot express") != std::string::npos);
}

TEST_CASE("a GGUF file whose tokenizer is garbled is refused by the key") {
  const test::TempDir dir;
  const std::string path = dir.path("t.gguf");
  const GgufMetadata good = gguf_tokenizer(*make_byte_tokenizer(), 258);
  const auto refused = [&](const std::string& key, std::optional<GgufValue> value, bool keep_json = false) {
    GgufMetadata keys;
    for (const auto& [name, old] : good) {
      if (name == key || (!keep_json && name == "tokenizer.huggingface.json")) continue;
      keys.emplace_back(name, old);
    }
    if (value) keys.emplace_back(key, *value);
    save_gguf(path, keys, {});
    return test::error_of([&] { load_tokenizer(path); });
  };
  const auto has = [](const std::string& text, const char* part) { return text.find(part) != std::string::npos; };
  CHECK(has(refused("tokenizer.ggml.model", std::nullopt), "holds no tokenizer"));
  CHECK(has(refused("tokenizer.ggml.model", GgufValue::string("t5")), "'t5', which is not supported"));
  CHECK(has(refused("tokenizer.ggml.pre", GgufValue::string("tekken")), "'tekken', which is not supported"));
  CHECK(has(refused("tokenizer.ggml.tokens", std::nullopt), "missing or empty"));
  CHECK(has(refused("tokenizer.ggml.token_type", GgufValue::i32s({1})), "1 token types for 258 tokens"));
  CHECK(has(refused("tokenizer.ggml.bos_token_id", GgufValue::u32(258)), "is 258 in a vocabulary of 258"));
  CHECK(has(refused("tokenizer.ggml.merges", GgufValue::string_list({"a"})), "merge 0 is 'a'"));
  CHECK(has(refused("tokenizer.ggml.merges", GgufValue::string_list({"a zz"})), "merge 0 is 'a zz'"));
  std::vector<std::string> tokens;
  for (const auto& [name, value] : good) {
    if (name == "tokenizer.ggml.tokens") tokens = value.strings;
  }
  std::swap(tokens[5], tokens[6]);
  CHECK(has(refused("tokenizer.ggml.tokens", GgufValue::string_list(tokens), true), "tokenizer.huggingface.json"));
}
