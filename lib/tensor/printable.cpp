// Which characters a message may show, and escapes for all others.
#include "tensor/printable.h"

#include <algorithm>
#include <array>
#include <cmath>
#include <cstdint>
#include <sstream>

namespace rw {
namespace {

/// The length of the valid UTF-8 sequence that begins at `at`, and its code point; 0: not valid.
size_t utf8_length(std::string_view text, size_t at, uint32_t& code) {
  const auto byte = [&](size_t i) { return static_cast<unsigned char>(text[i]); };
  const unsigned char first = byte(at);
  code = first;
  if (first < 0x80) return 1;
  const size_t n = first >= 0xF0 && first < 0xF5 ? 4 : first >= 0xE0 ? 3 : 2;
  if (first < 0xC2 || first >= 0xF5 || text.size() - at < n) return 0;
  code = first & (0xFFu >> (n + 1));
  for (size_t i = 1; i < n; ++i) {
    if ((byte(at + i) & 0xC0) != 0x80) return 0;
    code = code << 6 | (byte(at + i) & 0x3Fu);
  }
  constexpr std::array<uint32_t, 5> kSmallest = {0, 0, 0x80, 0x800, 0x10000};
  const bool surrogate = code >= 0xD800 && code < 0xE000;
  return code < kSmallest[n] || code > 0x10FFFF || surrogate ? 0 : n;
}

/// Controls, and the marks that turn the direction of a line.
bool is_control(uint32_t code) {
  return code < 0x20 || (code >= 0x7F && code < 0xA0) || (code >= 0x2028 && code <= 0x202E) ||
         (code >= 0x2066 && code <= 0x2069);
}

}  // namespace

std::string printable(std::string_view text) {
  constexpr char kDigits[] = "0123456789abcdef";
  std::string out;
  out.reserve(text.size());
  uint32_t code = 0;
  for (size_t at = 0; at < text.size();) {
    const size_t n = utf8_length(text, at, code);
    if (n > 0 && !is_control(code)) {
      out += text.substr(at, n);
    } else if (text[at] == '\n') {
      out += "\\n";
    } else if (text[at] == '\t') {
      out += "\\t";
    } else {
      for (size_t i = 0; i < std::max<size_t>(n, 1); ++i) {
        const auto byte = static_cast<unsigned char>(text[at + i]);
        out += {'\\', 'x', kDigits[byte >> 4], kDigits[byte & 15]};
      }
    }
    at += std::max<size_t>(n, 1);
  }
  return out;
}

std::string printable(double value) {
  if (std::isnan(value)) return "nan";
  std::ostringstream out;
  out << value;
  return out.str();
}

std::string joined(const std::vector<std::string>& names, const char* separator) {
  std::string all;
  for (const std::string& name : names) all += (all.empty() ? "" : separator) + name;
  return all;
}

}  // namespace rw
