// Sections of a report that show losses: perplexity by window, training and validation, by position, by context.
#include <cmath>

#include "eval/report_table.h"
#include "tensor/error.h"

namespace rw::report {
namespace {

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

/// At most `count` points, each the mean of its stretch: a long run stays small on disk and readable. The first and the
/// last stand at the run's first and last step.
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
  if (parts > 1) {
    out.front().x = static_cast<double>(loss.front().step);
    out.back().x = static_cast<double>(loss.back().step);
  }
  return out;
}

}  // namespace

std::string ppl_section(const Runs& runs, const std::vector<int>& colors) {
  return by_protocol(
      "Perplexity by window",
      "How well the next token of held-out text is predicted when a model reads that many tokens at once. "
      "Lower is better; a line that climbs past the trained window has not been extended. Bars: 95 % "
      "bootstrap interval over documents.",
      protocols_of(runs, &ReportRun::ppl), [&](const std::string& protocol) {
        const auto series = series_of(runs, colors, &ReportRun::ppl, protocol, [](const PplPoint& p) {
          return ChartPoint{.x = static_cast<double>(p.window), .y = p.ppl, .low = p.low, .high = p.high};
        });
        ChartSpec spec{.label = "Perplexity by evaluation window",
                       .x_title = "window, tokens",
                       .y_title = "perplexity",
                       .log2_x = true,
                       .log_y = collapses(series),
                       .marks = window_marks(runs)};
        if (spec.log_y) spec.y_title += ", log scale";
        return pair(charts(spec, series, runs, colors), matrix(runs, colors, series, "window", Best::smallest));
      });
}

namespace {

/// Curves and numbers of the runs that `shown` picks; empty if there are none.
std::string loss_body(const Runs& runs, const std::vector<int>& colors,
                      const std::function<bool(const ReportRun&)>& shown) {
  std::vector<ChartSeries> series;
  std::vector<Row> rows;
  const auto of_body = [&](const ReportRun& run) { return !run.loss.empty() && shown(run); };
  const size_t points =
      std::count_if(runs.begin(), runs.end(), of_body) > 4 ? 40 : 150;  // many noisy lines hide each other
  for (size_t r = 0; r < runs.size(); ++r) {
    const auto& loss = runs[r].loss;
    if (!of_body(runs[r])) continue;
    series.push_back({.name = runs[r].name,
                      .color = colors[r],
                      .dashed = runs[r].baseline,
                      .markers = false,
                      .points = thin(loss, points),
                      .run = r});
    rows.push_back({chip(runs[r], colors[r]), cat(loss.back().step + 1), table_number(loss.front().loss),
                    table_number(thin(loss, 2).front().y), table_number(thin(loss, 10).back().y)});
  }
  if (series.empty()) return "";
  // The first steps of a run from scratch would flatten everything that matters: their lines come in from above.
  double limit = 0;
  for (const ChartSeries& s : series) {
    for (size_t i = s.points.size() / 12; i < s.points.size(); ++i) limit = std::max(limit, s.points[i].y * 1.02);
  }
  const ChartSpec spec{
      .label = "Training loss by step", .x_title = "step", .y_title = "loss, nats per token", .y_limit = limit};
  return pair(charts(spec, series, runs, colors), table({"run", "steps", "first", "first half", "last tenth"}, rows));
}

}  // namespace

std::string loss_section(const Runs& runs, const std::vector<int>& colors) {
  int64_t of_base = 0, of_others = 0;
  for (const ReportRun& run : runs) {
    if (run.loss.empty()) continue;
    int64_t& longest = run.baseline ? of_base : of_others;
    longest = std::max(longest, run.loss.back().step + 1);
  }
  std::string body;
  if (of_base > 3 * of_others && of_others > 0) {  // one picture would squeeze the short runs into its corner
    body = tag("h3", "Before extension") + loss_body(runs, colors, [](const ReportRun& run) { return run.baseline; }) +
           tag("h3", "Extension") + loss_body(runs, colors, [](const ReportRun& run) { return !run.baseline; });
  } else {
    body = loss_body(runs, colors, [](const ReportRun&) { return true; });
  }
  if (body.empty()) return "";
  return section("Training loss",
                 "Mean over short stretches of steps. Runs of other windows, methods or text lose on other tokens: "
                 "these numbers do not rank them.",
                 body);
}

