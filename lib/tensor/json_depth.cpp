// Counts what a JSON text nests and holds, in one pass and without memory.
#include "tensor/json_depth.h"

#include <cstdint>

#include "tensor/error.h"

namespace rw {

void check_json_depth(std::string_view text, std::string_view op, std::string_view path) {
  constexpr int kDeepest = 64;
  constexpr uint64_t kFactor = 8, kBeside = uint64_t{64} << 20;
  // Bytes that the JSON library takes, at most: an element of a list while the list doubles, a member of an object, a
  // string or container of its own.
  constexpr uint64_t kElement = 48, kMember = 96, kOwn = 48;
  const uint64_t most = kFactor * text.size() + kBeside;
  uint64_t cost = text.size(), in_object = 0;  // a bit per level
  int depth = 0;
  bool quoted = false;
  for (size_t i = 0; i < text.size(); ++i) {
    const char c = text[i];
    if (quoted) {
      if (c == '\\') ++i;
      else if (c == '"') quoted = false;
    } else if (c == '"') {
      quoted = true;
      cost += kOwn;
    } else if (c == '[' || c == '{') {
      check(++depth <= kDeepest, op, path, ": JSON nested deeper than ", kDeepest, " levels");
      in_object = in_object << 1 | (c == '{');
      cost += kOwn + kElement;
    } else if (c == ']' || c == '}') {
      --depth;
      in_object >>= 1;
    } else if (c == ':') {
      cost += kMember - kOwn;  // its name has been counted as a string
    } else if (c == ',' && (in_object & 1) == 0) {
      cost += kElement;
    }
    check(cost <= most, op, path, ": the values in ", text.size(), " bytes of JSON would take more than ", most,
          " bytes of memory");
  }
}

}  // namespace rw
