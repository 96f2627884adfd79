// What all tokenizers share: added tokens, normalization, BOS and EOS.
#include "data/tokenizer.h"

#include <algorithm>
#include <nlohmann/json.hpp>

#include "data/tokenizer_rules.hpp"
#include "tensor/error.h"

namespace rw {

std::vector<int32_t> Tokenizer::encode(std::string_view text) const { return encode_parts(text, false, true); }

std::vector<int32_t> Tokenizer::encode_special(std::string_view text) const { return encode_parts(text, true, true); }

std::vector<int32_t> Tokenizer::encode_within(std::string_view text, bool at_start) const {
  return encode_parts(text, false, at_start);
}

std::vector<int32_t> Tokenizer::encode_with_bos(std::string_view text) const {
  check(bos_id_.has_value(), "tokenizer", "this ", kind(), " tokenizer has no BOS token");
  std::vector<int32_t> ids = encode(text);
  ids.insert(ids.begin(), *bos_id_);
  return ids;
}

std::vector<int32_t> Tokenizer::encode_template(std::string_view text) const {
  std::vector<int32_t> ids = encode_special(text);
  if (const auto bos = bos_id()) ids.insert(ids.begin(), *bos);
  if (const auto eos = appended_eos()) ids.push_back(*eos);
  return ids;
}

/// Text is cut at the tokens that are looked for as it stands; what lies between is normalized, and cut at the others.
std::vector<int32_t> Tokenizer::encode_parts(std::string_view text, bool special, bool at_start) const {
  const TokenMatcher &raw = matchers_[special ? 2 : 0], &normal = matchers_[special ? 3 : 1];
  std::vector<int32_t> ids;
  raw.split(text, added_, [&](std::string_view piece, const AddedToken* token) {
    if (token != nullptr) return ids.push_back(token->id);
    const bool first = at_start && piece.data() == text.data();
    std::string changed;
    if (!normalizer_.empty()) piece = changed = normalizer_.apply(piece);
    normal.split(piece, added_, [&](std::string_view part, const AddedToken* named) {
      if (named != nullptr) ids.push_back(named->id);
      else encode_text(part, first && part.data() == piece.data(), ids);
    });
  });
  if (id_limit() < vocab_size()) {
    const auto beyond = std::find_if(ids.begin(), ids.end(), [&](int32_t id) { return id >= id_limit(); });
    check(beyond == ids.end(), "tokenizer", "the text needs token ", beyond == ids.end() ? 0 : *beyond, " ('",
          beyond == ids.end() ? "" : token(*beyond), "'), the model has ", id_limit());
  }
  return ids;
}

std::string Tokenizer::decode(std::span<const int32_t> ids) const {
  std::string text;
  int32_t previous = -1;
  for (size_t i = 0; i < ids.size(); ++i) {
    check(ids[i] >= 0 && ids[i] < padded_size(), "tokenizer", "token id ", ids[i], " at position ", i,
          " is beyond the vocabulary of ", padded_size());
    text += piece(previous, ids[i]);
    previous = ids[i];
  }
  return text;
}

size_t Tokenizer::safe_cut(std::string_view text, size_t) const { return text.size(); }

const AddedToken* Tokenizer::added_token(int32_t id) const {
  const auto found = by_id_.find(id);
  return found == by_id_.end() ? nullptr : &added_[found->second];
}

std::optional<int32_t> Tokenizer::added_id(std::string_view text) const {
  const auto found = added_ids_.find(text);
  return found == added_ids_.end() ? std::nullopt : std::optional<int32_t>(found->second);
}

bool Tokenizer::is_special(int32_t id) const {
  const AddedToken* token = added_token(id);
  return token != nullptr && token->special;
}

void Tokenizer::check_id(int32_t id) const {
  check(id >= 0 && id < padded_size(), "tokenizer", "token id ", id, " is beyond the vocabulary of ", padded_size());
}

void Tokenizer::add_token(AddedToken token) {
  check(!token.text.empty(), "tokenizer", "added token ", token.id, " is empty");
  added_ids_[token.text] = token.id;
  const auto [entry, fresh] = by_id_.emplace(token.id, added_.size());
  if (fresh) added_.push_back(std::move(token));
  else added_[entry->second] = std::move(token);  // what is said later holds
}

void Tokenizer::add_tokens(std::vector<AddedToken> tokens) {
  std::stable_sort(tokens.begin(), tokens.end(), [](const AddedToken& a, const AddedToken& b) { return a.id < b.id; });
  for (AddedToken& token : tokens) {
    const std::optional<int32_t> known = token_id(token.text);
    check(!known || *known == token.id, "tokenizer", "added token '", token.text, "' has id ", token.id,
          ", in the vocabulary it has ", known.value_or(0));
    check(known || token.id == vocab_size(), "tokenizer", "added token '", token.text, "' has id ", token.id,
          ", the next free id is ", vocab_size());
    const AddedToken* before = added_token(token.id);
    if (before != nullptr && *before == token) continue;
    if (!known) append_token(token);
    extra_.insert(token.id);
    add_token(std::move(token));
  }
  finish_tokens();
  guess_bos_eos();
}

void Tokenizer::finish_tokens() {
  matchers_ = {};
  for (size_t i = 0; i < added_.size(); ++i) {
    const AddedToken& token = added_[i];
    const std::string spelling = token.normalized ? normalizer_.apply(token.text) : token.text;
    if (spelling.empty()) continue;  // the normalizer leaves nothing of it
    matchers_[token.normalized ? 3 : 2].add(spelling, i);
    if (!token.special) matchers_[token.normalized ? 1 : 0].add(spelling, i);
  }
  for (TokenMatcher& matcher : matchers_) matcher.finish();
}

void Tokenizer::set_bos(std::string_view token) {
  bos_id_ = token_id(token);
  check(bos_id_.has_value(), "tokenizer", "the BOS token '", token, "' is not in the vocabulary");
}

void Tokenizer::set_eos(std::string_view token) {
  eos_id_ = token_id(token);
  check(eos_id_.has_value(), "tokenizer", "the EOS token '", token, "' is not in the vocabulary");
}

void Tokenizer::guess_bos_eos() {
  const auto first_of = [this](std::initializer_list<const char*> names) -> std::optional<int32_t> {
    for (const char* name : names) {
      if (const auto id = token_id(name)) return id;
    }
    return std::nullopt;
  };
  // GPT-2 has one token for both ends.
  if (!bos_id_) bos_id_ = first_of({"<s>", "<|begin_of_text|>", "<bos>", "<|endoftext|>"});
  if (!eos_id_) eos_id_ = first_of({"</s>", "<|end_of_text|>", "<eos>", "<|endoftext|>"});
}

std::string Tokenizer::with_post_processor(const std::string& json) const {
  using Json = nlohmann::ordered_json;
  const tokenizer_files::Json read = tokenizer_files::parse_json(json, "tokenizer.json");
  const tokenizer_files::PostProcessor stated =
      tokenizer_files::read_post_processor(tokenizer_files::Node(read, "tokenizer.json"));
  std::vector<std::string> before, after;
  if (const auto bos = bos_id()) before.push_back(token(*bos));
  if (const auto eos = appended_eos()) after.push_back(token(*eos));
  if (stated.before == before && stated.after == after) return json;
  Json single = Json::array(), pair = Json::array(), tokens = Json::object();
  const auto add = [&](const std::vector<std::string>& names, int type) {
    for (const std::string& name : names) {
      pair.push_back({{"SpecialToken", {{"id", name}, {"type_id", type}}}});
      if (type == 0) single.push_back(pair.back());
      tokens[name] = {{"id", name}, {"ids", {*token_id(name)}}, {"tokens", {name}}};
    }
  };
  for (const int type : {0, 1}) {
    add(before, type);
    pair.push_back({{"Sequence", {{"id", type == 0 ? "A" : "B"}, {"type_id", type}}}});
    if (type == 0) single.push_back(pair.back());
    add(after, type);
  }
  Json file = Json::parse(json);
  file["post_processor"] = {
      {"type", "TemplateProcessing"}, {"single", single}, {"pair", pair}, {"special_tokens", tokens}};
  return file.dump(2) + "\n";
}

std::string Tokenizer::config_json(const std::string& hf_class) const {
  nlohmann::ordered_json config =
      kept_config_.empty() ? nlohmann::ordered_json::object() : nlohmann::ordered_json::parse(kept_config_);
  if (!config.contains("tokenizer_class")) config["tokenizer_class"] = hf_class;
  config["bos_token"] = bos_id_ ? nlohmann::ordered_json(token(*bos_id_)) : nullptr;
  config["eos_token"] = eos_id_ ? nlohmann::ordered_json(token(*eos_id_)) : nullptr;
  // Stated always: without them HF's library adds neither.
  config["add_bos_token"] = bos_id().has_value();
  config["add_eos_token"] = appended_eos().has_value();
  for (const int32_t id : extra_) {
    const AddedToken& t = *added_token(id);
    config["added_tokens_decoder"][std::to_string(id)] = {{"content", t.text},          {"single_word", t.single_word},
                                                          {"lstrip", t.lstrip},         {"rstrip", t.rstrip},
                                                          {"normalized", t.normalized}, {"special", t.special}};
  }
  if (!config.contains("clean_up_tokenization_spaces")) config["clean_up_tokenization_spaces"] = false;
  return config.dump(2) + "\n";
}

}  // namespace rw
