// Span: a run of consecutive tokens of one document. Samplers choose spans (PoSE skips text), batches concatenate them.
#pragma once
#include <cstdint>

namespace rw {

struct Span {
  int64_t begin = 0;   // token index
  int64_t length = 0;  // tokens
  int64_t end() const { return begin + length; }
  bool operator==(const Span&) const = default;
};

}  // namespace rw
