// Tokenizer: text to token ids and back. Text is bytes: UTF-8 by convention, but nothing breaks on bytes that are not.
//
//   auto tokenizer = load_tokenizer("models/books30m");   // a HF folder, or one file
//   std::vector<int32_t> ids = tokenizer->encode("Call me Ishmael.");
//   std::string text = tokenizer->decode(ids);
//
// Two kinds: byte-level BPE (byte_bpe.h: GPT-2, Llama 3, our own, plain bytes) and SentencePiece-style BPE
// (sentencepiece.h: LLaMA-2's .model and tokenizer.json, llama2.c's .bin).
#pragma once
#include <algorithm>
#include <array>
#include <cstdint>
#include <memory>
#include <optional>
#include <set>
#include <span>
#include <string>
#include <string_view>
#include <unordered_map>
#include <vector>

#include "data/added_tokens.h"
#include "data/merge.h"
#include "data/normalizer.h"

namespace rw {

/// Whether a text begins with BOS and ends with EOS, as the tokenizer's files state it.
struct TextEnds {
  std::optional<bool> bos, eos;  // empty: not stated
};

/// Thread safety: const functions may be called from many threads at once; set_bos() and set_eos() may not.
class Tokenizer {
 public:
  virtual ~Tokenizer() = default;

  /// Ids of `text`, with no BOS or EOS added. Special tokens that are spelled out in the text ("<s>") stay plain text,
  /// so that a document cannot forge one; encode_special() turns them into their ids. Safe to call from many threads.
  std::vector<int32_t> encode(std::string_view text) const;
  /// Like encode(), but a special token spelled out in `text` becomes its id, as in HF's tokenizers.
  std::vector<int32_t> encode_special(std::string_view text) const;
  /// [bos] + encode(text). Errors: the tokenizer has no BOS.
  std::vector<int32_t> encode_with_bos(std::string_view text) const;

  /// Like encode(), for a piece of a text: unless it is `at_start`, no space is put in front of it.
  std::vector<int32_t> encode_within(std::string_view text, bool at_start) const;
  /// The ids of a whole text as HF's tokenizer(text) gives them. Special tokens in the text become their ids. BOS and
  /// EOS stand where the tokenizer's files say so.
  std::vector<int32_t> encode_template(std::string_view text) const;

  /// Text of `ids`; special tokens and padding give nothing. Errors: an id outside [0,
  /// padded_size()), named with its position.
  std::string decode(std::span<const int32_t> ids) const;
  /// The bytes that `id` adds after `previous` (-1 at the start), for printing while
  /// generating: the pieces of a sequence concatenate to decode(). A character may be spread
  /// over several pieces. Errors: id outside the vocabulary.
  virtual std::string piece(int32_t previous, int32_t id) const = 0;
  /// The vocabulary's own spelling of `id`, as in its file ("Ġthe", "▁the", "<0x0A>", "<s>").
  virtual std::string token(int32_t id) const = 0;
  virtual std::optional<int32_t> token_id(std::string_view token) const = 0;

  /// A place at or after `near` where `text` may be cut so that the parts' ids concatenate to the whole's; text.size()
  /// if none is known. Lets one long document be encoded in parallel.
  virtual size_t safe_cut(std::string_view text, size_t near) const;

  /// One more than the largest id.
  virtual int32_t vocab_size() const = 0;
  /// Says how many tokens the model knows. Tables are often larger than the vocabulary, rounded up to a multiple of 64:
  /// ids beyond the vocabulary then decode to nothing instead of being errors. With a smaller one, encoding a text that
  /// needs a token beyond it is an error that names the token.
  void fit_model(int64_t model_vocab) { model_vocab_ = static_cast<int32_t>(model_vocab); }
  int32_t padded_size() const { return std::max(vocab_size(), model_vocab_); }
  /// One more than the largest id that encode() gives.
  int32_t id_limit() const { return model_vocab_ > 0 ? std::min(vocab_size(), model_vocab_) : vocab_size(); }

  /// The token that a text begins with: BOS, unless there is none or the files say that texts begin without.
  std::optional<int32_t> bos_id() const { return ends_.bos.value_or(true) ? bos_id_ : std::nullopt; }
  /// The token that a text ends at.
  std::optional<int32_t> eos_id() const { return eos_id_; }
  /// What the files call BOS, whether texts begin with it or not.
  std::optional<int32_t> named_bos() const { return bos_id_; }
  /// The token that encode_template() puts after a text: EOS if the files say so.
  std::optional<int32_t> appended_eos() const { return ends_.eos.value_or(false) ? eos_id_ : std::nullopt; }
  /// Tokens that are matched before any other rule. Special ones are never produced by encode() and decode to nothing.
  const std::vector<AddedToken>& added_tokens() const { return added_; }
  bool is_special(int32_t id) const;

