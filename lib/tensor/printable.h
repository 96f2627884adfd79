// Text for people: what is safe to show on a terminal or in a log, and lists of names.
#pragma once
#include <string>
#include <string_view>
#include <vector>

namespace rw {

/// One line that is safe to show: control characters, marks that turn the direction of a line, and bytes that are not
/// UTF-8 become escapes such as \n and \x1b. A path may hold any of them.
std::string printable(std::string_view text);

/// A number for a message, as a stream writes it. A NaN is "nan" whatever its sign: processors make negative ones.
std::string printable(double value);

/// "a, b, c"
std::string joined(const std::vector<std::string>& names, const char* separator = ", ");

}  // namespace rw
