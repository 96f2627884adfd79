// Byte-level BPE, as GPT-2, Llama 3 and our own tokenizers use it. Text is cut into words (pretokenize.h). A word
// starts as bytes, and neighbours merge in the order in which training found the merges.
#pragma once
#include <array>
#include <string>
#include <utility>
#include <vector>

#include "data/merge.h"
#include "data/pretokenize.h"
#include "data/tokenizer.h"

namespace rw {

/// What a byte-level BPE is made of. Tokens here are raw bytes, not HF's printable spelling of them.
struct ByteBpeParts {
  std::vector<std::string> tokens;                  // by id; "" for ids that are unused or spelled by `added` alone
  std::vector<std::pair<int32_t, int32_t>> merges;  // in order of rank
  std::vector<AddedToken> added;                    // <s>, </s>, ...
  TextNormalizer normalizer;
  PreTokenizer pre_tokenizer;
  bool ignore_merges = false;  // a word that is a token is taken whole (Llama 3)
  std::string json;            // the tokenizer.json it came from, to be saved unchanged; "" to write one
};

/// Thread safety: as Tokenizer.
class ByteBpe : public Tokenizer {
 public:
  /// Errors: a byte without token, a merge whose result is no token, ids out of range.
  explicit ByteBpe(ByteBpeParts parts);

  size_t safe_cut(std::string_view text, size_t near) const override;
  std::string piece(int32_t previous, int32_t id) const override;
  std::string token(int32_t id) const override;
  std::optional<int32_t> token_id(std::string_view token) const override;
  int32_t vocab_size() const override { return static_cast<int32_t>(parts_.tokens.size()); }
  std::string kind() const override { return "byte-level BPE"; }
  void save(const std::string& folder) const override;
  /// Whether text that begins without a space gets one, in place of what the tokenizer's own file says.
  void set_prefix_space(bool on);

  const ByteBpeParts& parts() const { return parts_; }
  /// A tokenizer.json that HF's library loads.
  std::string to_json() const;

 private:
  void encode_text(std::string_view text, bool at_start, std::vector<int32_t>& out) const override;
  void append_token(const AddedToken& token) override;
  void index_tokens();

  ByteBpeParts parts_;
  std::array<int32_t, 256> byte_ids_{};
  MergeTable merges_;
  StringIndex ids_;      // raw bytes -> id
  bool ordered_ = true;  // every merge comes after those that make its parts
};

/// HF's printable spelling of bytes (space is Ġ) and back. byte_spelling(b) is one UTF-8 character.
const std::string& byte_spelling(uint8_t byte);
/// All 256 bytes in the order of their spelling's code points: HF's initial alphabet.
const std::array<uint8_t, 256>& byte_alphabet();
/// Errors: a character that spells no byte.
std::string unspell_bytes(std::string_view spelling);
/// True if every character spells a byte.
bool spells_bytes(std::string_view spelling);

}  // namespace rw
