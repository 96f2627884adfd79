#include "eval/report.h"

#include <algorithm>
#include <cmath>
#include <filesystem>
#include <functional>
#include <map>
#include <set>

#include "eval/report_chart.h"
#include "eval/report_style.h"
#include "tensor/error.h"
#include "tensor/file.h"

namespace rw {
namespace {

using Runs = std::vector<ReportRun>;

/// Colour of each run: grey for baselines, then the eight in order.
std::vector<int> colors_of(const Runs& runs) {
  std::vector<int> colors;
  int next = 0;
  for (const ReportRun& run : runs) colors.push_back(run.baseline ? -1 : next++ % 8);
  return colors;
}

std::string color_class(int color) { return color < 0 ? "grey" : cat("c", color); }

std::string tag(const std::string& name, const std::string& content, const std::string& css = "") {
  return cat("<", name, css.empty() ? "" : " class=\"" + css + "\"", ">", content, "</", name, ">");
}

std::string chip(const ReportRun& run, int color) {
  return cat("<span class=\"chip ", color_class(color), "\"></span>", escape_html(run.name));
}

using Row = std::vector<std::string>;  // cells as HTML

std::string table(const Row& head, const std::vector<Row>& rows) {
  std::string out = "<div class=\"scroll\"><table><thead><tr>";
  for (size_t c = 0; c < head.size(); ++c) {
    const bool over_words = !rows.empty() && c < rows[0].size() && rows[0][c].starts_with("\x01");
    out += tag("th", head[c], over_words ? "words" : "");
  }
  out += "</tr></thead><tbody>\n";
  for (const Row& row : rows) {
    out += "<tr>";
    // A cell that begins with the class marker is text, not a number.
    for (const std::string& cell : row) {
      const bool words = cell.starts_with("\x01");
      out += tag("td", words ? cell.substr(1) : cell, words ? "words" : "");
    }
    out += "</tr>\n";
  }
  return out + "</tbody></table></div>\n";
}

std::string words(const std::string& text) { return "\x01" + escape_html(text); }

std::string section(const std::string& heading, const std::string& note, const std::string& body) {
  return cat("<section>\n", tag("h2", escape_html(heading)), "\n", tag("p", note, "note"), "\n", body, "</section>\n");
}

std::string pair(const std::string& picture, const std::string& numbers) {
  return cat("<div class=\"pair\"><div>", picture, "</div><div>", numbers, "</div></div>\n");
}

std::string legend(const Runs& runs, const std::vector<int>& colors,
                   const std::function<bool(const ReportRun&)>& shown) {
  std::string out = "<ul class=\"legend small\">";
  for (size_t r = 0; r < runs.size(); ++r) {
    if (shown(runs[r])) out += tag("li", chip(runs[r], colors[r]));
  }
  return out + "</ul>\n";
}

/// The same chart for a desk and for a phone; the style sheet shows one of them.
std::string both_charts(const ChartSpec& spec, const std::vector<ChartSeries>& series) {
  return line_chart(spec, series, {.width = 720, .height = 390, .end_labels = true}, "wide") +
         line_chart(spec, series, {.width = 340, .height = 290, .end_labels = false}, "narrow");
}

/// One line per run that has points.
std::vector<ChartSeries> series_of(const Runs& runs, const std::vector<int>& colors,
                                   const std::function<std::vector<ChartPoint>(const ReportRun&)>& points) {
  std::vector<ChartSeries> out;
  for (size_t r = 0; r < runs.size(); ++r) {
    std::vector<ChartPoint> p = points(runs[r]);
    if (!p.empty()) out.push_back({runs[r].name, colors[r], runs[r].baseline, true, std::move(p)});
  }
  return out;
}

/// "trained window 256" and "target 1024", once each.
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
  return marks;
}

/// Values spread so far that a linear axis would show the largest alone.
bool collapses(const std::vector<ChartSeries>& series) {
  double low = INFINITY, high = 0;
  for (const ChartSeries& s : series) {
    for (const ChartPoint& p : s.points) {
      if (!std::isfinite(p.y) || p.y <= 0) continue;
      low = std::min(low, p.y);
      high = std::max(high, p.y);
    }
  }
  return high > 3 * low;
}

/// Runs against x values: the best (smallest or largest) of each column stands out.
std::string matrix(const Runs& runs, const std::vector<int>& colors, const std::vector<ChartSeries>& series,
                   const std::string& corner, bool smaller_is_better, bool percent) {
  std::set<double> xs;
  std::map<std::string, const ChartSeries*> by_name;
  for (const ChartSeries& s : series) {
    by_name[s.name] = &s;
    for (const ChartPoint& p : s.points) xs.insert(p.x);
  }
  std::map<double, double> best;
  for (const ChartSeries& s : series) {
    for (const ChartPoint& p : s.points) {
      if (!std::isfinite(p.y)) continue;
      const auto [it, fresh] = best.try_emplace(p.x, p.y);
      if (!fresh) it->second = smaller_is_better ? std::min(it->second, p.y) : std::max(it->second, p.y);
    }
  }
  Row head{escape_html(corner)};
  for (double x : xs) head.push_back(short_tokens(x));
  std::vector<Row> rows;
  for (size_t r = 0; r < runs.size(); ++r) {
    const auto found = by_name.find(runs[r].name);
    if (found == by_name.end()) continue;
    Row row{chip(runs[r], colors[r])};
    for (double x : xs) {
      const auto& points = found->second->points;
      const auto p = std::find_if(points.begin(), points.end(), [&](const ChartPoint& q) { return q.x == x; });
      if (p == points.end()) {
        row.push_back("");
        continue;
      }
      std::string cell = percent ? cat(std::llround(100 * p->y)) : table_number(p->y);
      if (series.size() > 1 && p->y == best[x]) cell = tag("span", cell, "best");
      if (p->low < p->high && !percent) {
        cell = cat("<span title=\"95 %: ", table_number(p->low), " – ", table_number(p->high), "\">", cell, "</span>");
      }
      row.push_back(cell);
    }
    rows.push_back(row);
  }
  return table(head, rows);
}

// --- sections -------------------------------------------------------------------------------------------------------

std::string ppl_section(const Runs& runs, const std::vector<int>& colors) {
  const auto series = series_of(runs, colors, [](const ReportRun& run) {
    std::vector<ChartPoint> out;
    for (const PplPoint& p : run.ppl) out.push_back({static_cast<double>(p.window), p.ppl, p.low, p.high});
    return out;
  });
  if (series.empty()) return "";
  ChartSpec spec{.label = "Perplexity by evaluation window",
                 .x_title = "window, tokens",
                 .y_title = "perplexity",
                 .log2_x = true,
                 .log_y = collapses(series),
                 .marks = window_marks(runs)};
  if (spec.log_y) spec.y_title += ", log scale";
  return section(
      "Perplexity by window",
      "How well the next token of held-out text is predicted when a model reads that many tokens at once. "
      "Lower is better; a line that climbs past the trained window has not been extended. Bars: 95 % "
      "bootstrap interval over documents.",
      pair(legend(runs, colors, [](const ReportRun& r) { return !r.ppl.empty(); }) + both_charts(spec, series),
           matrix(runs, colors, series, "window", true, false)));
}

/// At most `count` points, each the mean of its stretch: a long run stays small on disk and readable.
std::vector<ChartPoint> thin(const std::vector<LossPoint>& loss, size_t count) {
  std::vector<ChartPoint> out;
  const size_t parts = std::min(count, loss.size());
  for (size_t p = 0; p < parts; ++p) {
    const size_t begin = loss.size() * p / parts, end = loss.size() * (p + 1) / parts;
    double steps = 0, sum = 0;
    for (size_t i = begin; i < end; ++i) {
      steps += static_cast<double>(loss[i].step);
      sum += loss[i].loss;
    }
    const double n = static_cast<double>(end - begin);
    out.push_back({steps / n, sum / n});
  }
  return out;
}

std::string loss_section(const Runs& runs, const std::vector<int>& colors) {
  auto series = series_of(runs, colors, [](const ReportRun& run) { return thin(run.loss, 150); });
  if (series.empty()) return "";
  for (ChartSeries& s : series) s.markers = false;
  // The first steps of a run from scratch would flatten everything that matters.
  double limit = 0;
  for (const ChartSeries& s : series) limit = std::max(limit, s.points[s.points.size() / 12].y * 1.02);
  const ChartSpec spec{
      .label = "Training loss by step", .x_title = "step", .y_title = "loss, nats per token", .y_limit = limit};
  std::vector<Row> rows;
  for (size_t r = 0; r < runs.size(); ++r) {
    const auto& loss = runs[r].loss;
    if (loss.empty()) continue;
    const std::vector<ChartPoint> tenths = thin(loss, 10);
    rows.push_back({chip(runs[r], colors[r]), cat(loss.back().step + 1), table_number(loss.front().loss),
                    table_number(thin(loss, 2).front().y), table_number(tenths.back().y)});
  }
  return section(
      "Training loss", "Mean over short stretches of steps.",
      pair(legend(runs, colors, [](const ReportRun& r) { return !r.loss.empty(); }) + both_charts(spec, series),
           table({"run", "steps", "first", "first half", "last tenth"}, rows)));
}

std::string bins_section(const Runs& runs, const std::vector<int>& colors) {
  const auto series = series_of(runs, colors, [](const ReportRun& run) {
    std::vector<ChartPoint> out;
    for (const BinPoint& b : run.bins) out.push_back({0.5 * static_cast<double>(b.begin + b.end), b.nll});
    return out;
  });
  if (series.empty()) return "";
  const ChartSpec spec{.label = "Loss by token index",
                       .x_title = "token index",
                       .y_title = "loss, nats per token",
                       .marks = window_marks(runs)};
  // A table of all bins would be as long as the page: at most six, spread evenly.
  std::vector<ChartSeries> few;
  for (const ReportRun& run : runs) {
    ChartSeries s{.name = run.name};
    const size_t count = std::min<size_t>(6, run.bins.size());
    for (size_t i = 0; i < count; ++i) {
      const BinPoint& b = run.bins[count < 2 ? 0 : i * (run.bins.size() - 1) / (count - 1)];
      s.points.push_back({static_cast<double>(b.begin), b.nll});
    }
    if (count > 0) few.push_back(std::move(s));
  }
  return section(
      "Loss by position",
      "Mean loss of the tokens at each index of their document, read in one pass. More context should keep "
      "lowering it; a cliff marks where positions stop making sense to the model.",
      pair(legend(runs, colors, [](const ReportRun& r) { return !r.bins.empty(); }) + both_charts(spec, series),
           matrix(runs, colors, few, "from token", true, false)));
}

std::string lastk_section(const Runs& runs, const std::vector<int>& colors) {
  const auto series = series_of(runs, colors, [](const ReportRun& run) {
    std::vector<ChartPoint> out;
    for (const ContextPoint& p : run.lastk) out.push_back({static_cast<double>(p.context), p.nll, p.low, p.high});
    return out;
  });
  if (series.empty()) return "";
  const ChartSpec spec{.label = "Loss of the same last tokens by context",
                       .x_title = "context, tokens",
                       .y_title = "loss, nats per token",
                       .log2_x = true,
                       .marks = window_marks(runs)};
  return section(
      "The same tokens, with more context",
      "The last tokens of each document are scored under growing contexts: what falls here is use made of "
      "the added text, and nothing else.",
      pair(legend(runs, colors, [](const ReportRun& r) { return !r.lastk.empty(); }) + both_charts(spec, series),
           matrix(runs, colors, series, "context", true, false)));
}

std::string passkey_section(const Runs& runs, const std::vector<int>& colors) {
  const auto series = series_of(runs, colors, [](const ReportRun& run) {
    std::vector<ChartPoint> out;
    for (const PasskeyPoint& p : run.passkey) out.push_back({static_cast<double>(p.distance), p.accuracy});
    return out;
  });
  if (series.empty()) return "";
  const ChartSpec spec{.label = "Passkey accuracy by distance",
                       .x_title = "distance of the key from the end, tokens",
                       .y_title = "keys found",
                       .log2_x = true,
                       .percent_y = true,
                       .marks = window_marks(runs)};
  return section(
      "Passkey by distance",
      "A number is hidden in filler text and asked for at the end: the share of trials in which every digit "
      "comes back.",
      pair(legend(runs, colors, [](const ReportRun& r) { return !r.passkey.empty(); }) + both_charts(spec, series),
           matrix(runs, colors, series, "distance, % found", false, true)));
}

std::string needle_section(const Runs& runs, const std::vector<int>& colors) {
  std::string body;
  for (size_t r = 0; r < runs.size(); ++r) {
    const ReportRun& run = runs[r];
    if (run.needle.empty()) continue;
    std::set<int64_t> lengths;
    std::set<double> depths;
    for (const NeedleCell& c : run.needle) {
      lengths.insert(c.length);
      depths.insert(c.depth);
    }
    std::vector<std::string> columns, rows;
    for (int64_t n : lengths) columns.push_back(short_tokens(static_cast<double>(n)));
    for (double d : depths) rows.push_back(cat(std::llround(100 * d), " %"));
    std::vector<HeatCell> cells;
    std::map<int64_t, std::pair<double, double>> by_length;  // sum, smallest
    for (const NeedleCell& c : run.needle) {
      cells.push_back({static_cast<int>(std::distance(lengths.begin(), lengths.find(c.length))),
                       static_cast<int>(std::distance(depths.begin(), depths.find(c.depth))), c.accuracy});
      auto& [sum, least] = by_length.try_emplace(c.length, 0.0, 1.0).first->second;
      sum += c.accuracy;
      least = std::min(least, c.accuracy);
    }
    Row head{"length"}, mean{"mean, %"}, worst{"worst depth, %"};
    for (const auto& [length, value] : by_length) {
      head.push_back(short_tokens(static_cast<double>(length)));
      mean.push_back(cat(std::llround(100 * value.first / static_cast<double>(depths.size()))));
      worst.push_back(cat(std::llround(100 * value.second)));
    }
    body += cat("<div><h3>", chip(run, colors[r]), "</h3>",
                heat_map("Needle accuracy of " + run.name, columns, rows, "prompt length, tokens", "depth", cells, 380),
                table(head, {mean, worst}), "</div>\n");
  }
  if (body.empty()) return "";
  return section("Needle in a haystack", "Percent of needles found, by length of the prompt and depth of the needle.",
                 tag("div", body, "grid"));
}

std::string frequency_section(const Runs& runs, const std::vector<int>& colors) {
  const auto series = series_of(runs, colors, [](const ReportRun& run) {
    std::vector<ChartPoint> out;
    if (run.inv_freq.size() != run.base_inv_freq.size()) return out;
    for (size_t i = 0; i < run.inv_freq.size(); ++i) {
      out.push_back({static_cast<double>(i), run.base_inv_freq[i] / run.inv_freq[i]});
    }
    return out;
  });
  if (series.empty()) return "";
  const ChartSpec spec{.label = "Slowing of each rotary pair",
                       .x_title = "pair i (fast to slow)",
                       .y_title = "theta / theta', times slower"};
  std::vector<ChartSeries> drawn = series;
  for (ChartSeries& s : drawn) s.markers = false;
  std::vector<Row> rows;
  for (size_t r = 0; r < runs.size(); ++r) {
    const ReportRun& run = runs[r];
    if (run.inv_freq.empty() || run.inv_freq.size() != run.base_inv_freq.size()) continue;
    const size_t n = run.inv_freq.size();
    Row row{chip(run, colors[r])};
    for (size_t i : {size_t{0}, n / 4, n / 2, 3 * n / 4, n - 1}) {
      row.push_back(table_number(run.base_inv_freq[i] / run.inv_freq[i]));
    }
    row.push_back(table_number(run.attention_scale));
    rows.push_back(row);
  }
  const size_t n = series[0].points.size();
  Row head{"pair"};
  for (size_t i : {size_t{0}, n / 4, n / 2, 3 * n / 4, n - 1}) head.push_back(cat(i));
  head.push_back("A");
  return section(
      "Frequencies",
      "How many times slower each rotary pair turns than in pre-training. 1 leaves a pair alone, the window's "
      "factor interpolates it fully; A multiplies cosine and sine.",
      pair(legend(runs, colors, [](const ReportRun& r) { return !r.inv_freq.empty(); }) + both_charts(spec, drawn),
           table(head, rows)));
}

std::string position_section(const Runs& runs, const std::vector<int>& colors) {
  std::string body;
  for (size_t r = 0; r < runs.size(); ++r) {
    const ReportRun& run = runs[r];
    if (run.positions.empty()) continue;
    std::vector<ChartSeries> series;
    double first = INFINITY, last = 0, widest = 0;
    for (size_t k = 0; k < run.positions.size(); ++k) {
      ChartSeries s{cat("sample ", k), colors[r], false, false, {}};
      const std::vector<double>& p = run.positions[k];
      if (p.empty()) continue;
      // A jump is drawn as a break in the line: the positions between are skipped, not visited. Random subsets step
      // unevenly all the way and have no jumps to speak of.
      std::vector<double> steps;
      for (size_t m = 1; m < p.size(); ++m) steps.push_back(p[m] - p[m - 1]);
      std::sort(steps.begin(), steps.end());
      const double jump = steps.empty() ? 0 : 16 * steps[steps.size() / 2] + 0.5;
      for (size_t m = 1; m < p.size(); ++m) widest = std::max(widest, p[m] - p[m - 1]);
      std::vector<size_t> corners = position_corners(p);
      const size_t keep = corners.size() / 128 + 1;  // a curve of a few hundred pixels shows no more
      for (size_t c = 0; c < corners.size(); ++c) {
        const size_t m = corners[c];
        const bool jumps = m > 0 && p[m] - p[m - 1] > jump;
        if (!jumps && c % keep != 0 && c + 1 < corners.size()) continue;
        if (jumps) s.points.push_back({static_cast<double>(m), NAN});
        s.points.push_back({static_cast<double>(m), p[m]});
      }
      first = std::min(first, p.front());
      last = std::max(last, p.back());
      series.push_back(std::move(s));
    }
    const ChartSpec spec{.label = "Training positions of " + run.name, .x_title = "token", .y_title = "position"};
    body += cat("<div><h3>", chip(run, colors[r]), "</h3>",
                line_chart(spec, series, {.width = 380, .height = 260, .end_labels = false}, "small"),
                table({"samples", "first", "last", "widest step"},
                      {{cat(series.size()), short_number(first), short_number(last), short_number(widest)}}),
                "</div>\n");
  }
  if (body.empty()) return "";
  return section("Positions in training",
                 "Which position each token of a few samples claims to have. Gaps are positions that the sample skips.",
                 tag("div", body, "grid"));
}

std::string time_text(double seconds) {
  if (seconds < 120) return cat(short_number(seconds), " s");
  if (seconds < 7200) return cat(short_number(seconds / 60), " min");
  return cat(short_number(seconds / 3600), " h");
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
         c.peak_memory_bytes > 0 ? cat(short_number(static_cast<double>(c.peak_memory_bytes) / 1048576), " MiB") : ""});
  }
  if (rows.empty()) return "";
  Row head{"run", "time", "tokens", "tokens / s", "peak memory"};
  for (size_t c = head.size(); c-- > 1;) {  // a column that no run has a number for says nothing
    if (!std::all_of(rows.begin(), rows.end(), [&](const Row& row) { return row[c].empty(); })) continue;
    head.erase(head.begin() + static_cast<std::ptrdiff_t>(c));
    for (Row& row : rows) row.erase(row.begin() + static_cast<std::ptrdiff_t>(c));
  }
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
    Row row{escape_html(key)};
    std::set<std::string> distinct;
    for (const ReportRun& run : runs) {
      if (run.recipe.empty()) continue;
      const auto it =
          std::find_if(run.recipe.begin(), run.recipe.end(), [&](const auto& kv) { return kv.first == key; });
      const std::string value = it == run.recipe.end() ? "" : it->second;
      distinct.insert(value);
      row.push_back(words(value));
    }
    if (distinct.size() == 1 && row.size() > 2) {  // what all runs share steps back
      for (std::string& cell : row) {
        const bool marked = cell.starts_with("\x01");
        cell = (marked ? std::string("\x01") : std::string()) + tag("span", marked ? cell.substr(1) : cell, "same");
      }
    }
    rows.push_back(row);
  }
  return section("Recipes", "Everything that decides a run's result. What all runs share is grey.", table(head, rows));
}

