// UTF-8 and the three Unicode classes that pre-tokenizers ask for: \p{L}, \p{N} and \s.
#pragma once
#include <cstdint>
#include <string>
#include <string_view>

#include "tensor/printable.h"

namespace rw {

enum class CharClass : uint8_t { other, letter, number, space };

/// One character of a text. A byte that is not part of valid UTF-8 is a character
/// of its own: length 1, code kInvalidChar.
struct Char {
  uint32_t code = 0;
  uint32_t length = 0;  // bytes
  CharClass cls = CharClass::other;
};
inline constexpr uint32_t kInvalidChar = 0xFFFFFFFF;

/// The character at text[at]; length 0 at the end. Overlong forms, surrogates and codes above 0x10FFFF are invalid.
Char char_at(std::string_view text, size_t at);

/// The character that ends before text[at]; length 0 at the beginning.
Char char_before(std::string_view text, size_t at);

/// \p{L}, \p{N} and White_Space by code point.
CharClass class_of(uint32_t code);

/// \w of Unicode's regular expressions: letters, marks, decimal digits, connectors.
bool is_word(uint32_t code);

/// Canonical combining class; 0 for most.
uint8_t combining_class(uint32_t code);

/// Appends the UTF-8 of `code` (at most 0x10FFFF).
void append_utf8(std::string& out, uint32_t code);

}  // namespace rw
