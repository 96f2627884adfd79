// Internal: the report's pictures: SVG text for line charts and heat maps. Colours are CSS variables, so that a chart
// follows the page from light to dark.
#pragma once
#include <limits>
#include <string>
#include <vector>

namespace rw {

struct ChartPoint {
  double x = 0, y = 0;
  double low = 0, high = 0;  // a whisker if low < high
};

struct ChartSeries {
  std::string name = {};
  int color = 0;  // index of --s0 .. --s7; from 8 on the same again, dotted; -1: grey
  bool dashed = false;
  bool markers = true;
  std::vector<ChartPoint> points = {};  // by increasing x
  size_t run = 0;                       // which run it belongs to
};

/// A vertical line with a word on it.
struct ChartMark {
  double x = 0;
  std::string label;
};

struct ChartSpec {
  std::string label = {};  // what the picture shows, for screen readers
  std::string x_title = {}, y_title = {};
  bool log2_x = false;
  bool log_y = false;
  bool percent_y = false;  // y in [0, 1], ticks in percent, axis from 0 to 1
  double y_limit = 0;      // > 0: the axis ends here; what lies above is left out
  /// The axes reach from here to there at least; NaN: as far as the data.
  double x_low = std::numeric_limits<double>::quiet_NaN(), x_high = std::numeric_limits<double>::quiet_NaN();
  double y_low = std::numeric_limits<double>::quiet_NaN(), y_high = std::numeric_limits<double>::quiet_NaN();
  std::vector<ChartMark> marks = {};
};

struct ChartSize {
  int width = 720, height = 380;
  bool end_labels = true;  // names at the ends of the lines (a wide chart); otherwise a legend must stand beside it
};

/// One <svg>. Points that are not finite (or not positive on a log axis) are left out.
std::string line_chart(const ChartSpec& spec, const std::vector<ChartSeries>& series, const ChartSize& size,
                       const std::string& css_class);

/// A value with its interval; drawn as a dot on a line.
struct IntervalRow {
  std::string name = {};
  int color = 0;  // as of a series
  double value = 0, low = 0, high = 0;
};

/// Rows that are compared with each other, under one name.
struct IntervalGroup {
  std::string name;
  std::vector<IntervalRow> rows;
};

/// One <svg> of shares in [0, 1], one row below the other, on an axis from 0 %. Of the spec, its label, title of x and
/// marks count; of the size, its width and whether names stand before the rows.
std::string interval_chart(const ChartSpec& spec, const std::vector<IntervalGroup>& groups, const ChartSize& size,
                           const std::string& css_class);

struct HeatCell {
  int column = 0, row = 0;
  double value = 0;  // in [0, 1]
};

/// One <svg> of coloured cells with the value in percent; `columns` and `rows` name them.
std::string heat_map(const std::string& label, const std::vector<std::string>& columns,
                     const std::vector<std::string>& rows, const std::string& x_title, const std::string& y_title,
                     const std::vector<HeatCell>& cells, int width);

/// The CSS class of a colour.
std::string color_class(int color);
/// "&" and the like as entities; bytes that are not UTF-8 become question marks.
std::string escape_html(const std::string& text);
/// 512, 4096, 16k, 128k.
std::string short_tokens(double n);
/// At most three significant digits below 1000: 3.14, 0.5, 812; then 1,185.
std::string short_number(double value);
/// Like it with three digits always, so that a column lines up: 3.10, 24.0, 812, 1,185.
std::string table_number(double value);

}  // namespace rw
