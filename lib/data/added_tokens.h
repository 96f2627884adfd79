// Added tokens: spelled texts that are one token whatever the rules of the vocabulary say.
#pragma once
#include <cstdint>
#include <functional>
#include <string>
#include <string_view>
#include <utility>
#include <vector>

namespace rw {

struct AddedToken {
  std::string text;
  int32_t id = 0;
  bool special = true;       // never made from plain text, decodes to nothing
  bool single_word = false;  // only where no word character touches it
  bool lstrip = false;       // takes the white space before it
  bool rstrip = false;       // and after it
  bool normalized = false;   // looked for in normalized text, spelled as the normalizer spells it
  bool operator==(const AddedToken&) const = default;
};

/// Finds added tokens in text: leftmost first, the longest among those that start together.
/// Thread safety: split() from many threads, after finish().
class TokenMatcher {
 public:
  /// `spelling` stands for tokens[index]. Errors: a spelling of more than 256 bytes, or of none.
  void add(std::string spelling, size_t index);
  /// After the last add(). Of two equal spellings the first stays.
  void finish();
  bool empty() const { return spellings_.empty(); }

  /// The longest spelling that `text` begins with: its index and length; length 0 if there is none.
  std::pair<size_t, size_t> longest(std::string_view text) const;

  /// Called with a piece of text that holds no added token (nullptr), or with one and the text that it takes.
  using Part = std::function<void(std::string_view piece, const AddedToken* token)>;
  /// Cuts `text` into consecutive parts. `tokens` is what the indices mean.
  void split(std::string_view text, const std::vector<AddedToken>& tokens, const Part& part) const;

 private:
  struct Spelling {
    std::string text;
    size_t index = 0;
  };
  const Spelling* match(std::string_view text) const;

  std::vector<Spelling> spellings_;                   // sorted by text
  std::vector<bool> first_ = std::vector<bool>(256);  // bytes that a spelling begins with
};

}  // namespace rw
