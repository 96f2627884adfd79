#include "tensor/json_depth.h"

#include "tensor/error.h"

namespace rw {

void check_json_depth(std::string_view text, std::string_view op, std::string_view path) {
  constexpr int kDeepest = 64;
  int depth = 0;
  bool quoted = false;
  for (size_t i = 0; i < text.size(); ++i) {
    const char c = text[i];
    if (quoted) {
      if (c == '\\') ++i;
      else if (c == '"') quoted = false;
    } else if (c == '"') {
      quoted = true;
    } else if (c == '[' || c == '{') {
      check(++depth <= kDeepest, op, path, ": JSON nested deeper than ", kDeepest, " levels");
    } else if (c == ']' || c == '}') {
      --depth;
    }
  }
}

}  // namespace rw
