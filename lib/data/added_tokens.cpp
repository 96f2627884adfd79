// The search for added tokens, with the options that HF's AddedToken has.
#include "data/added_tokens.h"

#include <algorithm>

#include "data/unicode.h"
#include "tensor/error.h"

namespace rw {
namespace {

/// True if white space or nothing but a non-word character touches both ends of [begin, end).
bool stands_alone(std::string_view text, size_t begin, size_t end) {
  const bool before = begin > 0 && is_word(char_before(text, begin).code);
  const bool after = end < text.size() && is_word(char_at(text, end).code);
  return !before && !after;
}

size_t spaces_begin(std::string_view text, size_t at, size_t floor) {
  while (at > floor) {
    const Char c = char_before(text, at);
    if (c.cls != CharClass::space) break;
    at -= c.length;
  }
  return std::max(at, floor);
}

size_t spaces_end(std::string_view text, size_t at) {
  for (Char c = char_at(text, at); c.cls == CharClass::space; c = char_at(text, at)) at += c.length;
  return at;
}

}  // namespace

void TokenMatcher::add(std::string spelling, size_t index) {
  // A text is compared with every spelling that begins like it, so lengths bound the time for one character.
  check(!spelling.empty() && spelling.size() <= 256, "tokenizer", "an added token has ", spelling.size(),
        " bytes, expected 1 to 256");
  first_[static_cast<unsigned char>(spelling[0])] = true;
  spellings_.push_back({std::move(spelling), index});
}

void TokenMatcher::finish() {
  std::stable_sort(spellings_.begin(), spellings_.end(),
                   [](const Spelling& a, const Spelling& b) { return a.text < b.text; });
  const auto same = [](const Spelling& a, const Spelling& b) { return a.text == b.text; };
  spellings_.erase(std::unique(spellings_.begin(), spellings_.end(), same), spellings_.end());
}

/// The longest spelling that `text` begins with: the range of those that agree so far shrinks byte by byte.
const TokenMatcher::Spelling* TokenMatcher::match(std::string_view text) const {
  const Spelling* best = nullptr;
  auto first = spellings_.begin(), last = spellings_.end();
  for (size_t i = 0; first != last; ++i) {
    if (first->text.size() == i) best = &*first;
    if (i == text.size()) break;
    const auto byte = static_cast<unsigned char>(text[i]);
    const auto before = [i](const Spelling& s, unsigned char b) {
      return s.text.size() <= i || static_cast<unsigned char>(s.text[i]) < b;
    };
    const auto beyond = [i](unsigned char b, const Spelling& s) {
      return s.text.size() > i && b < static_cast<unsigned char>(s.text[i]);
    };
    first = std::lower_bound(first, last, byte, before);
    last = std::upper_bound(first, last, byte, beyond);
  }
  return best;
}

std::pair<size_t, size_t> TokenMatcher::longest(std::string_view text) const {
  const bool may = !text.empty() && first_[static_cast<unsigned char>(text[0])];
  const Spelling* found = may ? match(text) : nullptr;
  return found == nullptr ? std::pair<size_t, size_t>{0, 0} : std::pair{found->index, found->text.size()};
}

void TokenMatcher::split(std::string_view text, const std::vector<AddedToken>& tokens, const Part& part) const {
  size_t done = 0;  // text up to here has been handed out
  for (size_t at = 0; at < text.size() && !empty();) {
    const Spelling* found = first_[static_cast<unsigned char>(text[at])] ? match(text.substr(at)) : nullptr;
    if (found == nullptr) {
      ++at;
      continue;
    }
    const AddedToken& token = tokens[found->index];
    size_t begin = at, end = at + found->text.size();
    at = end;
    if (token.single_word && !stands_alone(text, begin, end)) continue;
    if (token.lstrip) begin = spaces_begin(text, begin, std::min(done, begin));
    if (token.rstrip) end = spaces_end(text, end);
    if (begin > done) part(text.substr(done, begin - done), nullptr);
    part(text.substr(begin, end - begin), &token);
    done = end;
  }
  if (done < text.size()) part(text.substr(done), nullptr);
}

}  // namespace rw
