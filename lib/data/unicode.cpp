// UTF-8 and character classes: ASCII from a small table, the rest by search in the ranges of unicode_tables.h.
#include "data/unicode.h"

#include <algorithm>
#include <array>
#include <iterator>

#include "data/unicode_tables.h"

namespace rw {
namespace {

using unicode_tables::Range;

template <size_t N>
bool in_ranges(const Range (&ranges)[N], uint32_t code) {
  const Range* after = std::upper_bound(std::begin(ranges), std::end(ranges), code,
                                        [](uint32_t c, const Range& r) { return c < r.first; });
  return after != std::begin(ranges) && code <= std::prev(after)->last;
}

constexpr CharClass ascii_class(uint32_t c) {
  if ((c >= 'a' && c <= 'z') || (c >= 'A' && c <= 'Z')) return CharClass::letter;
  if (c >= '0' && c <= '9') return CharClass::number;
  if (c == ' ' || (c >= 9 && c <= 13)) return CharClass::space;
  return CharClass::other;
}

constexpr std::array<CharClass, 128> kAscii = [] {
  std::array<CharClass, 128> table{};
  for (uint32_t c = 0; c < 128; ++c) table[c] = ascii_class(c);
  return table;
}();

bool is_space_above_ascii(uint32_t c) {
  return c == 0x85 || c == 0xA0 || c == 0x1680 || (c >= 0x2000 && c <= 0x200A) || c == 0x2028 || c == 0x2029 ||
         c == 0x202F || c == 0x205F || c == 0x3000;
}

}  // namespace

CharClass class_of(uint32_t code) {
  if (code < 128) return kAscii[code];
  if (code > 0x10FFFF) return CharClass::other;
  if (is_space_above_ascii(code)) return CharClass::space;
  if (in_ranges(unicode_tables::kLetters, code)) return CharClass::letter;
  if (in_ranges(unicode_tables::kNumbers, code)) return CharClass::number;
  return CharClass::other;
}

Char char_at(std::string_view text, size_t at) {
  if (at >= text.size()) return {};
  const auto byte = [&](size_t i) { return static_cast<uint32_t>(static_cast<unsigned char>(text[at + i])); };
  const uint32_t lead = byte(0);
  if (lead < 0x80) return {lead, 1, kAscii[lead]};

  const Char invalid{kInvalidChar, 1, CharClass::other};
  const uint32_t length = lead >= 0xC2 && lead <= 0xDF   ? 2
                          : (lead & 0xF0) == 0xE0        ? 3
                          : lead >= 0xF0 && lead <= 0xF4 ? 4
                                                         : 0;
  if (length == 0 || at + length > text.size()) return invalid;
  uint32_t code = lead & (0x7Fu >> length);
  for (uint32_t i = 1; i < length; ++i) {
    if ((byte(i) & 0xC0) != 0x80) return invalid;
    code = code << 6 | (byte(i) & 0x3F);
  }
  const bool overlong = (length == 3 && code < 0x800) || (length == 4 && code < 0x10000);
  if (overlong || (code >= 0xD800 && code <= 0xDFFF) || code > 0x10FFFF) return invalid;
  return {code, length, class_of(code)};
}

Char char_before(std::string_view text, size_t at) {
  for (size_t length = 1; length <= 4 && length <= at; ++length) {
    const Char c = char_at(text, at - length);
    if (c.length == length && c.code != kInvalidChar) return c;
  }
  return at == 0 ? Char{} : Char{kInvalidChar, 1, CharClass::other};
}

bool is_word(uint32_t code) {
  if (code < 128) return code == '_' || kAscii[code] == CharClass::letter || kAscii[code] == CharClass::number;
  return code <= 0x10FFFF && in_ranges(unicode_tables::kWord, code);
}

uint8_t combining_class(uint32_t code) {
  const auto* after = std::upper_bound(std::begin(unicode_tables::kClasses), std::end(unicode_tables::kClasses), code,
                                       [](uint32_t c, const unicode_tables::ClassRun& r) { return c < r.first; });
  if (after == std::begin(unicode_tables::kClasses)) return 0;
  const unicode_tables::ClassRun& run = *std::prev(after);
  return code <= run.last ? static_cast<uint8_t>(run.combining_class) : 0;
}

void append_utf8(std::string& out, uint32_t code) {
  const auto put = [&](uint32_t byte) { out.push_back(static_cast<char>(byte)); };
  if (code < 0x80) {
    put(code);
  } else if (code < 0x800) {
    put(0xC0 | code >> 6);
    put(0x80 | (code & 0x3F));
  } else if (code < 0x10000) {
    put(0xE0 | code >> 12);
    put(0x80 | (code >> 6 & 0x3F));
    put(0x80 | (code & 0x3F));
  } else {
    put(0xF0 | code >> 18);
    put(0x80 | (code >> 12 & 0x3F));
    put(0x80 | (code >> 6 & 0x3F));
    put(0x80 | (code & 0x3F));
  }
}

}  // namespace rw
