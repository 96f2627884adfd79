#include "data/tokenizer.h"

#include <algorithm>
#include <nlohmann/json.hpp>

#include "tensor/error.h"

namespace rw {

std::vector<int32_t> Tokenizer::encode(std::string_view text) const { return encode_parts(text, false); }

std::vector<int32_t> Tokenizer::encode_special(std::string_view text) const { return encode_parts(text, true); }

std::vector<int32_t> Tokenizer::encode_with_bos(std::string_view text) const {
  check(bos_id_.has_value(), "tokenizer", "this ", kind(), " tokenizer has no BOS token");
  std::vector<int32_t> ids = encode(text);
  ids.insert(ids.begin(), *bos_id_);
  return ids;
}

/// Cuts `text` at added tokens, leftmost first and the longest among those that start together.
std::vector<int32_t> Tokenizer::encode_parts(std::string_view text, bool special) const {
  std::vector<int32_t> ids;
  std::vector<const AddedToken*> wanted;
  std::vector<bool> first_bytes(256);
  for (const AddedToken& token : added_) {
    if (token.special && !special) continue;
    wanted.push_back(&token);
    first_bytes[static_cast<unsigned char>(token.text[0])] = true;
  }
  size_t begin = 0;
  for (size_t at = 0; at < text.size() && !wanted.empty();) {
    const AddedToken* match = nullptr;
    if (first_bytes[static_cast<unsigned char>(text[at])]) {
      for (const AddedToken* token : wanted) {
        const bool longer = match == nullptr || token->text.size() > match->text.size();
        if (longer && text.substr(at, token->text.size()) == token->text) match = token;
      }
    }
    if (match == nullptr) {
      ++at;
      continue;
    }
    if (at > begin) encode_text(text.substr(begin, at - begin), ids);
    ids.push_back(match->id);
    begin = at += match->text.size();
  }
  if (begin < text.size()) encode_text(text.substr(begin), ids);
  return ids;
}

std::string Tokenizer::decode(std::span<const int32_t> ids) const {
  std::string text;
  int32_t previous = -1;
  for (size_t i = 0; i < ids.size(); ++i) {
    check(ids[i] >= 0 && ids[i] < vocab_size(), "tokenizer", "token id ", ids[i], " at position ", i,
          " is beyond the vocabulary of ", vocab_size());
    text += piece(previous, ids[i]);
    previous = ids[i];
  }
  return text;
}

size_t Tokenizer::safe_cut(std::string_view text, size_t) const { return text.size(); }

bool Tokenizer::is_special(int32_t id) const {
  return std::any_of(added_.begin(), added_.end(), [id](const AddedToken& t) { return t.special && t.id == id; });
}

void Tokenizer::check_id(int32_t id) const {
  check(id >= 0 && id < vocab_size(), "tokenizer", "token id ", id, " is beyond the vocabulary of ", vocab_size());
}

void Tokenizer::add_token(AddedToken token) {
  check(!token.text.empty(), "tokenizer", "added token ", token.id, " is empty");
  added_.push_back(std::move(token));
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

std::string Tokenizer::config_json(const std::string& hf_class) const {
  nlohmann::ordered_json config;
  config["tokenizer_class"] = hf_class;
  config["bos_token"] = bos_id_ ? nlohmann::ordered_json(token(*bos_id_)) : nullptr;
  config["eos_token"] = eos_id_ ? nlohmann::ordered_json(token(*eos_id_)) : nullptr;
  config["clean_up_tokenization_spaces"] = false;
  return config.dump(2) + "\n";
}

}  // namespace rw
