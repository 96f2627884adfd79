// The report's pictures as SVG text. Numbers come from files that anyone may have written: axes leave out what is not
// finite or absurdly large, and no loop runs longer than a picture has room for.
#include "eval/report_chart.h"

#include <algorithm>
#include <cmath>
#include <cstdio>
#include <tuple>

#include "data/unicode.h"
#include "tensor/error.h"

namespace rw {
namespace {

/// A coordinate with one digit after the point: a tenth of a pixel is plenty.
std::string px(double value) {
  char buffer[32];
  std::snprintf(buffer, sizeof buffer, "%.1f", value);
  return buffer;
}

constexpr double kLargest = 1e15;  // values beyond are left out of pictures
constexpr int kMostTicks = 64;
constexpr size_t kLongestLabel = 24;  // characters of a name beside a line
constexpr size_t kMostIntervals = 1024;

/// One axis: data values to pixels, and where its ticks stand.
struct Axis {
  double low = 0, high = 1;  // data range
  double from = 0, to = 1;   // pixels
  double inset = 0;          // pixels that the data keep away from both ends
  bool logarithmic = false;
  double limit = INFINITY;  // values above are not drawn
  std::vector<double> ticks;

  double operator()(double v) const {
    const double share = logarithmic ? std::log(v / low) / std::log(high / low) : (v - low) / (high - low);
    const double side = to > from ? inset : -inset;
    return from + side + share * (to - from - 2 * side);
  }
  bool holds(double v) const {
    return std::isfinite(v) && std::abs(v) <= kLargest && v <= limit && (!logarithmic || v >= 1 / kLargest);
  }
};

/// Steps of 1, 2 or 5 times a power of ten, about `count` of them.
std::vector<double> nice_ticks(double low, double high, int count) {
  const double raw = (high - low) / std::max(1, count);
  if (!(raw > std::max(std::abs(low), std::abs(high)) * 1e-12)) return {low};
  const double magnitude = std::pow(10.0, std::floor(std::log10(raw)));
  double step = 10 * magnitude;
  for (double s : {1.0, 2.0, 5.0}) {
    if (s * magnitude >= raw * 0.999) {
      step = s * magnitude;
      break;
    }
  }
  std::vector<double> ticks;
  const double first = std::ceil(low / step - 1e-9) * step;
  for (int i = 0; i < kMostTicks; ++i) {
    const double t = first + i * step;
    if (t > high + step * 1e-9) break;
    ticks.push_back(std::abs(t) < step * 1e-9 ? 0 : t);  // never -0
  }
  return ticks;
}

/// 1, 2, 5 times powers of ten; more of them within one decade, powers of ten alone over many.
std::vector<double> log_ticks(double low, double high) {
  const double decades = std::log10(high / low);
  std::vector<double> steps = {1, 2, 5}, ticks;
  if (decades < 1) steps = {1, 1.5, 2, 3, 4, 5, 7};
  if (decades > 2.6) steps = {1};
  for (double decade = std::pow(10.0, std::floor(std::log10(low))); decade <= high && ticks.size() < kMostTicks;
       decade *= 10) {
    for (double s : steps) {
      if (s * decade >= low * 0.999 && s * decade <= high * 1.001) ticks.push_back(s * decade);
    }
  }
  return ticks;
}

/// Powers of two; the ends where there is only one between them, from which no scale can be read.
std::vector<double> powers_of_two(double low, double high) {
  std::vector<double> ticks;
  for (double t = std::exp2(std::ceil(std::log2(low) - 1e-9)); t <= high * 1.001 && ticks.size() < kMostTicks; t *= 2)
    ticks.push_back(t);
  return ticks.size() > 1 ? ticks : std::vector<double>{low, high};
}

/// The labels of ticks: short numbers, with more digits where two of them would read the same.
std::vector<std::string> labels_of(const std::vector<double>& ticks) {
  std::vector<std::string> labels;
  for (const double t : ticks) labels.push_back(short_number(t));
  if (std::adjacent_find(labels.begin(), labels.end()) == labels.end()) return labels;
  const double step = ticks[1] - ticks[0];
  const int digits = std::clamp(static_cast<int>(std::ceil(-std::log10(step) - 1e-9)), 0, 12);
  for (size_t i = 0; i < ticks.size(); ++i) {
    char buffer[48];
    std::snprintf(buffer, sizeof buffer, "%.*f", digits, ticks[i]);
    labels[i] = buffer;
  }
  return labels;
}

/// Smallest and largest value of the series; {0, 1} if there is none, {1, 2} on a logarithmic axis.
template <class Get>
std::pair<double, double> range_of(const std::vector<ChartSeries>& series, const Axis& axis, Get get) {
  double low = INFINITY, high = -INFINITY;
  for (const ChartSeries& s : series) {
    for (const ChartPoint& p : s.points) {
      const double v = get(p);
      if (!axis.holds(v)) continue;
      low = std::min(low, v);
      high = std::max(high, v);
    }
  }
  return low <= high ? std::pair(low, high) : axis.logarithmic ? std::pair(1.0, 2.0) : std::pair(0.0, 1.0);
}

/// Makes room for intervals that are not wider than what they belong to.
void include_whiskers(const std::vector<ChartSeries>& series, Axis& y) {
  for (const ChartSeries& s : series) {
    for (const ChartPoint& p : s.points) {
      if (!(p.low < p.high) || !y.holds(p.y) || !y.holds(p.low) || !y.holds(p.high)) continue;
      if (p.high - p.low > std::abs(p.y)) continue;
      y.low = std::min(y.low, p.low);
      y.high = std::max(y.high, p.high);
    }
  }
}

/// Intervals of several series stand beside each other instead of on top of each other.
struct Dodge {
  std::vector<double> shift;  // pixels to the right, of each series
  double most = 0;
};

Dodge dodge_whiskers(const std::vector<ChartSeries>& series) {
  std::vector<size_t> with;
  for (size_t i = 0; i < series.size(); ++i) {
    const auto& points = series[i].points;
    if (std::any_of(points.begin(), points.end(), [](const ChartPoint& p) { return p.low < p.high; }))
      with.push_back(i);
  }
  Dodge dodge{.shift = std::vector<double>(series.size(), 0.0)};
  if (with.size() < 2) return dodge;
  const double gap = std::min(5.0, 36.0 / static_cast<double>(with.size()));
  dodge.most = gap * static_cast<double>(with.size() - 1) / 2;
  for (size_t k = 0; k < with.size(); ++k) dodge.shift[with[k]] = gap * static_cast<double>(k) - dodge.most;
  return dodge;
}

Axis make_x(const ChartSpec& spec, const std::vector<ChartSeries>& series, double from, double to) {
  Axis x;
  x.from = from;
  x.to = to;
  x.logarithmic = spec.log2_x;
  std::tie(x.low, x.high) = range_of(series, x, [](const ChartPoint& p) { return p.x; });
  if (std::isfinite(spec.x_low)) x.low = std::min(x.low, spec.x_low);
  if (std::isfinite(spec.x_high)) x.high = std::max(x.high, spec.x_high);
  if (!(x.high - x.low > std::abs(x.high) * 1e-9)) {  // a single value stands in the middle
    const double pad = std::max(1.0, std::abs(x.low) * 1e-6);
    x.low = spec.log2_x ? x.low / 2 : x.low - pad;
    x.high = spec.log2_x ? x.high * 2 : x.high + pad;
  }
  const int room = static_cast<int>((to - from) / 75);
  x.ticks = spec.log2_x ? powers_of_two(x.low, x.high) : nice_ticks(x.low, x.high, room);
  return x;
}

Axis make_y(const ChartSpec& spec, const std::vector<ChartSeries>& series, double from, double to) {
  Axis y;
  y.from = from;
  y.to = to;
  y.logarithmic = spec.log_y;
  if (spec.percent_y) {
    y.ticks = {0, 0.25, 0.5, 0.75, 1};
    return y;
  }
  std::tie(y.low, y.high) = range_of(series, y, [](const ChartPoint& p) { return p.y; });
  include_whiskers(series, y);
  if (std::isfinite(spec.y_low)) y.low = std::min(y.low, spec.y_low);
  if (std::isfinite(spec.y_high)) y.high = std::max(y.high, spec.y_high);
  if (spec.y_limit > y.low) y.high = y.limit = std::min(y.high, spec.y_limit);
  if (spec.log_y) {
    y.low /= 1.25;
    y.high *= 1.25;
    y.ticks = log_ticks(y.low, y.high);
  } else {
    const double pad = std::max((y.high - y.low) * 0.08, std::max(1e-3, std::abs(y.high) * 1e-3));
    y.low = y.low >= 0 ? std::max(0.0, y.low - pad) : y.low - pad;
    if (!(y.limit <= y.high)) y.high += pad;  // a line that comes in from above begins at the upper edge
    y.ticks = nice_ticks(y.low, y.high, 5);
  }
  return y;
}

std::string text(double x, double y, const std::string& anchor, const std::string& css, const std::string& content) {
  return cat("<text x=\"", px(x), "\" y=\"", px(y), "\" text-anchor=\"", anchor, "\" class=\"", css, "\">",
             escape_html(content), "</text>");
}

std::string line(double x1, double y1, double x2, double y2, const std::string& css) {
  return cat("<line x1=\"", px(x1), "\" y1=\"", px(y1), "\" x2=\"", px(x2), "\" y2=\"", px(y2), "\" class=\"", css,
             "\"/>");
}

std::string draw_frame(const ChartSpec& spec, const Axis& x, const Axis& y) {
  std::string out;
  const std::vector<std::string> labels = labels_of(y.ticks);
  for (size_t i = 0; i < y.ticks.size(); ++i) {
    const double t = y.ticks[i];
    out += line(x.from, y(t), x.to, y(t), "grid");
    char percent[16];
    std::snprintf(percent, sizeof percent, "%.0f %%", 100 * t);
    out += text(x.from - 8, y(t) + 4, "end", "tick", spec.percent_y ? percent : labels[i]);
  }
  // On a narrow chart every other power of two has to do.
  const size_t every = 1 + x.ticks.size() * 44 / static_cast<size_t>(std::max(1.0, x.to - x.from));
  for (size_t i = 0; i < x.ticks.size(); i += every) {
    out += line(x(x.ticks[i]), y.from, x(x.ticks[i]), y.from + 4, "axis");
    out += text(x(x.ticks[i]), y.from + 18, "middle", "tick", short_tokens(x.ticks[i]));
  }
  out += line(x.from, y.from, x.to, y.from, "axis");
  out += text(x.to, y.from + 36, "end", "title", spec.x_title);
  out += text(x.from - 44, y.to - 28, "start", "title", spec.y_title);
  return out;
}

/// Vertical lines with their words above the plot, turned away from each other where they stand close together.
std::string draw_marks(const ChartSpec& spec, const Axis& x, const Axis& y) {
  std::string out;
  double previous = -INFINITY;  // end of the label before
  for (const ChartMark& mark : spec.marks) {
    if (mark.x < x.low || mark.x > x.high) continue;
    const double at = x(mark.x), width = 6.2 * static_cast<double>(mark.label.size());
    double begin = std::max({x.from - 8, previous + 12, at - width / 2});
    begin = std::max(std::min(begin, x.to + 8 - width), previous + 12);
    out += line(at, y.from, at, y.to - 4, "mark");
    out += text(begin, y.to - 9, "start", "marktext", mark.label);
    previous = begin + width;
  }
  return out;
}

/// Where the line between a point above the axis's limit and one below it meets the limit: it goes in or out there.
std::string crossing(const ChartPoint& one, const ChartPoint& other, const Axis& x, const Axis& y) {
  const double share = (y.limit - one.y) / (other.y - one.y);
  return cat(px(x(one.x) + share * (x(other.x) - x(one.x))), " ", px(y(y.limit)));
}

std::string draw_series(const ChartSeries& s, const Axis& x, const Axis& y, double whisker_shift) {
  std::string path, extras;
  bool pen_down = false;
  const auto drawn = std::count_if(s.points.begin(), s.points.end(),
                                   [&](const ChartPoint& p) { return x.holds(p.x) && y.holds(p.y); });
  const ChartPoint *before = nullptr, *above = nullptr;  // the point drawn last; one beyond the limit since
  for (const ChartPoint& p : s.points) {
    if (!x.holds(p.x) || !y.holds(p.y)) {
      const bool beyond = x.holds(p.x) && std::isfinite(p.y) && p.y <= kLargest && p.y > y.limit;
      if (pen_down && beyond) path += "L" + crossing(*before, p, x, y);
      pen_down = false;
      above = beyond ? &p : nullptr;
      continue;
    }
    if (above) path += "M" + crossing(*above, p, x, y), pen_down = true;
    before = &p, above = nullptr;
    const double at_x = x(p.x), at_y = y(p.y);
    path += cat(pen_down ? "L" : "M", px(at_x), " ", px(at_y));
    pen_down = true;
    if (p.low < p.high && y.holds(p.low) && y.holds(p.high)) {
      const double top = std::max(y(p.high), y.to), bottom = std::min(y(p.low), y.from);
      extras += line(at_x + whisker_shift, top, at_x + whisker_shift, bottom, "whisker");
    }
    if (s.markers || drawn == 1) {  // a line of one point cannot be seen
      extras += cat("<circle cx=\"", px(at_x), "\" cy=\"", px(at_y), "\" r=\"3.5\" class=\"dot\"><title>",
                    escape_html(s.name), ", ", short_tokens(p.x), ": ", short_number(p.y), "</title></circle>");
    }
  }
  return cat("<g class=\"", color_class(s.color), "\"><path class=\"line", s.dashed ? " dashed" : "", "\" d=\"", path,
             "\"/>", extras, "</g>");
}

/// A name cut to the room beside a chart, at a whole character.
std::string shortened(const std::string& name) {
  if (name.size() <= kLongestLabel) return name;
  size_t end = kLongestLabel - 1;
  while (end > 0 && (name[end] & 0xC0) == 0x80) --end;
  return name.substr(0, end) + "…";
}

/// Names at the ends of the lines, pushed apart where lines end together.
std::string draw_end_labels(const std::vector<ChartSeries>& series, const Axis& x, const Axis& y) {
  struct Label {
    double y;
    const ChartSeries* series;
    double end_x, end_y;  // where its line ends
  };
  std::vector<Label> labels;
  for (const ChartSeries& s : series) {
    for (auto p = s.points.rbegin(); p != s.points.rend(); ++p) {
      if (!x.holds(p->x) || !y.holds(p->y)) continue;
      labels.push_back({.y = y(p->y) + 4, .series = &s, .end_x = x(p->x), .end_y = y(p->y)});
      break;
    }
  }
  std::stable_sort(labels.begin(), labels.end(), [](const Label& a, const Label& b) { return a.y < b.y; });
  constexpr double kGap = 15;
  for (size_t i = 1; i < labels.size(); ++i) labels[i].y = std::max(labels[i].y, labels[i - 1].y + kGap);
  // If that ran out at the bottom, push back up.
  double limit = y.from + 4;
  for (size_t i = labels.size(); i-- > 0; limit -= kGap) labels[i].y = std::min(labels[i].y, limit);
  std::string out;
  for (const Label& label : labels) {
    const bool early = x.to - x.inset - label.end_x > 14;  // a thread leads to the name of a line that ends early
    out += cat("<g class=\"", color_class(label.series->color), "\">",
               early ? line(label.end_x + 6, label.end_y, x.to + 6, label.y - 4, "lead") : "",
               text(x.to + 10, label.y, "start", "end", shortened(label.series->name)), "</g>");
  }
  return out;
}

}  // namespace

std::string line_chart(const ChartSpec& spec, const std::vector<ChartSeries>& series, const ChartSize& size,
                       const std::string& css_class) {
  size_t longest = 0;
  for (const ChartSeries& s : series) longest = std::max(longest, std::min(s.name.size(), kLongestLabel));
  const double right = size.end_labels ? 22.0 + 7.4 * static_cast<double>(longest) : 20;
  const Dodge dodge = dodge_whiskers(series);
  Axis x = make_x(spec, series, 52, size.width - right);
  if (dodge.most > 0) x.inset = dodge.most + 3;
  const Axis y = make_y(spec, series, size.height - 46, 46);
  std::string out = cat("<svg class=\"chart ", css_class, "\" viewBox=\"0 0 ", size.width, " ", size.height,
                        "\" role=\"img\" aria-label=\"", escape_html(spec.label), "\">");
  out += draw_frame(spec, x, y) + draw_marks(spec, x, y);
  for (size_t i = 0; i < series.size(); ++i) out += draw_series(series[i], x, y, dodge.shift[i]);
  if (size.end_labels) out += draw_end_labels(series, x, y);
  return out + "</svg>\n";
}

std::string interval_chart(const ChartSpec& spec, const std::vector<IntervalGroup>& groups, const ChartSize& size,
                           const std::string& css_class) {
  constexpr double kRow = 22, kGroup = 26, kTop = 26;
  double largest = 0, height = kTop;
  size_t longest = 0, rows = 0;
  for (const IntervalGroup& g : groups) {
    height += kGroup;
    for (const IntervalRow& r : g.rows) {
      if (++rows > kMostIntervals) break;
      height += kRow;
      longest = std::max(longest, std::min(r.name.size(), kLongestLabel));
      for (const double v : {r.value, r.high}) largest = std::isfinite(v) ? std::max(largest, v) : largest;
    }
  }
  Axis x;
  x.from = size.end_labels ? 24.0 + 7.4 * static_cast<double>(longest) : 14;
  x.to = size.width - 24;
  for (const ChartMark& mark : spec.marks) largest = std::max(largest, mark.x);
  x.high = largest > 0.5 ? 1 : std::clamp(std::ceil(largest * 20) / 20, 0.05, 1.0);
  x.ticks = nice_ticks(0, x.high, size.end_labels ? 5 : 4);
  const double bottom = height + 4;
  std::string out = cat("<svg class=\"chart ", css_class, "\" viewBox=\"0 0 ", size.width, " ", px(bottom + 44),
                        "\" role=\"img\" aria-label=\"", escape_html(spec.label), "\">");
  for (const double t : x.ticks) {
    out += line(x(t), kTop, x(t), bottom, "grid");
    out += text(x(t), bottom + 18, "middle", "tick", short_number(100 * t) + " %");
  }
  out += line(x.from, bottom, x.to, bottom, "axis") + text(x.to, bottom + 38, "end", "title", spec.x_title);
  Axis y;
  y.from = bottom, y.to = kTop - 4;
  out += draw_marks(spec, x, y);
  double at = kTop;
  rows = 0;
  for (const IntervalGroup& g : groups) {
    out += text(size.end_labels ? 0 : x.from, at + 17, "start", "group", g.name);
    at += kGroup;
    for (const IntervalRow& r : g.rows) {
      if (++rows > kMostIntervals) break;
      const double middle = at + kRow / 2;
      at += kRow;
      out += cat("<g class=\"", color_class(r.color), "\">");
      if (size.end_labels) out += text(x.from - 12, middle + 4, "end", "end", shortened(r.name));
      if (r.low < r.high && r.low >= 0 && r.high <= 1) out += line(x(r.low), middle, x(r.high), middle, "whisker");
      if (r.value >= 0 && r.value <= 1) {
        out += cat("<circle cx=\"", px(x(r.value)), "\" cy=\"", px(middle), "\" r=\"4.5\" class=\"dot\"><title>",
                   escape_html(r.name), ", ", escape_html(g.name), ": ", short_number(100 * r.value),
                   " %</title></circle>");
      }
      out += "</g>";
    }
  }
  return out + "</svg>\n";
}

std::string heat_map(const std::string& label, const std::vector<std::string>& columns,
                     const std::vector<std::string>& rows, const std::string& x_title, const std::string& y_title,
                     const std::vector<HeatCell>& cells, int width) {
  size_t longest = 0;
  for (const std::string& row : rows) longest = std::max(longest, std::min(row.size(), kLongestLabel));
  const double left = std::max(52.0, 16 + 6.6 * static_cast<double>(longest)), top = 30, gap = 2;
  const double cell_w = (width - left - 8) / static_cast<double>(std::max<size_t>(1, columns.size()));
  const double cell_h = std::clamp(cell_w * 0.7, 20.0, 30.0);
  const int height = static_cast<int>(top + cell_h * static_cast<double>(rows.size()) + 44);
  std::string out = cat("<svg class=\"chart heat\" viewBox=\"0 0 ", width, " ", height, "\" role=\"img\" aria-label=\"",
                        escape_html(label), "\">");
  out += text(8, 16, "start", "title", y_title);
  for (size_t r = 0; r < rows.size(); ++r) {
    out += text(left - 8, top + cell_h * (static_cast<double>(r) + 0.5) + 4, "end", "tick", shortened(rows[r]));
  }
  const double bottom = top + cell_h * static_cast<double>(rows.size());
  for (size_t c = 0; c < columns.size(); ++c) {
    out += text(left + cell_w * (static_cast<double>(c) + 0.5), bottom + 16, "middle", "tick", columns[c]);
  }
  out += text(width - 8, bottom + 36, "end", "title", x_title);
  for (const HeatCell& cell : cells) {
    const double x = left + cell_w * cell.column, y = top + cell_h * cell.row;
    char percent[16], opacity[16];
    std::snprintf(percent, sizeof percent, "%.0f", 100 * cell.value);
    std::snprintf(opacity, sizeof opacity, "%.3f", 0.06 + 0.94 * cell.value);
    out += cat("<rect x=\"", px(x), "\" y=\"", px(y), "\" width=\"", px(cell_w - gap), "\" height=\"", px(cell_h - gap),
               "\" rx=\"3\" class=\"cell\" fill-opacity=\"", opacity, "\"/>");
    if (cell_w >= 26) {
      out +=
          text(x + (cell_w - gap) / 2, y + (cell_h - gap) / 2 + 4, "middle", cell.value > 0.55 ? "on" : "off", percent);
    }
  }
  return out + "</svg>\n";
}

std::string color_class(int color) {
  if (color < 0) return "grey";
  return cat("c", color % 8, color < 8 ? "" : " again");
}

std::string escape_html(const std::string& text) {
  std::string out;
  for (size_t at = 0; at < text.size();) {
    const Char c = char_at(text, at);
    const std::string bytes = text.substr(at, static_cast<size_t>(c.length));
    at += bytes.size();
    if (bytes == "&") out += "&amp;";
    else if (bytes == "<") out += "&lt;";
    else if (bytes == ">") out += "&gt;";
    else if (bytes == "\"") out += "&quot;";
    else if (c.code == kInvalidChar) out += '?';
    else if (c.code < 32 && bytes != "\n" && bytes != "\t") out += ' ';  // not allowed in XML
    else out += bytes;
  }
  return out;
}

std::string short_tokens(double n) {
  if (!(std::abs(n) < 9e15)) return short_number(n);
  const double k = n / 1024;
  if (n >= 10240 && k == std::floor(k)) return cat(static_cast<int64_t>(k), "k");
  if (n >= 10000 && n == std::floor(n / 1000) * 1000) return cat(static_cast<int64_t>(n / 1000), ",000");
  return n == std::floor(n) ? cat(static_cast<int64_t>(n)) : short_number(n);
}

std::string short_number(double value) {
  if (!std::isfinite(value)) return std::isnan(value) ? "–" : value < 0 ? "-∞" : "∞";
  const double size = std::abs(value);
  char buffer[48];
  for (const auto& [unit, letter] : {std::pair{1e12, " T"}, {1e9, " G"}, {1e6, " M"}}) {
    if (size < 9.9995 * unit && unit > 1e6) continue;
    if (size < 1e7) break;
    if (size >= 1e15) std::snprintf(buffer, sizeof buffer, "%.2g", value);
    else std::snprintf(buffer, sizeof buffer, "%.3g%s", value / unit, letter);
    return buffer;
  }
  if (size >= 1000) {
    const long long n = std::llround(value);
    if (n >= 1000000)
      std::snprintf(buffer, sizeof buffer, "%lld,%03lld,%03lld", n / 1000000, n / 1000 % 1000, n % 1000);
    else
      std::snprintf(buffer, sizeof buffer, "%s%lld,%03lld", n < 0 ? "-" : "", std::llabs(n) / 1000,
                    std::llabs(n) % 1000);
    return buffer;
  }
  std::snprintf(buffer, sizeof buffer, "%.3g", value);
  return buffer;
}

std::string table_number(double value) {
  const double size = std::abs(value);
  if (!(size < 1000)) return short_number(value);
  char buffer[32];
  std::snprintf(buffer, sizeof buffer, "%.*f", size >= 99.95 ? 0 : size >= 9.995 ? 1 : 2, value);
  return buffer;
}

}  // namespace rw
