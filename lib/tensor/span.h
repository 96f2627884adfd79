// A run of tokens.
#pragma once
#include <cstdint>

namespace rw {

/// Tokens [begin, begin + length) of a document.
struct Span {
  int64_t begin = 0;
  int64_t length = 0;
  friend bool operator==(const Span&, const Span&) = default;
};

}  // namespace rw
