// The published patterns, matched by hand: each function returns where the word that begins at `at` ends.
#include "data/pretokenize.h"

#include <algorithm>

#include "data/unicode.h"

namespace rw {
namespace {

bool is_newline(uint32_t code) { return code == '\r' || code == '\n'; }

/// End of the run of characters from `at` for which `take` is true.
template <class Take>
size_t run_end(std::string_view text, size_t at, const Take& take) {
  for (Char c = char_at(text, at); c.length > 0 && take(c); c = char_at(text, at)) at += c.length;
  return at;
}

size_t class_end(std::string_view text, size_t at, CharClass cls) {
  return run_end(text, at, [cls](const Char& c) { return c.cls == cls; });
}

/// Bytes of 's 't 're 've 'm 'll 'd at `at` (an apostrophe is known to be there), or 0.
size_t contraction(std::string_view text, size_t at, bool ignore_case) {
  const auto lower = [&](size_t i) -> char {
    if (i >= text.size()) return 0;
    const char c = text[i];
    return ignore_case && c >= 'A' && c <= 'Z' ? static_cast<char>(c + 32) : c;
  };
  const char a = lower(at + 1), b = lower(at + 2);
  if (a == 's' || a == 't' || a == 'm' || a == 'd') return 2;
  if ((a == 'r' && b == 'e') || (a == 'v' && b == 'e') || (a == 'l' && b == 'l')) return 3;
  if (ignore_case && char_at(text, at + 1).code == 0x17F) return 3;  // the long s folds to s
  return 0;
}

/// \s+(?!\S)|\s+ : white space leaves its last character to the word that follows, unless it is the only one.
size_t space_end(std::string_view text, size_t at) {
  size_t end = at, last = at;  // `last` is where the run's last character begins
  for (Char c = char_at(text, end); c.cls == CharClass::space; c = char_at(text, end)) {
    last = end;
    end += c.length;
  }
  return end == text.size() || last == at ? end : last;
}

size_t gpt2_end(std::string_view text, size_t at) {
  const Char first = char_at(text, at);
  if (first.code == '\'') {
    if (const size_t n = contraction(text, at, false)) return at + n;
  }
  // " ?" before a run of one class that is not white space
  const Char second = first.code == ' ' ? char_at(text, at + 1) : first;
  const size_t start = first.code == ' ' ? at + 1 : at;
  if (second.length > 0 && second.cls != CharClass::space) return class_end(text, start, second.cls);
  return space_end(text, at);
}

size_t llama3_end(std::string_view text, size_t at, int max_digits) {
  const Char first = char_at(text, at);
  if (first.code == '\'') {
    if (const size_t n = contraction(text, at, true)) return at + n;
  }
  if (first.cls == CharClass::letter) return class_end(text, at, CharClass::letter);
  const size_t next = at + first.length;
  if (first.cls != CharClass::number && !is_newline(first.code) && char_at(text, next).cls == CharClass::letter) {
    return class_end(text, next, CharClass::letter);
  }
  if (first.cls == CharClass::number) {
    int digits = 0;
    return run_end(text, at, [&](const Char& c) { return c.cls == CharClass::number && digits++ < max_digits; });
  }
  const size_t start = first.code == ' ' ? next : at;
  const Char c = char_at(text, start);
  if (c.length > 0 && c.cls == CharClass::other) {
    const size_t end = class_end(text, start, CharClass::other);
    return run_end(text, end, [](const Char& n) { return is_newline(n.code); });
  }
  // \s*[\r\n]+ : white space up to its last newline
  size_t newline_end = 0;
  for (size_t end = at; char_at(text, end).cls == CharClass::space;) {
    const Char space = char_at(text, end);
    end += space.length;
    if (is_newline(space.code)) newline_end = end;
  }
  return newline_end > 0 ? newline_end : space_end(text, at);
}

size_t digits_end(std::string_view text, size_t at, bool individual) {
  const Char first = char_at(text, at);
  if (first.cls != CharClass::number)
    return run_end(text, at, [](const Char& c) { return c.cls != CharClass::number; });
  return individual ? at + first.length : class_end(text, at, CharClass::number);
}

size_t word_end(SplitRule rule, std::string_view text, size_t at) {
  switch (rule) {
    case SplitRule::gpt2:
      return gpt2_end(text, at);
    case SplitRule::llama3:
      return llama3_end(text, at, 3);
    case SplitRule::qwen2:
      return llama3_end(text, at, 1);
    case SplitRule::individual_digits:
      return digits_end(text, at, true);
    case SplitRule::digits:
      return digits_end(text, at, false);
    case SplitRule::literal:
      break;
  }
  return text.size();
}

using Word = std::function<void(std::string_view)>;

/// Cuts at every occurrence of a literal, from left to right.
void split_literal(const SplitStep& step, std::string_view text, const Word& word) {
  const size_t size = step.literal.size();
  const bool keep_together = step.behavior == SplitBehavior::contiguous;
  const auto hand_out = [&](size_t begin, size_t end) {
    if (end > begin) word(text.substr(begin, end - begin));
  };
  size_t begin = 0;
  for (size_t at = text.find(step.literal); at != std::string_view::npos; at = text.find(step.literal, at)) {
    size_t end = at + size;
    while (keep_together && text.substr(end, size) == step.literal) end += size;
    switch (step.behavior) {
      case SplitBehavior::removed:
        hand_out(begin, at);
        begin = end;
        break;
      case SplitBehavior::merged_with_previous:
        hand_out(begin, end);
        begin = end;
        break;
      case SplitBehavior::merged_with_next:
        hand_out(begin, at);
        begin = at;
        break;
      default:
        hand_out(begin, at);
        hand_out(at, end);
        begin = end;
    }
    at = end;
  }
  hand_out(begin, text.size());
}

void split_by(const std::vector<SplitStep>& rules, size_t level, std::string_view text, const Word& word) {
  if (level == rules.size()) {
    word(text);
    return;
  }
  if (rules[level].rule == SplitRule::literal) {
    split_literal(rules[level], text, [&](std::string_view part) { split_by(rules, level + 1, part, word); });
    return;
  }
  for (size_t at = 0; at < text.size();) {
    const size_t end = word_end(rules[level].rule, text, at);
    split_by(rules, level + 1, text.substr(at, end - at), word);
    at = end;
  }
}

}  // namespace

std::string_view regex_of(SplitRule rule) {
  switch (rule) {
    case SplitRule::gpt2:
      return R"('s|'t|'re|'ve|'m|'ll|'d| ?\p{L}+| ?\p{N}+| ?[^\s\p{L}\p{N}]+|\s+(?!\S)|\s+)";
    case SplitRule::llama3:
      return R"((?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}{1,3}| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+)";
    case SplitRule::qwen2:
      return R"((?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+)";
    default:
      return "";
  }
}

std::optional<SplitRule> rule_of_regex(std::string_view regex) {
  for (const SplitRule rule : {SplitRule::gpt2, SplitRule::llama3, SplitRule::qwen2}) {
    if (regex == regex_of(rule)) return rule;
  }
  // The same languages, spelled with possessive quantifiers and shared prefixes (tiktoken's files).
  if (regex == R"('(?:[sdmt]|ll|ve|re)| ?\p{L}+| ?\p{N}+| ?[^\s\p{L}\p{N}]+|\s+(?!\S)|\s+)") return SplitRule::gpt2;
  for (
      const char* same :
      {R"('(?i:[sdmt]|ll|ve|re)|[^\r\n\p{L}\p{N}]?+\p{L}+|\p{N}{1,3}| ?[^\s\p{L}\p{N}]++[\r\n]*|\s*[\r\n]|\s+(?!\S)|\s+)",
       R"('(?i:[sdmt]|ll|ve|re)|[^\r\n\p{L}\p{N}]?+\p{L}+|\p{N}{1,3}| ?[^\s\p{L}\p{N}]++[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+)"}) {
    if (regex == same) return SplitRule::llama3;
  }
  return std::nullopt;
}

std::string PreTokenizer::prepared(std::string_view text, bool at_start) const {
  const bool wanted = prefix == SpacePrefix::always || (prefix == SpacePrefix::first && at_start);
  const bool has_one = text.starts_with(' ') || (!space.empty() && text.starts_with(space));
  std::string out;
  out.reserve(text.size() + text.size() / 4 + 4);
  const std::string_view mark = space.empty() ? std::string_view(" ") : std::string_view(space);
  if (wanted && !has_one) out += mark;
  for (const char c : text) {
    if (c == ' ') out += mark;
    else out += c;
  }
  return out;
}

void PreTokenizer::split(std::string_view text, const std::function<void(std::string_view)>& word) const {
  if (!text.empty()) split_by(rules, 0, text, word);
}

bool PreTokenizer::cuts_before_space() const {
  const bool words = std::any_of(rules.begin(), rules.end(), [](const SplitStep& step) {
    return step.rule == SplitRule::gpt2 || step.rule == SplitRule::llama3 || step.rule == SplitRule::qwen2;
  });
  const bool literals =
      std::any_of(rules.begin(), rules.end(), [](const SplitStep& s) { return s.rule == SplitRule::literal; });
  return words && !literals && !changes_text();
}

}  // namespace rw