std::string validation_section(const Runs& runs, const std::vector<int>& colors) {
  return by_protocol(
      "Validation loss", "Loss on text that is not trained on, as it falls or rises in training.",
      protocols_of(runs, &ReportRun::validation), [&](const std::string& protocol) {
        const auto series = series_of(runs, colors, &ReportRun::validation, protocol, [](const ValidationPoint& p) {
          return ChartPoint{static_cast<double>(p.step), p.loss};
        });
        std::vector<ChartSeries> last;
        std::vector<Row> rows;
        for (const ChartSeries& s : series) {
          const auto least = std::min_element(s.points.begin(), s.points.end(), [](const auto& a, const auto& b) {
            return a.y < b.y || (std::isfinite(a.y) && !std::isfinite(b.y));
          });
          rows.push_back({chip(runs[s.run], colors[s.run]), cat(s.points.size()), table_number(s.points.front().y),
                          table_number(s.points.back().y), table_number(least->y), short_number(least->x)});
        }
        const ChartSpec spec{.label = "Validation loss by step", .x_title = "step", .y_title = "loss, nats per token"};
        return pair(charts(spec, series, runs, colors),
                    table({"run", "measured", "first", "last", "lowest", "at step"}, rows));
      });
}

std::string bins_section(const Runs& runs, const std::vector<int>& colors) {
  return by_protocol(
      "Loss by position",
      "Mean loss of the tokens at each index of their document, read in one pass. More context should keep "
      "lowering it; a cliff marks where positions stop making sense to the model.",
      protocols_of(runs, &ReportRun::bins), [&](const std::string& protocol) {
        ChartSpec spec{.label = "Loss by token index",
                       .x_title = "token index",
                       .y_title = "loss, nats per token",
                       .x_low = 0,
                       .x_high = 0,
                       .marks = window_marks(runs)};
        // A point stands in the middle of its bin; the first and the last reach to the ends of what was read.
        auto series = series_of(runs, colors, &ReportRun::bins, protocol, [&](const BinPoint& b) {
          spec.x_high = std::max(spec.x_high, static_cast<double>(b.end));
          return ChartPoint{0.5 * (static_cast<double>(b.begin) + static_cast<double>(b.end)), b.nll};
        });
        std::vector<ChartSeries> few;  // a table of all bins would be as long as the page: at most six, spread evenly
        for (ChartSeries& s : series) {
          std::vector<BinPoint> bins;
          for (const BinPoint& b : runs[s.run].bins) {
            if (b.protocol == protocol) bins.push_back(b);
          }
          s.markers = bins.size() <= 64;
          s.points.insert(s.points.begin(), {static_cast<double>(bins.front().begin), s.points.front().y});
          s.points.push_back({static_cast<double>(bins.back().end), s.points.back().y});
          ChartSeries chosen{.name = s.name, .run = s.run};
          const size_t count = std::min<size_t>(6, bins.size());
          for (size_t i = 0; i < count; ++i) {
            const BinPoint& b = bins[count < 2 ? 0 : i * (bins.size() - 1) / (count - 1)];
            chosen.points.push_back({static_cast<double>(b.begin), b.nll});
          }
          few.push_back(std::move(chosen));
        }
        return pair(charts(spec, series, runs, colors), matrix(runs, colors, few, "from token", Best::smallest));
      });
}

std::string lastk_section(const Runs& runs, const std::vector<int>& colors) {
  return by_protocol(
      "The same tokens, with more context",
      "The last tokens of each document are scored under growing contexts: what falls here is use made of "
      "the added text, and nothing else.",
      protocols_of(runs, &ReportRun::lastk), [&](const std::string& protocol) {
        const auto series = series_of(runs, colors, &ReportRun::lastk, protocol, [](const ContextPoint& p) {
          return ChartPoint{.x = static_cast<double>(p.context), .y = p.nll, .low = p.low, .high = p.high};
        });
        const ChartSpec spec{.label = "Loss of the same last tokens by context",
                             .x_title = "context, tokens",
                             .y_title = "loss, nats per token",
                             .log2_x = true,
                             .marks = window_marks(runs)};
        return pair(charts(spec, series, runs, colors), matrix(runs, colors, series, "context", Best::smallest));
      });
}

}  // namespace rw::report
