// Pre-tokenizers: where a byte-level BPE cuts text into words. The regular expressions that models publish are matched
// by hand: they are few, and a general engine with Unicode classes is both a dependency and slow.
#pragma once
#include <functional>
#include <string_view>
#include <vector>

namespace rw {

enum class SplitRule {
  gpt2,    // 's|'t|'re|'ve|'m|'ll|'d| ?\p{L}+| ?\p{N}+| ?[^\s\p{L}\p{N}]+|\s+(?!\S)|\s+
  llama3,  // (?i:'s|...)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}{1,3}| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+
  qwen2,   // llama3 with \p{N} in place of \p{N}{1,3}
  individual_digits,  // every \p{N} stands alone
  digits,             // runs of \p{N} stand alone
};

/// The published regular expression of gpt2, llama3 and qwen2; "" for the digit rules.
std::string_view regex_of(SplitRule rule);

/// Rules applied one inside the other: each cuts the words of the one before. Thread safety: split() from many
/// threads at once.
struct PreTokenizer {
  std::vector<SplitRule> rules;
  bool add_prefix_space = false;  // a space is put before text that does not start with one

  /// Calls `word` on consecutive pieces that together are `text`. (The prefix space is the caller's.)
  void split(std::string_view text, const std::function<void(std::string_view)>& word) const;
  /// True if "a b" is always cut before the space, so that long texts can be encoded in parts.
  bool cuts_before_space() const;
};

}  // namespace rw