/// The window that says most: the target if every run was evaluated there, else the longest that all have.
int64_t telling_window(const Runs& runs) {
  std::map<int64_t, size_t> seen;
  size_t evaluated = 0;
  int64_t target = 0, longest = 0;
  for (const ReportRun& run : runs) {
    evaluated += !run.ppl.empty();
    target = std::max(target, run.target_window);
    for (const PplPoint& p : run.ppl) ++seen[p.window];
  }
  for (const auto& [window, n] : seen) {
    if (n == evaluated) longest = window;
    if (n == evaluated && window == target) return window;
  }
  return longest;
}

/// The outcome in a sentence.
std::string verdict(const Runs& runs) {
  const int64_t window = telling_window(runs);
  if (window == 0) return "";
  int64_t trained = 0;
  for (const ReportRun& run : runs) trained = std::max(trained, run.trained_window);
  std::string list;
  for (const ReportRun& run : runs) {
    for (const PplPoint& p : run.ppl) {
      if (p.window != window) continue;
      list += cat(list.empty() ? "" : ", ", escape_html(run.name), " ", tag("strong", table_number(p.ppl)));
    }
  }
  std::string text = cat("Perplexity at a window of ", short_tokens(static_cast<double>(window)), " tokens");
  if (trained > 0 && window > trained) {
    text += cat(", ", short_number(static_cast<double>(window) / static_cast<double>(trained)), " times the trained ",
                trained);
  }
  return tag("p", text + ": " + list + ".", "verdict");
}

