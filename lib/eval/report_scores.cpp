// Sections of a report that show scores: RULER and tasks in its form by length, multiple choice, summaries, questions,
// and LongPPL. Every picture stands beside its numbers.
#include <cmath>
#include <map>

#include "eval/report_table.h"
#include "tensor/error.h"

namespace rw::report {
namespace {

constexpr const char* kAverage = "average";

/// The runs with the scores of one kind of evaluation alone.
Runs of_kind(const Runs& runs, const std::string& kind, const std::function<bool(const ScorePoint&)>& wanted) {
  Runs out = runs;
  for (ReportRun& run : out)
    std::erase_if(run.scores, [&](const ScorePoint& p) { return p.kind != kind || !wanted(p); });
  return out;
}

bool any(const ScorePoint&) { return true; }

/// The tasks that runs were asked by one protocol, in order of appearance; their mean is none.
std::vector<std::string> tasks_of(const Runs& runs, const std::string& protocol) {
  std::vector<std::string> out;
  for (const ReportRun& run : runs) {
    for (const ScorePoint& p : run.scores) {
      if (p.protocol == protocol && p.task != kAverage && std::find(out.begin(), out.end(), p.task) == out.end())
        out.push_back(p.task);
    }
  }
  return out;
}

/// One run's scores as a heat map: tasks below each other, lengths side by side.
std::string task_map(const ReportRun& run, int color, const std::string& protocol,
                     const std::vector<std::string>& tasks) {
  std::map<int64_t, int> columns;
  for (const ScorePoint& p : run.scores) {
    if (p.protocol == protocol) columns[p.length] = 0;
  }
  std::vector<std::string> names;
  for (auto& [length, column] : columns) {
    column = static_cast<int>(names.size());
    names.push_back(short_tokens(static_cast<double>(length)));
  }
  std::vector<HeatCell> cells;
  for (const ScorePoint& p : run.scores) {
    const auto task = std::find(tasks.begin(), tasks.end(), p.task);
    if (p.protocol == protocol && task != tasks.end())
      cells.push_back({columns[p.length], static_cast<int>(task - tasks.begin()), p.value});
  }
  if (cells.empty()) return "";
  return cat("<div>", tag("h3", chip(run, color)),
             heat_map("Scores of " + run.name + " by task and length", names, tasks, "prompt and answer, tokens",
                      "task", cells, 400),
             "</div>\n");
}

/// The mean of the tasks at each length: as the evaluation states it, or the one task's score.
std::vector<ChartSeries> means_of(const Runs& runs, const std::vector<int>& colors, const std::string& protocol) {
  std::vector<ChartSeries> out;
  for (size_t r = 0; r < runs.size(); ++r) {
    std::map<int64_t, std::vector<double>> by_length;
    std::map<int64_t, double> stated;
    for (const ScorePoint& p : runs[r].scores) {
      if (p.protocol != protocol) continue;
      if (p.task == kAverage) stated[p.length] = p.value;
      else by_length[p.length].push_back(p.value);
    }
    ChartSeries s{.name = runs[r].name, .color = colors[r], .dashed = runs[r].baseline, .run = r};
    for (const auto& [length, values] : by_length) {
      double mean = 0;
      for (const double v : values) mean += v / static_cast<double>(values.size());
      s.points.push_back({static_cast<double>(length), stated.contains(length) ? stated[length] : mean});
    }
    if (!s.points.empty()) out.push_back(std::move(s));
  }
  return out;
}

std::string by_length(const Runs& all, const std::vector<int>& colors, const char* kind, const char* heading,
                      const char* note) {
  const Runs runs = of_kind(all, kind, any);
  return by_protocol(heading, note, protocols_of(runs, &ReportRun::scores), [&](const std::string& protocol) {
    const std::vector<std::string> tasks = tasks_of(runs, protocol);
    const auto series = means_of(runs, colors, protocol);
    const std::string what = tasks.size() == 1 ? tasks[0] : "mean of the tasks";
    const ChartSpec spec{.label = cat(heading, ": score by length"),
                         .x_title = "prompt and answer, tokens",
                         .y_title = what,
                         .log2_x = true,
                         .percent_y = true,
                         .marks = window_marks(runs)};
    std::string maps;
    for (size_t r = 0; r < runs.size(); ++r) maps += task_map(runs[r], colors[r], protocol, tasks);
    return pair(charts(spec, series, runs, colors), matrix(runs, colors, series, what + ", %", Best::largest, true)) +
           tag("div", maps, "grid");
  });
}

/// A share with its interval, in percent.
std::string share_cell(const ScorePoint& p, bool best) {
  std::string cell = table_number(100 * p.value);
  if (best) cell = tag("span", cell, "best");
  if (p.low < p.high)
    cell += cat(" ", tag("span", cat(table_number(100 * p.low), " – ", table_number(100 * p.high)), "range"));
  return cell;
}

/// Measures as columns; the best of each stands out where runs differ.
std::string share_table(const Runs& runs, const std::vector<int>& colors, const std::string& protocol,
                        const std::vector<std::string>& measures) {
  std::map<std::string, std::pair<double, double>> range;  // smallest and largest of each measure
  for (const ReportRun& run : runs) {
    for (const ScorePoint& p : run.scores) {
      if (p.protocol != protocol) continue;
      const auto [known, first] = range.try_emplace(p.task, p.value, p.value);
      if (!first) known->second = {std::min(known->second.first, p.value), std::max(known->second.second, p.value)};
    }
  }
  Row head{"percent, 95 % interval"};
  for (const std::string& m : measures) head.push_back(escape_html(m));
  std::vector<Row> rows;
  for (size_t r = 0; r < runs.size(); ++r) {
    Row row{chip(runs[r], colors[r])};
    bool measured = false;
    for (const std::string& m : measures) {
      const auto p = std::find_if(runs[r].scores.begin(), runs[r].scores.end(),
                                  [&](const ScorePoint& q) { return q.protocol == protocol && q.task == m; });
      const bool there = p != runs[r].scores.end();
      measured |= there;
      row.push_back(there ? share_cell(*p, p->value > range[m].first && p->value == range[m].second) : "");
    }
    if (measured) rows.push_back(std::move(row));
  }
  return table(head, rows);
}

std::string shares(const Runs& all, const std::vector<int>& colors, const char* kind, const char* heading,
                   const char* note, const std::function<bool(const ScorePoint&)>& wanted) {
  const Runs runs = of_kind(all, kind, wanted);
  return by_protocol(heading, note, protocols_of(runs, &ReportRun::scores), [&](const std::string& protocol) {
    const std::vector<std::string> measures = tasks_of(runs, protocol);
    std::vector<IntervalGroup> groups;
    std::vector<ChartSeries> named;  // for the legend
    for (const std::string& m : measures) {
      IntervalGroup group{m, {}};
      for (size_t r = 0; r < runs.size(); ++r) {
        for (const ScorePoint& p : runs[r].scores) {
          if (p.protocol != protocol || p.task != m) continue;
          group.rows.push_back({runs[r].name, colors[r], p.value, p.low, p.high});
          if (std::none_of(named.begin(), named.end(), [&](const ChartSeries& s) { return s.run == r; }))
            named.push_back({.name = runs[r].name, .color = colors[r], .run = r});
        }
      }
      groups.push_back(std::move(group));
    }
    const ChartSpec spec{.label = heading, .x_title = "percent, with its 95 % interval"};
    return pair(legend(named, runs, colors) + interval_chart(spec, groups, {.width = 720, .end_labels = true}, "wide") +
                    interval_chart(spec, groups, {.width = 340, .end_labels = false}, "narrow"),
                share_table(runs, colors, protocol, measures));
  });
}

bool is_rouge(const ScorePoint& p) { return p.task.starts_with("rouge") && p.task.size() == 6; }

}  // namespace

std::string ruler_section(const Runs& runs, const std::vector<int>& colors) {
  return by_length(runs, colors, "ruler", "RULER",
                   "The share of each prompt's answers that the generated text holds, by task and by length.");
}

std::string task_section(const Runs& runs, const std::vector<int>& colors) {
  return by_length(runs, colors, "tasks", "Retrieval tasks", "Percent of prompts that are answered rightly.");
}

std::string choice_section(const Runs& runs, const std::vector<int>& colors) {
  return shares(
      runs, colors, "choice", "Multiple choice",
      "The right choice has the highest log-probability (acc), per byte (acc_norm), per character (acc_char), "
      "or less that of the choice without its context (acc_answer). Where intervals overlap much, runs do not "
      "differ.",
      any);
}

std::string summary_section(const Runs& runs, const std::vector<int>& colors) {
  return shares(
      runs, colors, "longbench", "Summaries",
      "ROUGE-1, ROUGE-2 and ROUGE-L of generated summaries: F-measures of words, of pairs of words, and of the "
      "longest common subsequence.",
      is_rouge);
}

std::string question_section(const Runs& runs, const std::vector<int>& colors) {
  return shares(runs, colors, "longbench", "Questions on long texts", "The score of generated answers.",
                [](const ScorePoint& p) { return !is_rouge(p); });
}

std::string longppl_section(const Runs& runs, const std::vector<int>& colors) {
  return by_protocol(
      "LongPPL",
      "Perplexity of the key tokens alone: those that the long context makes much more likely than the short one does. "
      "Lower is better. Each model chooses its own key tokens, so the share that it chose stands beside. Bars: 95 % "
      "bootstrap interval over documents.",
      protocols_of(runs, &ReportRun::longppl), [&](const std::string& protocol) {
        const auto series = series_of(runs, colors, &ReportRun::longppl, protocol, [](const LongPplPoint& p) {
          return ChartPoint{static_cast<double>(p.window), p.longppl, p.low, p.high};
        });
        const ChartSpec spec{.label = "LongPPL by window",
                             .x_title = "window, tokens",
                             .y_title = "LongPPL",
                             .log2_x = true,
                             .marks = window_marks(runs)};
        std::vector<Row> rows;
        for (size_t r = 0; r < runs.size(); ++r) {
          for (const LongPplPoint& p : runs[r].longppl) {
            if (p.protocol != protocol) continue;
            std::string value = table_number(p.longppl);
            if (p.low < p.high)
              value += cat(" ", tag("span", cat(table_number(p.low), " – ", table_number(p.high)), "range"));
            rows.push_back({chip(runs[r], colors[r]), short_tokens(static_cast<double>(p.window)), value,
                            table_number(100 * p.key_share), table_number(p.ppl)});
          }
        }
        return pair(charts(spec, series, runs, colors),
                    table({"run", "window", "LongPPL, 95 % interval", "key tokens, %", "all tokens, ppl"}, rows));
      });
}

}  // namespace rw::report
