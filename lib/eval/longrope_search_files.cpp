// LongRoPE's search as a file that it goes on from, and as a page.
#include <algorithm>
#include <cmath>
#include <cstdio>
#include <nlohmann/json.hpp>

#include "eval/longrope_search.h"
#include "eval/report_chart.h"
#include "eval/report_style.h"
#include "eval/report_table.h"
#include "tensor/error.h"
#include "tensor/json_depth.h"

namespace rw {
namespace {

using Json = nlohmann::ordered_json;
constexpr const char* kOp = "longrope_search";

Json json_of(const LongRopeCandidate& c) {
  Json out = {{"origin", c.origin}, {"loss", c.loss}, {"attention", c.attention}, {"factors", c.factors}};
  if (c.start > 0) out["start"] = c.start;
  return out;
}

LongRopeCandidate candidate_of(const Json& json) {
  return {.factors = json.at("factors").get<std::vector<double>>(),
          .attention = json.at("attention").get<double>(),
          .loss = json.at("loss").get<double>(),
          .origin = json.at("origin").get<std::string>(),
          .start = json.value("start", int64_t{0})};
}

/// What two searches must have in common for one to go on from the other.
Json settings_of(const RopeConfig& base, int64_t target, const LongRopeSearchOptions& o) {
  return {{"rope_theta", base.rope_theta},
          {"head_dim", base.head_dim},
          {"partial_rotary_factor", base.partial_rotary_factor},
          {"original_window", base.original_window()},
          {"target", target},
          {"population", o.population},
          {"parents", o.parents},
          {"mutants", o.mutants},
          {"crosses", o.crosses},
          {"mutation_rate", o.mutation_rate},
          {"seed", o.seed},
          {"start_tokens", o.start_tokens},
          {"judge", o.judge}};
}

}  // namespace

std::string LongRopeSearch::to_json() const {
  Json out = {{"settings", settings_of(base_, target_, options_)}};
  for (const LongRopeCandidate& c : known_) out["known"].push_back(json_of(c));
  out["alive"] = Json::array();
  for (const LongRopeCandidate& c : alive_) out["alive"].push_back(json_of(c));
  out["best_losses"] = best_losses_;
  out["median_losses"] = median_losses_;
  return out.dump(1) + "\n";
}

void LongRopeSearch::from_json(const std::string& text, const std::string& name) {
  check_json_depth(text, kOp, name);
  const Json json = Json::parse(text, nullptr, /*allow_exceptions=*/false);
  check(json.is_object() && json.contains("settings") && json.contains("alive"), kOp, "'", name,
        "' is not the state of a search");
  const Json own = settings_of(base_, target_, options_);
  for (const auto& [key, value] : own.items()) {
    const bool later = key == "start_tokens" || key == "judge";  // older files state neither
    const Json stated = json["settings"].value(key, later ? value : Json());
    check(stated == value, kOp, "'", name, "' was searched with ", key, " ", stated.dump(), ", not ", value.dump(),
          ": name another folder");
  }
  try {
    std::vector<LongRopeCandidate> known, alive;
    for (const Json& c : json.at("known")) known.push_back(candidate_of(c));
    for (const Json& c : json.at("alive")) alive.push_back(candidate_of(c));
    const auto fits = [&](const LongRopeCandidate& c) { return c.factors.size() == known_[0].factors.size(); };
    check(known.size() == known_.size() && std::all_of(known.begin(), known.end(), fits) &&
              std::all_of(alive.begin(), alive.end(), fits),
          kOp, "'", name, "' holds candidates of another head");
    best_losses_ = json.at("best_losses").get<std::vector<double>>();
    median_losses_ = json.at("median_losses").get<std::vector<double>>();
    check(best_losses_.size() == median_losses_.size() && (best_losses_.empty() == alive.empty()), kOp, "'", name,
          "' is not whole");
    known_ = std::move(known);
    alive_ = std::move(alive);
  } catch (const Json::exception&) {
    fail(kOp, "'", name, "' is not the state of a search");
  }
}

namespace {

/// Series with their names in a legend for a phone, as a wide and a narrow picture.
std::string two_charts(const ChartSpec& spec, std::vector<ChartSeries> series) {
  report::Runs runs;
  std::vector<int> colors;
  for (ChartSeries& s : series) {
    s.run = runs.size();
    ReportRun run;
    run.name = s.name;
    runs.push_back(std::move(run));
    colors.push_back(s.color);
  }
  return report::charts(spec, series, runs, colors);
}

std::string loss_chart(const LongRopeSearch& search) {
  std::vector<ChartSeries> out = {{.name = "best", .color = 0, .markers = false},
                                  {.name = "median", .color = 0, .dashed = true, .markers = false}};
  for (size_t g = 0; g < search.best_losses().size(); ++g) {
    out[0].points.push_back({static_cast<double>(g), search.best_losses()[g]});
    out[1].points.push_back({static_cast<double>(g), search.median_losses()[g]});
  }
  const double last = static_cast<double>(std::max<size_t>(1, search.best_losses().size() - 1));
  double limit = 0;  // a start that is far off would flatten the search
  int color = 1;
  for (const LongRopeCandidate& c : search.known()) {
    out.push_back({.name = c.origin,
                   .color = color++,
                   .dashed = true,
                   .markers = false,
                   .points = {{0, c.loss}, {last, c.loss}}});
    limit = limit == 0 ? c.loss : std::min(limit, c.loss);
  }
  limit = std::max(limit, search.median_losses().front());
  const double least = search.best_losses().back();
  return two_charts({.label = "Loss by generation",
                     .x_title = "generation",
                     .y_title = "nats per token",
                     .y_limit = limit + 0.25 * (limit - least)},
                    out);
}

std::string divisor_chart(const LongRopeSearch& search) {
  std::vector<ChartSeries> out;
  const auto add = [&](const std::string& name, int color, const LongRopeCandidate& c) {
    ChartSeries s{.name = name, .color = color, .dashed = color > 0, .markers = false};
    for (size_t i = 0; i < c.factors.size(); ++i) s.points.push_back({static_cast<double>(i), c.factors[i]});
    out.push_back(std::move(s));
  };
  add("found", 0, search.best());
  int color = 1;
  for (const LongRopeCandidate& c : search.known()) add(c.origin, color++, c);
  return two_charts({.label = "Divisors of the pairs",
                     .x_title = "pair i (fast to slow)",
                     .y_title = "divisor, log scale",
                     .log_y = true},
                    out);
}

std::string candidate_table(const LongRopeSearch& search) {
  std::vector<report::Row> rows;
  const auto add = [&](const std::string& name, int color, const LongRopeCandidate& c) {
    ReportRun run;
    run.name = name;
    char attention[32];
    std::snprintf(attention, sizeof attention, "%.3f", c.attention);
    rows.push_back({report::chip(run, color), table_number(c.loss), table_number(std::exp(c.loss)), attention,
                    cat(c.start), table_number(c.factors[c.factors.size() / 2]), table_number(c.factors.back())});
  };
  add("found", 0, search.best());
  int color = 1;
  for (const LongRopeCandidate& c : search.known()) add(c.origin, color++, c);
  return report::table({"candidate", "loss", "exp(loss)", "A", "first tokens kept", "middle divisor", "last divisor"},
                       rows);
}

}  // namespace

std::string longrope_search_page(const LongRopeSearch& search, const std::string& title,
                                 const std::vector<std::string>& lines) {
  std::string results;
  for (const std::string& line : lines) results += (results.empty() ? "" : "\n") + line;
  std::string body = report::section("Loss by generation",
                                     "What the search's judge gives its best candidate and the median of those that "
                                     "live on, beside those that it began with.",
                                     report::pair(loss_chart(search), candidate_table(search)));
  body += report::section("Divisors", "What each pair's frequency is divided by beyond the window of pre-training.",
                          divisor_chart(search));
  if (!results.empty())
    body +=
        report::section("Results", "Means over the same windows of text.", report::tag("pre", escape_html(results)));
  body += report::section("Recipe", "The rope_scaling object for config.json.",
                          report::tag("pre", escape_html(rope_scaling_to_json(search.recipe(search.best())))));
  return cat(
      "<!DOCTYPE html>\n<html lang=\"en\">\n<head>\n<meta charset=\"utf-8\"/>\n"
      "<meta name=\"viewport\" content=\"width=device-width, initial-scale=1\"/>\n<link rel=\"icon\" "
      "href=\"data:,\"/>\n",
      report::tag("title", escape_html(title)), "\n", report::tag("style", report_style()),
      "\n</head>\n<body>\n<header><div class=\"in\">", report::tag("div", "Ropewalk search", "brand"),
      report::tag("h1", escape_html(title)), "</div>", report_rope(), "</header>\n<main>\n", body,
      "</main>\n<footer>Made by Ropewalk.</footer>\n</body>\n</html>\n");
}

}  // namespace rw
