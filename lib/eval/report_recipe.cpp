// Sections of a report that say what the runs are: what they are made of, their frequencies and positions, what they
// cost, and their recipes.
#include <cmath>
#include <cstdio>
#include <set>

#include "eval/report_table.h"
#include "tensor/error.h"

namespace rw::report {
namespace {

std::string state_text(const RunFacts& f) {
  const std::string steps =
      f.steps_planned > f.steps_done ? cat(f.steps_done, " of ", f.steps_planned) : cat(f.steps_done);
  switch (f.state) {
    case RunState::finished:
      return "finished";
    case RunState::training:
      return cat("still training, step ", steps);
    case RunState::stopped:
      return cat("stopped after step ", steps, ", no model");
    case RunState::unknown:
      break;
  }
  return "";
}

/// theta / theta': how many times slower each pair turns; empty where that is unknown.
std::vector<double> slowing(const ReportRun& run) {
  std::vector<double> out;
  if (run.inv_freq.size() != run.base_inv_freq.size()) return out;
  for (size_t i = 0; i < run.inv_freq.size(); ++i) out.push_back(run.base_inv_freq[i] / run.inv_freq[i]);
  return out;
}

/// A sample's positions as a line. A jump is drawn as a break: the positions between are skipped, not visited. Random
/// subsets step unevenly all the way and have no jumps to speak of.
ChartSeries position_line(const std::vector<double>& p, const std::string& name, int color) {
  ChartSeries s{.name = name, .color = color, .markers = false};
  std::vector<double> steps;
  for (size_t m = 1; m < p.size(); ++m) steps.push_back(p[m] - p[m - 1]);
  std::sort(steps.begin(), steps.end());
  const double jump = steps.empty() ? 0 : 16 * steps[steps.size() / 2] + 0.5;
  const std::vector<size_t> corners = position_corners(p);
  const size_t keep = corners.size() / 128 + 1;  // a curve of a few hundred pixels shows no more
  for (size_t c = 0; c < corners.size(); ++c) {
    const size_t m = corners[c];
    const bool jumps = m > 0 && p[m] - p[m - 1] > jump;
    if (!jumps && c % keep != 0 && c + 1 < corners.size()) continue;
    if (jumps) s.points.push_back({static_cast<double>(m), NAN});
    s.points.push_back({static_cast<double>(m), p[m]});
  }
  return s;
}

std::string position_chart(const ReportRun& run, int color) {
  std::vector<ChartSeries> series;
  double first = INFINITY, last = 0, widest = 0;
  for (const std::vector<double>& p : run.positions) {
    if (p.empty()) continue;
    series.push_back(position_line(p, cat("sample ", series.size()), color));
    for (size_t m = 1; m < p.size(); ++m) widest = std::max(widest, p[m] - p[m - 1]);
    first = std::min(first, p.front());
    last = std::max(last, p.back());
  }
  if (series.empty()) return "";
  const double target = static_cast<double>(std::max(run.target_window, run.trained_window));
  const ChartSpec spec{.label = "Training positions of " + run.name,
                       .x_title = "token",
                       .y_title = "position",
                       .y_low = 0,
                       .y_high = target};
  return cat("<div>", tag("h3", chip(run, color)),
             line_chart(spec, series, {.width = 380, .height = 260, .end_labels = false}, "small"),
             table({"samples", "first", "last", "widest step", "target"},
                   {{cat(series.size()), short_number(first), short_number(last), short_number(widest),
                     short_number(target)}}),
             "</div>\n");
}

std::string time_text(double seconds) {
  if (seconds < 120) return cat(short_number(seconds), " s");
  if (seconds < 7200) return cat(short_number(seconds / 60), " min");
  return cat(short_number(seconds / 3600), " h");
}

/// Grey for a setting that all runs share.
void step_back(Row& row) {
  for (std::string& cell : row) {
    const bool marked = cell.starts_with('\x01');
    cell = cat(marked ? "\x01" : "", tag("span", marked ? cell.substr(1) : cell, "same"));
  }
}

}  // namespace

std::string runs_section(const Runs& runs, const std::vector<int>& colors) {
  std::vector<Row> rows;
  std::string notices;
  for (size_t r = 0; r < runs.size(); ++r) {
    const ReportRun& run = runs[r];
    const RunFacts& f = run.facts;
    std::string window = run.trained_window > 0 ? short_tokens(static_cast<double>(run.trained_window)) : "";
    if (run.target_window > run.trained_window)
      window += cat(" → ", short_tokens(static_cast<double>(run.target_window)));
    rows.push_back({chip(run, colors[r]), words(state_text(f)), window,
                    f.parameters > 0 ? short_number(static_cast<double>(f.parameters)) : "", words(f.architecture),
                    words(f.tokenizer), words(f.device), words(f.date), words(f.version)});
    for (const std::string& notice : run.notices)
      notices += tag("p", cat(chip(run, colors[r]), ": ", escape_html(notice)), "warn");
  }
  const bool any = std::any_of(rows.begin(), rows.end(), [](const Row& row) {
    return std::any_of(row.begin() + 3, row.end(), [](const std::string& c) { return c.size() > 1; }) ||
           row[1].size() > 1;
  });
  if (!any && notices.empty()) return "";
  Row head{"run", "state", "window", "parameters", "architecture", "tokenizer", "device", "date, UTC", "made by"};
  drop_empty_columns(head, rows);
  return section("Runs", "What is compared here.", notices + tag("div", table(head, rows), "facts"));
}

std::string frequency_section(const Runs& runs, const std::vector<int>& colors) {
  std::vector<ChartSeries> series;
  std::vector<Row> rows;
  Row head{"run", "fastest pair", "1/4", "1/2", "3/4", "slowest", "A"};
  for (size_t r = 0; r < runs.size(); ++r) {
    const std::vector<double> times = slowing(runs[r]);
    if (times.empty()) continue;
    ChartSeries s{.name = runs[r].name, .color = colors[r], .dashed = runs[r].baseline, .markers = false, .run = r};
    for (size_t i = 0; i < times.size(); ++i) s.points.push_back({static_cast<double>(i), times[i]});
    series.push_back(std::move(s));
    const size_t n = times.size();
    Row row{chip(runs[r], colors[r])};
    for (size_t i : {size_t{0}, n / 4, n / 2, 3 * n / 4, n - 1}) row.push_back(table_number(times[i]));
    row.push_back(table_number(runs[r].attention_scale));
    rows.push_back(row);
  }
  if (series.empty()) return "";
  const ChartSpec spec{.label = "Slowing of each rotary pair",
                       .x_title = "pair i (fast to slow)",
                       .y_title = "theta / theta', times slower"};
  return section(
      "Frequencies",
      "How many times slower each rotary pair turns than in pre-training. 1 leaves a pair alone, the window's "
      "factor interpolates it fully, and ∞ stops it; A multiplies cosine and sine.",
      pair(charts(spec, series, runs, colors), table(head, rows)));
}

std::string position_section(const Runs& runs, const std::vector<int>& colors) {
  std::string body;
  for (size_t r = 0; r < runs.size(); ++r) body += position_chart(runs[r], colors[r]);
  if (body.empty()) return "";
  return section("Positions in training",
                 "Which position each token of a few samples claims to have. Gaps are positions that the sample skips.",
                 tag("div", body, "grid"));
}

std::string cost_section(const Runs& runs, const std::vector<int>& colors) {
  double longest = 0;
  for (const ReportRun& run : runs) longest = std::max(longest, run.cost.seconds);
  std::vector<Row> rows;
  for (size_t r = 0; r < runs.size(); ++r) {
    const RunCost& c = runs[r].cost;
    if (c.seconds <= 0 && c.tokens <= 0 && c.peak_memory_bytes <= 0) continue;
    std::string time = c.seconds > 0 ? time_text(c.seconds) : "";
    if (c.seconds > 0) {
      char width[16];
      std::snprintf(width, sizeof width, "%.1f", 100 * c.seconds / longest);
      time += cat("<span class=\"bar ", color_class(colors[r]), "\" style=\"width:", width, "%\"></span>");
    }
    rows.push_back(
        {chip(runs[r], colors[r]), time, c.tokens > 0 ? short_number(static_cast<double>(c.tokens)) : "",
         c.tokens_per_s > 0 ? short_number(c.tokens_per_s) : "",
         c.peak_memory_bytes > 0 ? cat(short_number(static_cast<double>(c.peak_memory_bytes) / 1048576), " MiB") : "",
         words(runs[r].facts.device)});
  }
  if (rows.empty()) return "";
  Row head{"run", "time", "tokens", "tokens / s", "peak memory", "device"};
  drop_empty_columns(head, rows);
  return section("Cost", "Training alone, on the machine that ran it.", table(head, rows));
}

std::string recipe_section(const Runs& runs, const std::vector<int>& colors) {
  std::vector<std::string> keys;
  Row head{"setting"};
  for (size_t r = 0; r < runs.size(); ++r) {
    if (runs[r].recipe.empty()) continue;
    head.push_back(chip(runs[r], colors[r]));
    for (const auto& [key, value] : runs[r].recipe) {
      if (std::find(keys.begin(), keys.end(), key) == keys.end()) keys.push_back(key);
    }
  }
  if (keys.empty()) return "";
  std::vector<Row> rows;
  for (const std::string& key : keys) {
    Row row{breakable(key)};
    std::set<std::string> distinct;
    for (const ReportRun& run : runs) {
      if (run.recipe.empty()) continue;
      const auto it =
          std::find_if(run.recipe.begin(), run.recipe.end(), [&](const auto& kv) { return kv.first == key; });
      const std::string value = it == run.recipe.end() ? "" : it->second;
      distinct.insert(value);
      row.push_back(words(value));
    }
    if (distinct.size() == 1 && row.size() > 2) step_back(row);
    rows.push_back(row);
  }
  return section("Recipes", "The settings of each run. What all runs share is grey.", table(head, rows));
}

}  // namespace rw::report
