// Counts what a TOML text nests, line by line, without parsing it.
#include "tensor/toml_depth.h"

#include <algorithm>

#include "tensor/error.h"

namespace rw {

void check_toml_depth(std::string_view text, std::string_view op, std::string_view path) {
  constexpr int kParts = 8, kSections = 1000, kLines = 20'000;
  int sections = 0, lines = 0;
  while (!text.empty()) {
    std::string_view line = text.substr(0, text.find('\n'));
    text.remove_prefix(std::min(line.size() + 1, text.size()));
    check(++lines <= kLines, op, path, ": more than ", kLines, " lines");
    line.remove_prefix(std::min(line.find_first_not_of(" \t\r"), line.size()));
    if (line.empty() || line.front() == '#' || line.front() == ';') continue;
    const bool section = line.front() == '[';
    if (section) check(++sections <= kSections, op, path, ": more than ", kSections, " sections");
    const std::string_view name = line.substr(0, line.find(section ? ']' : '='));
    const auto parts = std::count(name.begin(), name.end(), '.') + 1;
    // What is no name, such as a line of a long text, has no '=' or holds a quote.
    const bool is_name = (section || name.size() < line.size()) && name.find_first_of("\"'") == std::string_view::npos;
    check(!is_name || parts <= kParts, op, path, " line ", lines, ": a name of ", parts, " parts, at most ", kParts);
  }
}

}  // namespace rw