  /// A word for messages: "byte-level BPE", "SentencePiece BPE".
  virtual std::string kind() const = 0;
  /// Writes the tokenizer's files into an existing folder, in HF layout: load_tokenizer(folder) gives it back.
  virtual void save(const std::string& folder) const = 0;

  /// Sets BOS and EOS by spelling, for tokenizers whose files do not tell. Errors: no such token.
  void set_bos(std::string_view token);
  void set_eos(std::string_view token);
  /// Texts have no BOS, or no EOS, whatever the usual names suggest.
  void clear_bos() { bos_id_.reset(); }
  void clear_eos() { eos_id_.reset(); }
  void set_ends(const TextEnds& ends) { ends_ = ends; }
  const TextEnds& ends() const { return ends_; }
  /// Adds tokens, in the vocabulary or beyond it, as added_tokens.json does. Errors: an id of another token, ids that
  /// leave a gap after the vocabulary.
  void add_tokens(std::vector<AddedToken> tokens);
  /// Chat template and whatever else of tokenizer_config.json is kept and written back, as JSON; "" if nothing.
  void set_kept_config(std::string json) { kept_config_ = std::move(json); }
  const std::string& kept_config() const { return kept_config_; }

 protected:
  /// Appends the ids of normalized text that holds no added token. `at_start`: nothing stands before it.
  virtual void encode_text(std::string_view text, bool at_start, std::vector<int32_t>& out) const = 0;
  void check_id(int32_t id) const;
  /// One more token at the end of the vocabulary, which only add_tokens() spells.
  virtual void append_token(const AddedToken& token) = 0;
  /// Makes a token known to encode(); the vocabulary is the caller's. Errors: no text, or too long a one.
  void add_token(AddedToken token);
  /// After the last add_token() and set_normalizer(), again after each later one.
  void finish_tokens();
  void set_normalizer(TextNormalizer normalizer) { normalizer_ = std::move(normalizer); }
  const TextNormalizer& normalizer() const { return normalizer_; }
  /// The added token of this id; nullptr if there is none.
  const AddedToken* added_token(int32_t id) const;
  std::optional<int32_t> added_id(std::string_view text) const;
  /// True if encode() may look across a space for an added token.
  bool added_in_text() const { return !matchers_[0].empty() || !matchers_[1].empty(); }
  /// True for ids in [vocab_size(), padded_size()).
  bool is_padding(int32_t id) const { return id >= vocab_size() && id < padded_size(); }
  /// Takes the usual names (<s>, <|begin_of_text|>, <|endoftext|> ...).
  void guess_bos_eos();
  /// A tokenizer.json whose post-processor puts BOS and EOS where this tokenizer
  /// does: `json` itself if it does so already.
  std::string with_post_processor(const std::string& json) const;
  /// The text of tokenizer_config.json for HF's library.
  std::string config_json(const std::string& hf_class) const;

 private:
  std::vector<int32_t> encode_parts(std::string_view text, bool special, bool at_start) const;

  std::vector<AddedToken> added_;
  std::set<int32_t> extra_;                    // ids of those that add_tokens() has brought
  std::unordered_map<int32_t, size_t> by_id_;  // id -> index in added_
  StringIndex added_ids_;                      // text -> id
  // For encode(), then encode_special(): in each the tokens looked for in text, then in normalized text.
  std::array<TokenMatcher, 4> matchers_;
  TextNormalizer normalizer_;
  std::optional<int32_t> bos_id_, eos_id_;
  TextEnds ends_;
  int32_t model_vocab_ = 0;  // 0: not known
  std::string kept_config_;
};

/// Reads a HF folder or one file. A folder has tokenizer.json, tokenizer.model, or vocab.json with merges.txt. In it
/// added_tokens.json adds tokens, and tokenizer_config.json names BOS and EOS and says whether texts have them. A file
/// is *.json (tokenizer.json or a GPT-2 vocab with its merges beside it), *.model (SentencePiece) or *.bin (llama2.c).
/// Errors: missing, unreadable, truncated or garbled files, and kinds that are not supported, by name.
std::unique_ptr<Tokenizer> load_tokenizer(const std::string& path);

/// The 256 bytes and <s>=0, </s>=1: a byte-level BPE without merges, vocabulary 258.
/// Its tokenizer.json loads in HF's library.
std::unique_ptr<Tokenizer> make_byte_tokenizer();

}  // namespace rw
