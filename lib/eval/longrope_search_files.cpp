// LongRoPE's search as a file that it goes on from, and as a page.
#include <algorithm>
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
  return {{"origin", c.origin}, {"loss", c.loss}, {"attention", c.attention}, {"factors", c.factors}};
}

LongRopeCandidate candidate_of(const Json& json) {
  return {.factors = json.at("factors").get<std::vector<double>>(),
          .attention = json.at("attention").get<double>(),
          .loss = json.at("loss").get<double>(),
          .origin = json.at("origin").get<std::string>()};
}

std::string escaped(const std::string& text) {
  std::string out;
  for (const char c : text) out += c == '<' ? "&lt;" : c == '&' ? "&amp;" : std::string(1, c);
  return out;
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
          {"seed", o.seed}};
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
    const Json stated = json["settings"].value(key, Json());
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

std::string longrope_search_page(const LongRopeSearch& search, const std::string& title,
                                 const std::vector<std::string>& lines) {
  std::vector<ChartSeries> losses = {{.name = "best", .color = 0}, {.name = "median", .color = 1, .dashed = true}};
  for (size_t g = 0; g < search.best_losses().size(); ++g) {
    losses[0].points.push_back({static_cast<double>(g), search.best_losses()[g]});
    losses[1].points.push_back({static_cast<double>(g), search.median_losses()[g]});
  }
  std::vector<ChartSeries> divisors;
  const auto add = [&](const std::string& name, int color, const LongRopeCandidate& c) {
    ChartSeries s{.name = name, .color = color, .dashed = color > 0, .markers = false};
    for (size_t i = 0; i < c.factors.size(); ++i) s.points.push_back({static_cast<double>(i), c.factors[i]});
    divisors.push_back(std::move(s));
  };
  add("found", 0, search.best());
  int color = 1;
  for (const LongRopeCandidate& c : search.known()) add(c.origin, color++, c);
  for (const LongRopeCandidate& c : search.known()) {
    ChartSeries s{.name = c.origin, .color = static_cast<int>(losses.size()), .dashed = true, .markers = false};
    s.points = {{0, c.loss}, {static_cast<double>(std::max<size_t>(1, search.best_losses().size() - 1)), c.loss}};
    losses.push_back(std::move(s));
  }
  std::string body = cat("<h1>", escaped(title), "</h1>\n");
  for (const std::string& line : lines) body += cat("<p>", escaped(line), "</p>\n");
  body += "<h2>Loss by generation</h2>\n" +
          line_chart({.label = "Loss by generation", .x_title = "generation", .y_title = "nats per token"}, losses, {},
                     "chart");
  body +=
      "<h2>Divisors</h2>\n<p>What each pair's frequency is divided by beyond the window of pre-training.</p>\n" +
      line_chart(
          {.label = "Divisors of the pairs", .x_title = "pair i (fast to slow)", .y_title = "divisor", .log_y = true},
          divisors, {}, "chart");
  body += cat("<h2>Recipe</h2>\n<pre>", escaped(rope_scaling_to_json(search.recipe(search.best()))), "</pre>\n");
  return cat("<!doctype html>\n<html lang=\"en\">\n<head>\n<meta charset=\"utf-8\">\n<title>", escaped(title),
             "</title>\n<style>", report_style(), "</style>\n</head>\n<body>\n<main>\n", body,
             "</main>\n</body>\n</html>\n");
}

}  // namespace rw
