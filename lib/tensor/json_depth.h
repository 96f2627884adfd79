// Internal: a guard before JSON parsing.
#pragma once
#include <string_view>

namespace rw {

/// The JSON library handles nested values by recursion in places (printing one for a message), so a file of a hundred
/// thousand brackets would exhaust the stack. Nothing that we read nests deeper than ten. Errors: more than 64 levels,
/// named with op and path. Looks at brackets only, which need not match.
void check_json_depth(std::string_view text, std::string_view op, std::string_view path);

}  // namespace rw
