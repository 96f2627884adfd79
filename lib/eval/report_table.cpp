// The HTML that the sections of a report are made of: tables, charts with legends, headings.
#include "eval/report_table.h"

#include <cmath>
#include <map>
#include <set>

#include "tensor/error.h"

namespace rw::report {
namespace {

constexpr char kWords = '\x01';  // begins a cell of words

/// A value as a cell shows it.
std::string shown(double value, bool percent) {
  return percent && std::isfinite(value) ? cat(std::llround(100 * value)) : table_number(value);
}

/// The best value of each x, as it is shown; none where the runs agree, where there is one run, or for a share of 0.
std::map<double, std::string> best_of(const std::vector<ChartSeries>& series, Best best, bool percent) {
  std::map<double, std::vector<double>> columns;
  for (const ChartSeries& s : series) {
    for (const ChartPoint& p : s.points) {
      if (std::isfinite(p.y)) columns[p.x].push_back(p.y);
    }
  }
  std::map<double, std::string> out;
  for (const auto& [x, values] : columns) {
    const auto [low, high] = std::minmax_element(values.begin(), values.end());
    if (values.size() < 2 || shown(*low, percent) == shown(*high, percent)) continue;
    const double chosen = best == Best::smallest ? *low : *high;
    if (!percent || chosen > 0) out[x] = shown(chosen, percent);
  }
  return out;
}

/// Values that are shown alike are marked alike.
std::string cell_of(const ChartPoint& p, const std::map<double, std::string>& best, bool percent) {
  std::string cell = shown(p.y, percent);
  const auto marked = best.find(p.x);
  if (marked != best.end() && marked->second == cell) cell = tag("span", cell, "best");
  if (p.low < p.high && !percent)
    cell = cat("<span title=\"95 %: ", table_number(p.low), " – ", table_number(p.high), "\">", cell, "</span>");
  return cell;
}

}  // namespace

std::string tag(const std::string& name, const std::string& content, const std::string& css) {
  return cat("<", name, css.empty() ? "" : " class=\"" + css + "\"", ">", content, "</", name, ">");
}

std::string chip(const ReportRun& run, int color) {
  return cat("<span class=\"chip ", color_class(color), "\"></span>&#8288;", escape_html(run.name));  // never apart
}

std::string breakable(const std::string& text) {
  std::string out;
  for (const char c : escape_html(text)) {
    out += c;
    if (c == '_' || c == '/') out += "<wbr/>";
  }
  return out;
}

std::string words(const std::string& text) { return kWords + breakable(text); }

std::string table(const Row& head, const std::vector<Row>& rows) {
  std::string out = "<div class=\"scroll\"><table><thead><tr>";
  for (size_t c = 0; c < head.size(); ++c) {
    const bool over_words = !rows.empty() && c < rows[0].size() && rows[0][c].starts_with(kWords);
    out += tag("th", head[c], over_words ? "words" : "");
  }
  out += "</tr></thead><tbody>\n";
  for (const Row& row : rows) {
    out += "<tr>";
    for (const std::string& cell : row) {
      const bool is_words = cell.starts_with(kWords);
      out += tag("td", is_words ? cell.substr(1) : cell, is_words ? "words" : "");
    }
    out += "</tr>\n";
  }
  return out + "</tbody></table></div>\n";
}

void drop_empty_columns(Row& head, std::vector<Row>& rows) {
  const auto empty = [](const std::string& cell) { return cell.empty() || cell == std::string(1, kWords); };
  for (size_t c = head.size(); c-- > 1;) {
    if (!std::all_of(rows.begin(), rows.end(), [&](const Row& row) { return empty(row[c]); })) continue;
    head.erase(head.begin() + static_cast<std::ptrdiff_t>(c));
    for (Row& row : rows) row.erase(row.begin() + static_cast<std::ptrdiff_t>(c));
  }
}

std::string section(const std::string& heading, const std::string& note, const std::string& body) {
  return cat("<section>\n", tag("h2", escape_html(heading)), "\n", tag("p", note, "note"), "\n", body, "</section>\n");
}

std::string pair(const std::string& picture, const std::string& numbers) {
  return cat("<div class=\"pair\"><div>", picture, "</div><div>", numbers, "</div></div>\n");
}

std::string legend(const std::vector<ChartSeries>& series, const Runs& runs, const std::vector<int>& colors) {
  std::string out = "<ul class=\"legend small\">";
  for (const ChartSeries& s : series) out += tag("li", chip(runs[s.run], colors[s.run]));
  return out + "</ul>\n";
}

std::string charts(const ChartSpec& spec, const std::vector<ChartSeries>& series, const Runs& runs,
                   const std::vector<int>& colors) {
  return legend(series, runs, colors) +
         line_chart(spec, series, {.width = 720, .height = 390, .end_labels = true}, "wide") +
         line_chart(spec, series, {.width = 340, .height = 290, .end_labels = false}, "narrow");
}

std::vector<ChartMark> window_marks(const Runs& runs) {
  std::set<int64_t> trained, target;
  for (const ReportRun& run : runs) {
    if (run.trained_window > 0) trained.insert(run.trained_window);
    if (run.target_window > run.trained_window) target.insert(run.target_window);
  }
  std::vector<ChartMark> marks;
  for (int64_t w : trained) marks.push_back({static_cast<double>(w), cat("trained window ", w)});
  for (int64_t w : target) {
    if (!trained.count(w)) marks.push_back({static_cast<double>(w), cat("target ", w)});
  }
  if (marks.size() > 6) marks.resize(6);  // a picture has room for no more
  return marks;
}

std::string matrix(const Runs& runs, const std::vector<int>& colors, const std::vector<ChartSeries>& series,
                   const std::string& corner, Best best, bool percent, const std::vector<std::string>& names) {
  std::set<double> xs;
  for (const ChartSeries& s : series) {
    for (const ChartPoint& p : s.points) xs.insert(p.x);
  }
  const std::map<double, std::string> marked = best_of(series, best, percent);
  Row head{escape_html(corner)};
  for (double x : xs) {
    const bool named = x < static_cast<double>(names.size());
    head.push_back(named ? escape_html(names[static_cast<size_t>(x)]) : short_tokens(x));
  }
  std::vector<Row> rows;
  for (const ChartSeries& s : series) {
    Row row{chip(runs[s.run], colors[s.run])};
    for (double x : xs) {
      const auto p = std::find_if(s.points.begin(), s.points.end(), [&](const ChartPoint& q) { return q.x == x; });
      row.push_back(p == s.points.end() ? "" : cell_of(*p, marked, percent));
    }
    rows.push_back(row);
  }
  return table(head, rows);
}

std::string by_protocol(const std::string& heading, const std::string& note, const std::vector<std::string>& protocols,
                        const std::function<std::string(const std::string& protocol)>& body) {
  if (protocols.empty()) return "";
  const auto measured = [](const std::string& protocol) {
    return protocol.empty() ? std::string("not stated") : escape_html(protocol);
  };
  if (protocols.size() == 1) {
    const std::string how = protocols[0].empty() ? "" : " Measured by: " + measured(protocols[0]) + ".";
    return section(heading, note + how, body(protocols[0]));
  }
  std::string all = tag("p",
                        cat("These numbers were measured in ", protocols.size(),
                            " different ways. Those of different tables do not compare."),
                        "warn");
  for (const std::string& protocol : protocols)
    all += cat("\n", tag("h3", "Measured by: " + measured(protocol), "protocol"), "\n", body(protocol));
  return section(heading, note, all);
}

}  // namespace rw::report
