// Internal: a guard before JSON parsing.
#pragma once
#include <string_view>

namespace rw {

/// Looks at brackets, quotes, commas and colons, which need not match, and bounds what parsing the text may cost. In
/// places the JSON library handles nested values by recursion (printing one for a message). So a file of a hundred
/// thousand brackets would exhaust the stack. The library also takes 48 bytes for the two of "1," while a list grows.
/// Takes time in proportion to n. Errors, named with op and path: more than 64 levels (nothing that we read nests
/// deeper than ten); a text of n bytes whose values would take more than 8 n bytes and 64 MiB besides.
void check_json_depth(std::string_view text, std::string_view op, std::string_view path);

}  // namespace rw
