// SentencePiece-style BPE: LLaMA-2's tokenizer.model and tokenizer.json, and llama2.c's tokenizer.bin. Characters merge
// across the whole text, highest score first; a character without a piece falls back to its bytes; a space is put in
// front of the text.
#pragma once
#include <array>
#include <string>
#include <utility>
#include <vector>

#include "data/merge.h"
#include "data/pretokenize.h"
#include "data/tokenizer.h"

namespace rw {

/// A vocabulary entry; `text` as files spell it, with U+2581 for spaces.
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
  // What a tokenizer.json states instead of the two above; a .model has its own rules.
  bool from_json = false;
  TextNormalizer normalizer;
  PreTokenizer pre_tokenizer;
  bool ignore_merges = false;
  bool fuse_unknown = true;           // a run of unknown characters is one token
  bool byte_fallback = true;          // characters without a piece are spelled in bytes if all their pieces are there
  bool marks_are_spaces = true;       // U+2581 is a space in the text of ids
  bool strips_first = true;           // a text of ids loses the space that it begins with
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
  /// Whether text gets a space in front, in place of what a .model says; a tokenizer.json has rules of its own.
  void set_prefix_space(bool on);

  const SentencePieceParts& parts() const { return parts_; }

 private:
  void encode_text(std::string_view text, bool at_start, std::vector<int32_t>& out) const override;
  void append_token(const AddedToken& token) override;
  void encode_word(std::string_view word, WordCache& cache, std::vector<int32_t>& out) const;
  void encode_run(std::string_view run, std::vector<int32_t>& out) const;
  size_t next_symbols(std::string_view run, size_t at, std::vector<int32_t>& symbols) const;
  bool spell_in_bytes(std::string_view character, std::vector<int32_t>& symbols) const;
  std::string clean_text(std::string_view text, bool at_start) const;
  void index_pieces();
  void index_piece(int32_t id);
  void index_merges();
  void index_ranked_merges();

  SentencePieceParts parts_;
  std::array<int32_t, 256> byte_ids_{};
  int32_t unknown_ = -1;
  std::vector<AddedToken> user_defined_;  // pieces that are taken whole wherever they stand
  TokenMatcher user_defined_matcher_;
  StringIndex ids_;        // text of pieces that text may become -> id
  StringIndex token_ids_;  // the file's spelling of every piece -> id
  MergeTable merges_;
  bool cuts_at_spaces_ = false;  // no piece goes on over a space, so that words can be encoded one by one
  bool ordered_ = true;          // every merge comes after those that make its parts
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
