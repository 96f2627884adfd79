// Tokenizers into GGUF files: the lists of tokens, merges and scores, and which rules llama.cpp has a name for.
#include <algorithm>
#include <cmath>

#include "data/byte_bpe.h"
#include "data/chat_template.h"
#include "data/json_node.hpp"
#include "data/sentencepiece.h"
#include "data/tokenizer_gguf.h"
#include "data/tokenizer_gguf.hpp"
#include "data/tokenizer_json.hpp"

namespace rw {
namespace tokenizer_files {

const std::vector<GgufPre>& gguf_pres() {
  using R = SplitRule;
  static const std::vector<GgufPre> known = {
      {"gpt-2", {R::gpt2}, false, false},
      {"llama-bpe", {R::llama3}, true, false},
      {"smaug-bpe", {R::llama3}, false, false},
      {"qwen2", {R::qwen2}, false, true},
      {"smollm", {R::individual_digits, R::gpt2}, false, false},
      {"phi-2", {R::gpt2}, false, false},
      {"mpt", {R::gpt2}, false, false},
      {"olmo", {R::gpt2}, false, false},
      {"llama3", {R::llama3}, true, false},
      {"llama-v3", {R::llama3}, true, false},
      {"falcon3", {R::llama3}, true, false},
      {"dbrx", {R::llama3}, false, false},
      {"stablelm2", {R::qwen2}, false, true},
      {"deepseek-r1-qwen", {R::qwen2}, false, true},
      {"starcoder", {R::individual_digits, R::gpt2}, false, false},
      {"refact", {R::individual_digits, R::gpt2}, false, false},
  };
  return known;
}

std::string replaced(std::string_view text, std::string_view from, std::string_view to) {
  std::string out;
  for (size_t at = 0; at < text.size();) {
    const bool here = text.substr(at, from.size()) == from;
    out += here ? to : text.substr(at, 1);
    at += here ? from.size() : 1;
  }
  return out;
}

GgufTokens gguf_tokens(const Tokenizer& tokenizer, int64_t count) {
  const auto* bytes = dynamic_cast<const ByteBpe*>(&tokenizer);
  const auto* pieces = dynamic_cast<const SentencePieceBpe*>(&tokenizer);
  check(bytes || pieces, kGguf, "a ", tokenizer.kind(), " tokenizer cannot be written");
  GgufTokens out;
  for (int64_t id = 0; id < count; ++id) {
    out.texts.push_back(cat("[PAD", id, "]"));
    out.types.push_back(kUnused);
    if (id >= tokenizer.vocab_size()) continue;
    const std::string text = tokenizer.token(static_cast<int32_t>(id));
    if (text.empty()) continue;
    out.texts.back() = text;
    out.types.back() = pieces ? static_cast<int32_t>(pieces->parts().pieces[static_cast<size_t>(id)].type) : kNormal;
    if (out.types.back() == kUserDefined) out.texts.back() = replaced(text, kSpaceMark, " ");
  }
  for (const AddedToken& token : tokenizer.added_tokens()) {
    if (token.id >= count) continue;
    const auto id = static_cast<size_t>(token.id);
    out.texts[id] = pieces && !token.special ? replaced(token.text, kSpaceMark, " ") : token.text;
    if (out.types[id] != kUnknown) out.types[id] = token.special ? kControl : kUserDefined;
  }
  return out;
}

namespace {

constexpr const char* kForms[] = {"NFC", "NFD", "NFKC", "NFKD"};

/// Errors: rules that llama.cpp has no name for.
std::string pre_of(const ByteBpeParts& parts) {
  for (const NormalizerStep& step : parts.normalizer.steps()) {
    const bool form = step.kind == NormalizerStep::Kind::form;
    check(form && step.form == NormalForm::nfc, kGguf, "the tokenizer's normalizer (",
          form ? kForms[static_cast<size_t>(step.form)] : "one that replaces or strips text",
          ") has no place in GGUF: llama.cpp cuts texts as they are");
  }
  check(
      !parts.pre_tokenizer.changes_text(), kGguf,
      "the tokenizer puts a space in front of text (add_prefix_space), which llama.cpp does not do for byte-level BPE");
  for (const GgufPre& pre : gguf_pres()) {
    const auto& rules = parts.pre_tokenizer.rules;
    const auto same = [](const SplitStep& step, SplitRule rule) { return step.rule == rule; };
    if (pre.ignore_merges == parts.ignore_merges &&
        std::equal(rules.begin(), rules.end(), pre.rules.begin(), pre.rules.end(), same))
      return pre.name;
  }
  fail(kGguf, "llama.cpp has no name for how this tokenizer cuts text",
       parts.ignore_merges ? " with ignore_merges" : "",
       "; known are the patterns of GPT-2 (gpt-2, smollm), Llama 3 (llama-bpe, smaug-bpe) and Qwen 2 (qwen2)");
}

std::vector<std::string> merge_texts(const ByteBpeParts& parts) {
  const auto spelled = [&](int32_t id) {
    std::string out;
    for (const char c : parts.tokens[static_cast<size_t>(id)]) out += byte_spelling(static_cast<uint8_t>(c));
    return out;
  };
  std::vector<std::string> out;
  for (const auto& [left, right] : parts.merges) out.push_back(spelled(left) + " " + spelled(right));
  return out;
}

/// True if a mark follows something else in a piece.
bool goes_on_over_a_space(std::string_view piece) {
  size_t at = 0;
  while (piece.substr(at, kSpaceMark.size()) == kSpaceMark) at += kSpaceMark.size();
  return piece.find(kSpaceMark, at) != std::string_view::npos;
}

/// Whether a space is put in front of text. Errors: rules that llama.cpp's SentencePiece does not have.
bool adds_space(const SentencePieceParts& parts) {
  check(parts.byte_fallback, kGguf, "the tokenizer has no byte_fallback, which llama.cpp takes for granted");
  if (!parts.from_json) {
    check(!parts.remove_extra_whitespaces, kGguf, "remove_extra_whitespaces is not done by llama.cpp");
    return parts.add_dummy_prefix;
  }
  check(!parts.ignore_merges, kGguf, "ignore_merges has no place in a GGUF tokenizer of SentencePiece's kind");
  bool prefix = parts.pre_tokenizer.prefix != SpacePrefix::never, marks = parts.pre_tokenizer.space == kSpaceMark;
  using Kind = NormalizerStep::Kind;
  for (const NormalizerStep& step : parts.normalizer.steps()) {
    const bool prepends = step.kind == Kind::prepend && step.to == kSpaceMark;
    const bool replaces = step.kind == Kind::replace && step.from == " " && step.to == kSpaceMark;
    check(prepends || replaces, kGguf, "the tokenizer's normalizer (",
          step.kind == Kind::form ? kForms[static_cast<size_t>(step.form)] : "one that replaces or strips text",
          ") has no place in GGUF");
    prefix = prefix || prepends;
    marks = marks || replaces;
  }
  check(marks, kGguf, "the tokenizer does not write spaces as U+2581, which llama.cpp takes for granted");
  for (const SplitStep& step : parts.pre_tokenizer.rules) {
    const bool at_marks = step.rule == SplitRule::literal && step.literal == kSpaceMark &&
                          step.behavior == SplitBehavior::merged_with_next &&
                          std::none_of(parts.pieces.begin(), parts.pieces.end(), [](const Piece& p) {
                            return p.type == Piece::Type::normal && goes_on_over_a_space(p.text);
                          });
    check(at_marks || (step.rule == SplitRule::literal && step.literal == " "), kGguf,
          "the tokenizer cuts text into words (pre_tokenizer), which llama.cpp does not do for this kind");
  }
  return prefix;
}

/// Scores that make SentencePiece merge in the order of a tokenizer.json. Errors: no scores do.
std::vector<float> scores_of_merges(const SentencePieceParts& parts) {
  StringIndex ids;
  for (size_t id = 0; id < parts.pieces.size(); ++id) {
    if (parts.pieces[id].type == Piece::Type::normal) ids.emplace(parts.pieces[id].text, static_cast<int32_t>(id));
  }
  for (const AddedToken& token : parts.added) ids.erase(token.text);
  std::vector<std::pair<int64_t, int64_t>> ranks(parts.pieces.size(), {-1, -1});  // of the merges that make a piece
  std::vector<int32_t> order;
  std::vector<int64_t> merges(parts.pieces.size());
  for (size_t rank = 0; rank < parts.merges.size(); ++rank) {
    const auto& [left, right] = parts.merges[rank];
    const auto whole =
        ids.find(parts.pieces[static_cast<size_t>(left)].text + parts.pieces[static_cast<size_t>(right)].text);
    if (whole == ids.end()) continue;
    auto& [first, last] = ranks[static_cast<size_t>(whole->second)];
    if (first < 0) order.push_back(whole->second), first = static_cast<int64_t>(rank);
    last = static_cast<int64_t>(rank);
    ++merges[static_cast<size_t>(whole->second)];
  }
  constexpr const char* kWhy = "the tokenizer's merges are in an order that scores of tokens cannot express (at '";
  std::vector<float> scores(parts.pieces.size(), -static_cast<float>(order.size()) - 1);
  int64_t done = -1;
  for (size_t i = 0; i < order.size(); ++i) {
    const auto id = static_cast<size_t>(order[i]);
    const std::string& text = parts.pieces[id].text;
    check(ranks[id].first > done, kGguf, kWhy, text, "')");
    done = ranks[id].second;
    scores[id] = -static_cast<float>(i);
  }
  for (const auto& [text, id] : ids) {  // every way to cut a piece in two must be a merge, as SentencePiece takes it
    int64_t cuts = 0;
    for (size_t at = 1; at < text.size(); ++at)
      cuts += ids.contains(std::string_view(text).substr(0, at)) && ids.contains(std::string_view(text).substr(at));
    check(cuts <= merges[static_cast<size_t>(id)], kGguf, kWhy, text, "')");
  }
  return scores;
}

std::vector<float> scores_of(const SentencePieceParts& parts, size_t count) {
  std::vector<float> scores;
  if (parts.from_json) {
    scores = scores_of_merges(parts);
  } else {
    for (const Piece& piece : parts.pieces) scores.push_back(piece.score);
  }
  scores.resize(count, -10000);
  return scores;
}

/// The tokenizer.json with every added token in it.
std::string whole_json(const std::string& text, const Tokenizer& tokenizer) {
  nlohmann::ordered_json file = nlohmann::ordered_json::parse(text);
  file["added_tokens"] = tokenizer_files::added_tokens_json(tokenizer.added_tokens());
  return file.dump(-1, ' ', false, nlohmann::ordered_json::error_handler_t::replace);
}

}  // namespace
}  // namespace tokenizer_files

GgufMetadata gguf_tokenizer(const Tokenizer& tokenizer, int64_t vocab_size) {
  using namespace tokenizer_files;
  check(tokenizer.vocab_size() <= vocab_size, kGguf, "the tokenizer has ", tokenizer.vocab_size(),
        " tokens, the model has ", vocab_size);
  const GgufTokens tokens = gguf_tokens(tokenizer, vocab_size);
  const std::string g = "tokenizer.ggml.";
  GgufMetadata out;
  std::string json;
  if (const auto* bytes = dynamic_cast<const ByteBpe*>(&tokenizer)) {
    out.emplace_back(g + "model", GgufValue::string("gpt2"));
    out.emplace_back(g + "pre", GgufValue::string(pre_of(bytes->parts())));
    out.emplace_back(g + "merges", GgufValue::string_list(merge_texts(bytes->parts())));
    json = bytes->parts().json.empty() ? bytes->to_json() : bytes->parts().json;
  } else {
    const SentencePieceParts& parts = dynamic_cast<const SentencePieceBpe&>(tokenizer).parts();
    out.emplace_back(g + "model", GgufValue::string("llama"));
    out.emplace_back(g + "pre", GgufValue::string("default"));
    out.emplace_back(g + "add_space_prefix", GgufValue::boolean(adds_space(parts)));
    out.emplace_back(g + "scores", GgufValue::f32s(scores_of(parts, tokens.texts.size())));
    if (parts.from_json) json = parts.file_bytes;
    const auto unknown = std::find(tokens.types.begin(), tokens.types.end(), kUnknown);
    if (unknown != tokens.types.end())
      out.emplace_back(g + "unknown_token_id", GgufValue::u32(static_cast<uint32_t>(unknown - tokens.types.begin())));
  }
  out.emplace_back(g + "tokens", GgufValue::string_list(tokens.texts));
  out.emplace_back(g + "token_type", GgufValue::i32s(tokens.types));
  if (const auto bos = tokenizer.named_bos())
    out.emplace_back(g + "bos_token_id", GgufValue::u32(static_cast<uint32_t>(*bos)));
  if (const auto eos = tokenizer.eos_id())
    out.emplace_back(g + "eos_token_id", GgufValue::u32(static_cast<uint32_t>(*eos)));
  out.emplace_back(g + "add_bos_token", GgufValue::boolean(tokenizer.bos_id().has_value()));
  out.emplace_back(g + "add_eos_token", GgufValue::boolean(tokenizer.appended_eos().has_value()));
  if (!json.empty()) out.emplace_back("tokenizer.huggingface.json", GgufValue::string(whole_json(json, tokenizer)));
  if (const std::string chat = stated_chat_template(tokenizer); !chat.empty())
    out.emplace_back("tokenizer.chat_template", GgufValue::string(chat));
  return out;
}

}  // namespace rw
