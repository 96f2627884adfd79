// Line and point plots as SVG, for `ropewalk theory`.
#include "plot.h"

#include <algorithm>
#include <cstdio>

#include "tensor/error.h"

using namespace rw;

namespace {

/// A reader's dark page: the ground, the words and each colour of a light plot in its place.
constexpr const char* kDarkStyle =
    R"(<style>@media (prefers-color-scheme: dark) { [fill="#fff"] { fill: #16181c } text:not([fill]) { fill: #e6e4df } [stroke="#ddd"] { stroke: #34373c } [stroke="#1f6fb2"] { stroke: #6cabf7 } [fill="#1f6fb2"] { fill: #6cabf7 } [stroke="#c03d3d"] { stroke: #f2788f } [fill="#c03d3d"] { fill: #f2788f } [stroke="#2f8f4e"] { stroke: #55c98b } [fill="#2f8f4e"] { fill: #55c98b } [stroke="#8a4fb0"] { stroke: #c58bec } [fill="#8a4fb0"] { fill: #c58bec } [stroke="#444"] { stroke: #b9b6ae } [fill="#444"] { fill: #b9b6ae } }</style>)";

}  // namespace

std::string svg(const Plot& p) {
  constexpr double width = 760, height = 360, left = 62, right = 16, top = 40, bottom = 48;
  const double x0 = p.table.rows.front()[0], x1 = std::isfinite(p.right) ? p.right : p.table.rows.back()[0];
  const auto px = [&](double x) { return left + (x - x0) / (x1 - x0) * (width - left - right); };
  const auto py = [&](double y) {
    return height - bottom - (std::clamp(y, p.low, p.high) - p.low) / (p.high - p.low) * (height - top - bottom);
  };
  char line[200];
  std::string out = cat("<svg xmlns=\"http://www.w3.org/2000/svg\" viewBox=\"0 0 ", width, " ", height,
                        "\" font-family=\"sans-serif\" font-size=\"12\">\n", kDarkStyle, "\n",
                        "<rect width=\"100%\" height=\"100%\" fill=\"#fff\"/>\n<text x=\"", left,
                        "\" y=\"22\" font-size=\"15\">", p.title, "</text>\n");
  for (int i = 0; i <= 4; ++i) {
    const double y = p.low + (p.high - p.low) * i / 4, x = x0 + (x1 - x0) * i / 4;
    std::snprintf(line, sizeof line,
                  "<line x1=\"%.1f\" y1=\"%.1f\" x2=\"%.1f\" y2=\"%.1f\" stroke=\"#ddd\"/><text x=\"%.1f\" y=\"%.1f\" "
                  "text-anchor=\"end\">%.4g</text>\n",
                  left, py(y), width - right, py(y), left - 6, py(y) + 4, y);
    out += line;
    std::snprintf(line, sizeof line, "<text x=\"%.1f\" y=\"%.1f\" text-anchor=\"middle\">%.4g</text>\n", px(x),
                  height - bottom + 18, x);
    out += line;
  }
  out += cat("<text x=\"", width / 2, "\" y=\"", height - 8, "\" text-anchor=\"middle\">", p.x_title,
             "</text>\n<text transform=\"translate(14,", height / 2, ") rotate(-90)\" text-anchor=\"middle\">",
             p.y_title, "</text>\n");
  if (std::isfinite(p.line)) {
    std::snprintf(line, sizeof line,
                  "<line x1=\"%.1f\" y1=\"%.1f\" x2=\"%.1f\" y2=\"%.1f\" stroke=\"#444\" stroke-dasharray=\"5 4\"/>\n",
                  left, py(p.line), width - right, py(p.line));
    out += line;
  }
  // the legend stands at the right end of the title's line, clear of the curves
  double legend = width - right + 14;
  for (const Series& s : p.series) legend -= 14.0 + 7.2 * static_cast<double>(s.name.size());
  for (const Series& s : p.series) {
    std::string path;
    for (const auto& row : p.table.rows) {
      const double y = row[s.column];
      if (!std::isfinite(y)) continue;
      if (s.points) {
        std::snprintf(line, sizeof line, "<circle cx=\"%.1f\" cy=\"%.1f\" r=\"2\" fill=\"%s\"/>\n", px(row[0]), py(y),
                      s.colour.c_str());
        out += line;
      } else {
        std::snprintf(line, sizeof line, "%s%.1f,%.1f", path.empty() ? "" : " ", px(row[0]), py(y));
        path += line;
      }
    }
    if (!path.empty())
      out += cat("<polyline fill=\"none\" stroke=\"", s.colour, "\" stroke-width=\"1.5\" points=\"", path, "\"/>\n");
    out += cat("<text x=\"", legend, "\" y=\"", 22, "\" fill=\"", s.colour, "\">", s.name, "</text>\n");
    legend += 14.0 + 7.2 * static_cast<double>(s.name.size());
  }
  return out + "</svg>\n";
}
