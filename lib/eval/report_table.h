// Internal: the HTML that the sections of a report are made of.
#pragma once
#include <algorithm>
#include <functional>
#include <string>
#include <vector>

#include "eval/report.h"
#include "eval/report_chart.h"

namespace rw::report {

using Runs = std::vector<ReportRun>;
using Row = std::vector<std::string>;  // cells as HTML

/// One element around HTML content.
std::string tag(const std::string& name, const std::string& content, const std::string& css = "");
/// A run's colour and name.
std::string chip(const ReportRun& run, int color);
/// Text as HTML that may break after an underscore or a slash: on a phone, and not within a word.
std::string breakable(const std::string& text);
/// A cell of words; other cells hold numbers and stand to the right.
std::string words(const std::string& text);
std::string table(const Row& head, const std::vector<Row>& rows);
/// Drops columns, but the first, that are empty in every row.
void drop_empty_columns(Row& head, std::vector<Row>& rows);
std::string section(const std::string& heading, const std::string& note, const std::string& body);
/// A picture beside its numbers.
std::string pair(const std::string& picture, const std::string& numbers);
/// The names of the runs that the series belong to; shown on a phone only.
std::string legend(const std::vector<ChartSeries>& series, const Runs& runs, const std::vector<int>& colors);
/// The same chart for a desk and for a phone, with a legend for the latter.
std::string charts(const ChartSpec& spec, const std::vector<ChartSeries>& series, const Runs& runs,
                   const std::vector<int>& colors);
/// "trained window 256" and "target 1024", once each.
std::vector<ChartMark> window_marks(const Runs& runs);

/// What the best of a column is.
enum class Best { smallest, largest };
/// Runs against x values, which `names` may name by their index. The best of each column stands out where several runs
/// differ; a share of 0 never does.
std::string matrix(const Runs& runs, const std::vector<int>& colors, const std::vector<ChartSeries>& series,
                   const std::string& corner, Best best, bool percent = false,
                   const std::vector<std::string>& names = {});

/// The protocols of a kind of points, the one that most runs share first.
template <class Point>
std::vector<std::string> protocols_of(const Runs& runs, std::vector<Point> ReportRun::*points) {
  std::vector<std::pair<std::string, int>> seen;
  for (const ReportRun& run : runs) {
    std::vector<std::string> own;
    for (const Point& p : run.*points) {
      if (std::find(own.begin(), own.end(), p.protocol) == own.end()) own.push_back(p.protocol);
    }
    for (const std::string& protocol : own) {
      const auto known = std::find_if(seen.begin(), seen.end(), [&](const auto& s) { return s.first == protocol; });
      if (known == seen.end()) seen.emplace_back(protocol, 1);
      else ++known->second;
    }
  }
  std::stable_sort(seen.begin(), seen.end(), [](const auto& a, const auto& b) { return a.second > b.second; });
  std::vector<std::string> out;
  for (const auto& [protocol, count] : seen) out.push_back(protocol);
  return out;
}

/// One line per run that has points of this protocol.
template <class Point, class Make>
std::vector<ChartSeries> series_of(const Runs& runs, const std::vector<int>& colors,
                                   std::vector<Point> ReportRun::*points, const std::string& protocol, Make make) {
  std::vector<ChartSeries> out;
  for (size_t r = 0; r < runs.size(); ++r) {
    ChartSeries s{.name = runs[r].name, .color = colors[r], .dashed = runs[r].baseline, .run = r};
    for (const Point& p : runs[r].*points) {
      if (p.protocol == protocol) s.points.push_back(make(p));
    }
    if (!s.points.empty()) out.push_back(std::move(s));
  }
  return out;
}

/// A section with one body per protocol. Where there are several, each has its own heading and a warning stands above.
std::string by_protocol(const std::string& heading, const std::string& note, const std::vector<std::string>& protocols,
                        const std::function<std::string(const std::string& protocol)>& body);

// The sections: each is empty where no run has numbers for it.
std::string runs_section(const Runs& runs, const std::vector<int>& colors);
std::string ppl_section(const Runs& runs, const std::vector<int>& colors);
std::string loss_section(const Runs& runs, const std::vector<int>& colors);
std::string validation_section(const Runs& runs, const std::vector<int>& colors);
std::string bins_section(const Runs& runs, const std::vector<int>& colors);
std::string lastk_section(const Runs& runs, const std::vector<int>& colors);
std::string passkey_section(const Runs& runs, const std::vector<int>& colors);
std::string needle_section(const Runs& runs, const std::vector<int>& colors);
std::string longppl_section(const Runs& runs, const std::vector<int>& colors);
std::string ruler_section(const Runs& runs, const std::vector<int>& colors);
std::string task_section(const Runs& runs, const std::vector<int>& colors);
std::string choice_section(const Runs& runs, const std::vector<int>& colors);
std::string summary_section(const Runs& runs, const std::vector<int>& colors);
std::string question_section(const Runs& runs, const std::vector<int>& colors);
std::string frequency_section(const Runs& runs, const std::vector<int>& colors);
std::string position_section(const Runs& runs, const std::vector<int>& colors);
std::string cost_section(const Runs& runs, const std::vector<int>& colors);
std::string recipe_section(const Runs& runs, const std::vector<int>& colors);

}  // namespace rw::report
