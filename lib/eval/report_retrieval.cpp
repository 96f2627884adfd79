// Sections of a report that show what a model finds again: passkeys by distance, needles by length and depth.
#include <cmath>
#include <map>
#include <set>

#include "eval/report_table.h"
#include "tensor/error.h"

namespace rw::report {
namespace {

/// One run's grid as a heat map, with the mean and the worst depth of each length below.
std::string needle_map(const ReportRun& run, int color, const std::string& protocol) {
  std::set<int64_t> lengths;
  std::set<double> depths;
  for (const NeedleCell& c : run.needle) {
    if (c.protocol != protocol) continue;
    lengths.insert(c.length);
    depths.insert(c.depth);
  }
  if (lengths.empty()) return "";
  std::vector<std::string> columns, rows;
  for (int64_t n : lengths) columns.push_back(short_tokens(static_cast<double>(n)));
  for (double d : depths) rows.push_back(cat(std::llround(100 * d), " %"));
  std::vector<HeatCell> cells;
  std::map<int64_t, std::vector<double>> by_length;
  for (const NeedleCell& c : run.needle) {
    if (c.protocol != protocol) continue;
    cells.push_back({static_cast<int>(std::distance(lengths.begin(), lengths.find(c.length))),
                     static_cast<int>(std::distance(depths.begin(), depths.find(c.depth))), c.accuracy});
    by_length[c.length].push_back(c.accuracy);
  }
  Row head{"length"}, mean{"mean, %"}, worst{"worst depth, %"};
  for (const auto& [length, values] : by_length) {
    double sum = 0;
    for (double v : values) sum += v;
    head.push_back(short_tokens(static_cast<double>(length)));
    mean.push_back(cat(std::llround(100 * sum / static_cast<double>(values.size()))));
    worst.push_back(cat(std::llround(100 * *std::min_element(values.begin(), values.end()))));
  }
  return cat("<div>", tag("h3", chip(run, color)),
             heat_map("Needle accuracy of " + run.name, columns, rows, "prompt length, tokens", "depth", cells, 380),
             table(head, {mean, worst}), "</div>\n");
}

}  // namespace

std::string passkey_section(const Runs& runs, const std::vector<int>& colors) {
  return by_protocol(
      "Passkey by distance",
      "A number is hidden in filler text and asked for at the end: the share of trials in which every digit "
      "comes back.",
      protocols_of(runs, &ReportRun::passkey), [&](const std::string& protocol) {
        const auto series = series_of(runs, colors, &ReportRun::passkey, protocol, [](const PasskeyPoint& p) {
          return ChartPoint{static_cast<double>(p.distance), p.accuracy};
        });
        const ChartSpec spec{.label = "Passkey accuracy by distance",
                             .x_title = "distance of the key from the end, tokens",
                             .y_title = "keys found",
                             .log2_x = true,
                             .percent_y = true,
                             .marks = window_marks(runs)};
        return pair(charts(spec, series, runs, colors),
                    matrix(runs, colors, series, "distance, % found", Best::largest, true));
      });
}

std::string needle_section(const Runs& runs, const std::vector<int>& colors) {
  return by_protocol("Needle in a haystack",
                     "Percent of needles found, by length of the prompt and depth of the needle.",
                     protocols_of(runs, &ReportRun::needle), [&](const std::string& protocol) {
                       std::string body;
                       for (size_t r = 0; r < runs.size(); ++r) body += needle_map(runs[r], colors[r], protocol);
                       return tag("div", body, "grid");
                     });
}

}  // namespace rw::report