std::string text_sections(const ReportOptions& options) {
  std::string out;
  for (const auto& [heading, text] : options.texts) {
    out += cat("<section>\n", tag("h2", escape_html(heading)), "\n", tag("pre", escape_html(text)), "</section>\n");
  }
  return out;
}

}  // namespace

std::string report_html(const std::vector<ReportRun>& runs, const ReportOptions& options) {
  check(!runs.empty(), "report", "needs at least one run");
  const std::vector<int> colors = colors_of(runs);
  std::string out =
      "<!DOCTYPE html>\n<html lang=\"en\">\n<head>\n<meta charset=\"utf-8\"/>\n"
      "<meta name=\"viewport\" content=\"width=device-width, initial-scale=1\"/>\n"
      "<link rel=\"icon\" href=\"data:,\"/>\n";  // or the browser asks a server for one
  out += tag("title", escape_html(options.title)) + "\n" + tag("style", report_style()) + "\n</head>\n<body>\n";
  out +=
      cat("<header><div class=\"in\">", tag("div", "Ropewalk report", "brand"), tag("h1", escape_html(options.title)));
  if (!options.subtitle.empty()) out += tag("p", escape_html(options.subtitle), "lead");
  out += cat("</div>", report_rope(), "</header>\n<main>\n", verdict(runs));
  for (const auto& make : {ppl_section, loss_section, bins_section, lastk_section, passkey_section, needle_section,
                           frequency_section, position_section, cost_section, recipe_section}) {
    out += make(runs, colors);
  }
  out += text_sections(options);
  out +=
      "</main>\n<footer>Made by Ropewalk. The numbers of every picture stand beside this file as CSV and JSON "
      "lines.</footer>\n</body>\n</html>\n";
  return out;
}

void write_report(const std::string& path, const std::vector<ReportRun>& runs, const ReportOptions& options) {
  const std::filesystem::path base(path);
  const std::vector<Record> records = report_records(runs);
  write_file_atomic(std::filesystem::path(base).replace_extension(".csv").string(), to_csv(records));
  write_file_atomic(std::filesystem::path(base).replace_extension(".jsonl").string(), to_jsonl(records));
  write_file_atomic(path, report_html(runs, options));
}

}  // namespace rw
