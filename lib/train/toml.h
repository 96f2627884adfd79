// The part of TOML that recipes use: sections, keys, strings, numbers, booleans, and
// arrays of them, over several lines if need be.
#pragma once
#include <cstdint>
#include <string>
#include <vector>

namespace rw {

/// One value or array. Numbers and booleans are kept as they are written.
struct TomlItem {
  std::string key;
  std::vector<std::string> values;
  bool is_array = false;
  int64_t line = 0;
};
struct TomlSection {
  std::string name;  // "arms.pose"; "" for what stands above the first section
  std::vector<TomlItem> items;
  int64_t line = 0;
};

/// Sections in order of appearance; the first one is "". Errors, with the number of the line and never its text: what
/// is not of this part of TOML, a key or a section that stands twice, more than 10,000 entries.
std::vector<TomlSection> parse_toml(const std::string& text, const std::string& name, const char* op);

/// The text as a TOML string, in quotes.
std::string toml_quote(const std::string& text);

}  // namespace rw
