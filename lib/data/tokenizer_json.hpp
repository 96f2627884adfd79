// Readers of the JSON files that tokenizers come in. Internal to lib/data.
#pragma once
#include <memory>
#include <string>

#include "data/json_node.hpp"
#include "data/tokenizer.h"

namespace rw::tokenizer_files {

/// HF's tokenizer.json; `text` is the file, which is saved unchanged. Errors: what is missing,
/// garbled or not supported, by its place in the file.
std::unique_ptr<Tokenizer> read_tokenizer_json(const Json& json, const std::string& text, const std::string& path);

/// How the words of a vocab.json are cut: GPT-2's pattern; the same after NFC; or Qwen 2's after NFC.
enum class VocabStyle { gpt2, neox, qwen2 };

/// vocab.json with its merges.txt. `add_prefix_space`: a space is put in front of text that has none.
std::unique_ptr<Tokenizer> read_vocab_and_merges(const Json& vocab, const std::string& vocab_path,
                                                 const std::string& merges_path, VocabStyle style,
                                                 bool add_prefix_space);

/// One added token: an object with content, special, lstrip, rstrip, single_word, normalized.
AddedToken read_added_token(const Node& node, int32_t id);
/// The same the other way round: the list `added_tokens` of a tokenizer.json.
nlohmann::ordered_json added_tokens_json(const std::vector<AddedToken>& tokens);

}  // namespace rw::tokenizer_files
