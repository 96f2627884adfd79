// Tokenizer: text to token ids and back. Text is bytes: UTF-8 by convention, but nothing breaks on bytes that are not.
//
//   auto tokenizer = load_tokenizer("models/books30m");   // a HF folder, or one file
//   std::vector<int32_t> ids = tokenizer->encode("Call me Ishmael.");
//   std::string text = tokenizer->decode(ids);
//
// Two kinds: byte-level BPE (byte_bpe.h: GPT-2, Llama 3, our own, plain bytes) and SentencePiece-style BPE
// (sentencepiece.h: LLaMA-2's .model and tokenizer.json, llama2.c's .bin).
#pragma once
#include <cstdint>
#include <memory>
#include <optional>
#include <span>
#include <string>
#include <string_view>
#include <vector>

namespace rw {

struct AddedToken {
  std::string text;
  int32_t id = 0;
  bool special = true;
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

  /// Text of `ids`; special tokens give nothing. Errors: an id outside [0, vocab_size()), named with its position.
  std::string decode(std::span<const int32_t> ids) const;
  /// The bytes that `id` adds after `previous` (-1 at the start), for printing while generating: the pieces of a
  /// sequence concatenate to decode(). A character may be spread over several pieces. Errors: id outside the
  /// vocabulary.
  virtual std::string piece(int32_t previous, int32_t id) const = 0;
  /// The vocabulary's own spelling of `id`, as in its file ("Ġthe", "▁the", "<0x0A>", "<s>").
  virtual std::string token(int32_t id) const = 0;
  virtual std::optional<int32_t> token_id(std::string_view token) const = 0;

  /// A place at or after `near` where `text` may be cut so that the parts' ids concatenate to the whole's; text.size()
  /// if none is known. Lets one long document be encoded in parallel.
  virtual size_t safe_cut(std::string_view text, size_t near) const;

  /// One more than the largest id.
  virtual int32_t vocab_size() const = 0;
  std::optional<int32_t> bos_id() const { return bos_id_; }
  std::optional<int32_t> eos_id() const { return eos_id_; }
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

 protected:
  /// Appends the ids of text that holds no added token.
  virtual void encode_text(std::string_view text, std::vector<int32_t>& out) const = 0;
  void check_id(int32_t id) const;
  void add_token(AddedToken token);
  /// Takes the usual names (<s>, <|begin_of_text|>, <|endoftext|> ...).
  void guess_bos_eos();
  /// The text of tokenizer_config.json for HF's library.
  std::string config_json(const std::string& hf_class) const;

 private:
  std::vector<int32_t> encode_parts(std::string_view text, bool special) const;

  std::vector<AddedToken> added_;
  std::optional<int32_t> bos_id_, eos_id_;
};

/// Reads a HF folder (tokenizer.json, tokenizer.model, or vocab.json with merges.txt; tokenizer_config.json names BOS
/// and EOS) or one file: *.json (tokenizer.json or a GPT-2 vocab with its merges beside it), *.model (SentencePiece),
/// *.bin (llama2.c). Errors: missing, unreadable, truncated or garbled files, and kinds that are not supported, by
/// name.
std::unique_ptr<Tokenizer> load_tokenizer(const std::string& path);

/// The 256 bytes and <s>=0, </s>=1: a byte-level BPE without merges, vocabulary 258. Its tokenizer.json loads in HF's
/// library.
std::unique_ptr<Tokenizer> make_byte_tokenizer();

}  // namespace rw
