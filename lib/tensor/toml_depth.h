// A guard before TOML parsing.
#pragma once
#include <string_view>

namespace rw {

/// The TOML reader repeats a key's parents for each of its values and a section for each level of its name, so that a
/// small file could cost gigabytes. Errors, named with op and path: a key or section name of more than 8 parts, more
/// than 1,000 sections, more than 20,000 lines. Our recipes have at most 2 parts, 30 sections and 200 lines.
void check_toml_depth(std::string_view text, std::string_view op, std::string_view path);

}  // namespace rw
