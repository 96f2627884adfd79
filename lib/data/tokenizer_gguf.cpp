// Tokenizers out of GGUF files.
#include "data/tokenizer_gguf.h"

#include <algorithm>
#include <cmath>

#include "data/byte_bpe.h"
#include "data/sentencepiece.h"
#include "data/tokenizer_gguf.hpp"
#include "data/tokenizer_json.hpp"
#include "tensor/printable.h"

namespace rw {
namespace {

using namespace tokenizer_files;
constexpr const char* kTokens = "tokenizer.ggml.tokens";

/// The lists of a file, of one length, without the unused tokens at the end.
GgufTokens read_tokens(const GgufFile& file) {
  GgufTokens out{file.strings(kTokens), {}};
  check(!out.texts.empty(), kGguf, file.path(), ": the list '", kTokens, "' is missing or empty");
  check(out.texts.size() <= static_cast<size_t>(kMostTokens), kGguf, file.path(), ": ", out.texts.size(),
        " tokens are more than ", kMostTokens);
  const std::vector<double> types = file.numbers("tokenizer.ggml.token_type");
  check(types.empty() || types.size() == out.texts.size(), kGguf, file.path(), ": ", types.size(), " token types for ",
        out.texts.size(), " tokens");
  out.types.assign(out.texts.size(), kNormal);
  for (size_t id = 0; id < types.size(); ++id) {
    check(types[id] >= 1 && types[id] <= 6 && types[id] == std::floor(types[id]), kGguf, file.path(), ": token ", id,
          " has type ", types[id], ", expected 1 to 6");
    out.types[id] = static_cast<int32_t>(types[id]);
  }
  while (!out.types.empty() && out.types.back() == kUnused) {
    out.types.pop_back();
    out.texts.pop_back();
  }
  check(!out.texts.empty(), kGguf, file.path(), ": every token is marked unused");
  return out;
}

std::unique_ptr<Tokenizer> read_byte_level(const GgufFile& file, const GgufTokens& tokens) {
  const std::string name = file.text("tokenizer.ggml.pre");
  const auto& known = gguf_pres();
  const auto pre = std::find_if(known.begin(), known.end(), [&](const GgufPre& p) { return name == p.name; });
  std::string names;
  for (const GgufPre& p : known) names += cat(names.empty() ? "" : ", ", p.name);
  check(pre != known.end(), kGguf, file.path(), ": tokenizer.ggml.pre is '", name,
        "', which is not supported; known are ", names);
  ByteBpeParts parts;
  for (const SplitRule rule : pre->rules) parts.pre_tokenizer.rules.emplace_back(rule);
  parts.ignore_merges = pre->ignore_merges;
  if (pre->nfc)
    parts.normalizer.add({.kind = NormalizerStep::Kind::form, .form = NormalForm::nfc, .from = {}, .to = {}});
  StringIndex ids;
  parts.tokens.resize(tokens.texts.size());
  for (size_t id = 0; id < tokens.texts.size(); ++id) {
    const int32_t type = tokens.types[id];
    if (type == kUnused) continue;
    if (type == kNormal || type == kByte) {
      parts.tokens[id] = unspell_bytes(tokens.texts[id]);
      ids.emplace(tokens.texts[id], static_cast<int32_t>(id));
    } else {
      parts.added.push_back({tokens.texts[id], static_cast<int32_t>(id), type != kUserDefined});
    }
  }
  const std::vector<std::string> merges = file.strings("tokenizer.ggml.merges");
  for (size_t rank = 0; rank < merges.size(); ++rank) {
    const size_t space = merges[rank].find(' ', 1);
    const bool two = space != std::string::npos;
    const auto left = ids.find(std::string_view(merges[rank]).substr(0, two ? space : 0));
    const auto right = ids.find(std::string_view(merges[rank]).substr(two ? space + 1 : 0));
    check(two && left != ids.end() && right != ids.end(), kGguf, file.path(), ": merge ", rank, " is '", merges[rank],
          "', expected two tokens with a space between them");
    parts.merges.emplace_back(left->second, right->second);
  }
  return std::make_unique<ByteBpe>(std::move(parts));
}

std::unique_ptr<Tokenizer> read_sentencepiece(const GgufFile& file, const GgufTokens& tokens) {
  check(!file.find_boolean("tokenizer.ggml.remove_extra_whitespaces").value_or(false), kGguf, file.path(),
        ": remove_extra_whitespaces is not supported");
  SentencePieceParts parts;
  parts.add_dummy_prefix = file.find_boolean("tokenizer.ggml.add_space_prefix").value_or(true);
  const std::vector<double> scores = file.numbers("tokenizer.ggml.scores");
  check(scores.size() >= tokens.texts.size(), kGguf, file.path(), ": ", scores.size(), " scores for ",
        tokens.texts.size(), " tokens");
  for (size_t id = 0; id < tokens.texts.size(); ++id) {
    Piece piece{tokens.texts[id], static_cast<float>(scores[id]), static_cast<Piece::Type>(tokens.types[id])};
    check(std::isfinite(piece.score), kGguf, file.path(), ": token ", id, " has score ", printable(scores[id]));
    if (tokens.types[id] == kUnused) piece = {"", piece.score, Piece::Type::normal};
    if (tokens.types[id] == kUserDefined) piece.text = replaced(piece.text, " ", kSpaceMark);
    parts.pieces.push_back(std::move(piece));
  }
  return std::make_unique<SentencePieceBpe>(std::move(parts));
}

/// The tokenizer.json that a file keeps. Errors: it lists other tokens than the file does.
std::unique_ptr<Tokenizer> read_kept_json(const GgufFile& file, const GgufTokens& tokens, const std::string& text) {
  const std::string where = file.path() + ": tokenizer.huggingface.json";
  auto tokenizer = read_tokenizer_json(parse_json(text, where), text, where);
  const uint64_t listed = file.metadata().at(kTokens).count;
  check(static_cast<uint64_t>(tokenizer->vocab_size()) <= listed, kGguf, where, " has ", tokenizer->vocab_size(),
        " tokens, tokenizer.ggml.tokens has ", listed);
  const GgufTokens own = gguf_tokens(*tokenizer, static_cast<int64_t>(tokens.texts.size()));
  for (size_t id = 0; id < tokens.texts.size(); ++id) {
    check(own.texts[id] == tokens.texts[id] || tokens.types[id] == kUnused, kGguf, where, ": token ", id, " is '",
          own.texts[id], "', tokenizer.ggml.tokens has '", tokens.texts[id], "'");
  }
  return tokenizer;
}

/// A special token's id; `otherwise` where the file does not state it.
std::optional<int32_t> special_id(const GgufFile& file, const char* key, std::optional<int32_t> otherwise,
                                  const Tokenizer& tokenizer) {
  const auto id = file.find_integer(key);
  if (!id) return otherwise && *otherwise < tokenizer.vocab_size() ? otherwise : std::nullopt;
  check(*id >= 0 && *id < tokenizer.vocab_size(), kGguf, file.path(), ": ", key, " is ", *id, " in a vocabulary of ",
        tokenizer.vocab_size());
  return static_cast<int32_t>(*id);
}

/// BOS and EOS, and whether texts have them, where unstated as llama.cpp takes them.
void read_ends(const GgufFile& file, bool sentencepiece, Tokenizer& tokenizer) {
  const auto add_bos = file.find_boolean("tokenizer.ggml.add_bos_token");
  const auto add_eos = file.find_boolean("tokenizer.ggml.add_eos_token");
  const auto usual = [&](int32_t id, bool stated) {
    return sentencepiece && !stated ? std::optional<int32_t>(id) : std::nullopt;
  };
  const auto bos = special_id(file, "tokenizer.ggml.bos_token_id", usual(1, add_bos.has_value()), tokenizer);
  const auto eos = special_id(file, "tokenizer.ggml.eos_token_id", usual(2, add_eos.has_value()), tokenizer);
  tokenizer.clear_bos();
  tokenizer.clear_eos();
  if (bos) tokenizer.set_bos(tokenizer.token(*bos));
  if (eos) tokenizer.set_eos(tokenizer.token(*eos));
  const bool llama3 = file.find_string("tokenizer.ggml.pre").value_or("").starts_with("llama");
  tokenizer.set_ends({.bos = add_bos.value_or(sentencepiece || llama3) && bos, .eos = add_eos.value_or(false) && eos});
}

}  // namespace

std::unique_ptr<Tokenizer> load_gguf_tokenizer(const GgufFile& file) {
  const std::string model = file.find_string("tokenizer.ggml.model").value_or("none");
  check(model != "none" && model != "no_vocab", kGguf, file.path(), " holds no tokenizer: name one");
  check(model == "gpt2" || model == "llama", kGguf, file.path(), ": tokenizer.ggml.model is '", model,
        "', which is not supported; known are gpt2 and llama");
  const GgufTokens tokens = read_tokens(file);
  const auto json = file.find_string("tokenizer.huggingface.json");
  auto tokenizer = json              ? read_kept_json(file, tokens, *json)
                   : model == "gpt2" ? read_byte_level(file, tokens)
                                     : read_sentencepiece(file, tokens);
  read_ends(file, model == "llama", *tokenizer);
  if (const auto chat = file.find_string("tokenizer.chat_template")) {
    tokenizer->set_kept_config(Json{{"chat_template", *chat}}.dump(-1, ' ', false, Json::error_handler_t::replace));
  }
  return tokenizer;
}

}  // namespace rw
