// Pre-tokenizers: where a byte-level BPE cuts text into words. The regular expressions that models publish are matched
// by hand: they are few, and a general engine with Unicode classes is both a dependency and slow.
#pragma once
#include <functional>
#include <optional>
#include <string>
#include <string_view>
#include <vector>

namespace rw {

enum class SplitRule {
  gpt2,    // 's|'t|'re|'ve|'m|'ll|'d| ?\p{L}+| ?\p{N}+| ?[^\s\p{L}\p{N}]+|\s+(?!\S)|\s+
  llama3,  // (?i:'s|...)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}{1,3}| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+
  qwen2,   // llama3 with \p{N} in place of \p{N}{1,3}
  individual_digits,  // every \p{N} stands alone
  digits,             // runs of \p{N} stand alone
  literal,            // at a given text
};

/// What becomes of a literal that text is cut at, named as in HF's library.
enum class SplitBehavior { removed, isolated, merged_with_previous, merged_with_next, contiguous };

/// One cut of a text.
struct SplitStep {
  SplitStep(SplitRule r) : rule(r) {}
  SplitStep(std::string text, SplitBehavior b) : rule(SplitRule::literal), literal(std::move(text)), behavior(b) {}
  SplitRule rule;
  std::string literal = {};
  SplitBehavior behavior = SplitBehavior::isolated;
};

/// The published regular expression of gpt2, llama3 and qwen2; "" for the digit rules.
std::string_view regex_of(SplitRule rule);

/// Which texts get a space in front.
enum class SpacePrefix {
  never,
  first,   // where a text begins, not after an added token
  always,  // every span between added tokens
};

/// Rules applied one inside the other: each cuts the words of the one before. Thread safety: split() from many
/// threads at once.
struct PreTokenizer {
  std::vector<SplitStep> rules = {};
  SpacePrefix prefix = SpacePrefix::never;  // only in front of text that does not start with a space
  std::string space = {};                   // stands for every space, as Metaspace's "▁"; "": spaces stay

  /// True if `prepared` changes anything.
  bool changes_text() const { return prefix != SpacePrefix::never || !space.empty(); }
  /// The text with its prefix and its spaces replaced. `at_start`: nothing stands before it.
  std::string prepared(std::string_view text, bool at_start) const;
  /// Calls `word` on consecutive pieces that together are the prepared `text`, but for literals that are removed.
  void split(std::string_view text, const std::function<void(std::string_view)>& word) const;
  /// True if "a b" is always cut before the space, so that long texts can be encoded in parts.
  bool cuts_before_space() const;
};

/// The rule of a published regular expression, in any of the spellings that are in use; empty for others.
std::optional<SplitRule> rule_of_regex(std::string_view regex);

}  // namespace rw
