// SentencePiece-style BPE: LLaMA-2's tokenizer.model and tokenizer.json, and llama2.c's tokenizer.bin. Characters merge
// across the whole text, highest score first; a character without a piece falls back to its bytes; a space is put in
// front of the text.
#pragma once
#include <array>
#include <string>
#include <utility>
#include <vector>

#include "data/merge.h"
#include "data/tokenizer.h"

namespace rw {

/// A vocabulary entry; `text` with plain spaces (files write them as U+2581).
struct Piece {
  enum class Type : uint8_t { normal = 1, unknown = 2, control = 3, user_defined = 4, unused = 5, byte = 6 };
  std::string text;
  float score = 0;
  Type type = Type::normal;
};

/// What a SentencePiece BPE is made of.
struct SentencePieceParts {
  std::vector<Piece> pieces;                        // by id
  std::vector<std::pair<int32_t, int32_t>> merges;  // if not empty: these by rank, instead of the scores
  std::vector<AddedToken> added;                    // beyond control tokens
  bool add_dummy_prefix = true;                     // a space before the text
  bool remove_extra_whitespaces = false;            // trims, and turns runs of spaces into one
  std::string file_name, file_bytes;  // the file it came from, saved unchanged; "" to write a tokenizer.model
};

/// Thread safety: as Tokenizer.
class SentencePieceBpe : public Tokenizer {
 public:
  /// Errors: no unknown token where bytes are missing, merges of unknown pieces.
  explicit SentencePieceBpe(SentencePieceParts parts);

  std::string piece(int32_t previous, int32_t id) const override;
  std::string token(int32_t id) const override;
  std::optional<int32_t> token_id(std::string_view token) const override;
  int32_t vocab_size() const override { return static_cast<int32_t>(parts_.pieces.size()); }
  std::string kind() const override { return "SentencePiece BPE"; }
  void save(const std::string& folder) const override;

  const SentencePieceParts& parts() const { return parts_; }

 private:
  void encode_text(std::string_view text, std::vector<int32_t>& out) const override;
  void encode_run(std::string_view run, std::vector<int32_t>& symbols, std::vector<int32_t>& out) const;
  void index_pieces();
  void index_merges();

  SentencePieceParts parts_;
  std::array<int32_t, 256> byte_ids_{};
  int32_t unknown_ = -1;
  std::vector<int32_t> user_defined_;  // never merged
  StringIndex ids_;                    // text of normal and user-defined pieces -> id
  StringIndex token_ids_;              // the file's spelling of every piece -> id
  MergeTable merges_;
  bool cuts_at_spaces_ = false;  // no piece goes on over a space, so that words can be encoded one by one
};

/// Parses a SentencePiece .model (protobuf, by hand). `path` is for messages. Errors: truncated or garbled bytes,
/// another model type than BPE ("unigram" ...) and normalisation rules that are not supported, by name.
SentencePieceParts parse_sentencepiece(std::string_view bytes, const std::string& path);
/// A .model file of these pieces that the SentencePiece library loads.
std::string serialize_sentencepiece(const SentencePieceParts& parts);

/// Parses a llama2.c tokenizer.bin: i32 longest token, then for each f32 score, i32 length, bytes. Id 1 is BOS, 2 EOS
/// and 3 to 258 the bytes. Errors: truncated or garbled bytes.
SentencePieceParts parse_llama2c_tokenizer(std::string_view bytes, const std::string& path);

}  // namespace rw
