// What writing and reading tokenizers of GGUF files share. Internal to lib/data.
#pragma once
#include <string>
#include <string_view>
#include <vector>

#include "data/pretokenize.h"
#include "data/tokenizer.h"

namespace rw::tokenizer_files {

inline constexpr const char* kGguf = "gguf";
inline constexpr std::string_view kSpaceMark = "\xE2\x96\x81";

/// tokenizer.ggml.token_type.
enum GgufTokenType : int32_t { kNormal = 1, kUnknown = 2, kControl = 3, kUserDefined = 4, kUnused = 5, kByte = 6 };

/// A pre-tokenizer that llama.cpp has a name for.
struct GgufPre {
  const char* name;
  std::vector<SplitRule> rules;
  bool ignore_merges;
  bool nfc;  // the published tokenizers of that name normalize to NFC, which llama.cpp leaves out
};
/// The first of equal rules is the one that is written.
const std::vector<GgufPre>& gguf_pres();

/// The token list and its types.
struct GgufTokens {
  std::vector<std::string> texts;
  std::vector<int32_t> types;
};
/// `count` tokens; those that the tokenizer lacks are unused.
GgufTokens gguf_tokens(const Tokenizer& tokenizer, int64_t count);

/// Every occurrence of `from` replaced.
std::string replaced(std::string_view text, std::string_view from, std::string_view to);

}  // namespace rw::tokenizer_files
