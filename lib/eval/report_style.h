// Internal: the report's style sheet, and the picture at its head.
#pragma once
#include <string>

namespace rw {

/// CSS for the whole page: colours as variables for light and dark, one column on a phone, two at a desk.
std::string report_style();
/// Three strands laid into a rope, as SVG.
std::string report_rope();

}  // namespace rw
