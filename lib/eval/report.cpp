// The page of a report: its head, the outcome in a sentence, the sections in their order, and writing it.
#include "eval/report.h"

#include <filesystem>
#include <map>
#include <set>

#include "eval/report_style.h"
#include "eval/report_table.h"
#include "tensor/error.h"
#include "tensor/file.h"

namespace rw {
namespace {

using namespace report;

constexpr const char* kOp = "report";
constexpr const char* kBrand = "Ropewalk report";
constexpr size_t kMostRuns = 256;

/// Colour of each run: grey for the first baseline, then the others in order. More baselines have colours, or a reader
/// could not tell them apart.
std::vector<int> colors_of(const Runs& runs) {
  std::vector<int> colors;
  int next = 0;
  bool grey = false;
  for (const ReportRun& run : runs) {
    colors.push_back(run.baseline && !grey ? -1 : next++ % 16);
    grey = grey || run.baseline;
  }
  return colors;
}

/// Runs of one name are told apart by a number.
Runs with_distinct_names(Runs runs) {
  std::set<std::string> taken;
  for (ReportRun& run : runs) {
    const std::string name = run.name;
    for (int n = 2; !taken.insert(run.name).second; ++n) run.name = cat(name, " (", n, ")");
  }
  return runs;
}

/// The window that says most among the runs measured by `protocol`: the target if every one was measured there, else
/// the longest that all have.
int64_t telling_window(const Runs& runs, const std::string& protocol) {
  std::map<int64_t, size_t> seen;
  size_t evaluated = 0;
  int64_t target = 0, longest = 0;
  for (const ReportRun& run : runs) {
    bool any = false;
    for (const PplPoint& p : run.ppl) {
      if (p.protocol != protocol) continue;
      any = true;
      ++seen[p.window];
    }
    evaluated += any;
    if (any) target = std::max(target, run.target_window);
  }
  for (const auto& [window, n] : seen) {
    if (n == evaluated) longest = window;
    if (n == evaluated && window == target) return window;
  }
  return longest;
}

/// The outcome in a sentence, for the runs that were measured in the same way.
std::string verdict(const Runs& runs) {
  const std::vector<std::string> protocols = protocols_of(runs, &ReportRun::ppl);
  if (protocols.empty()) return "";
  const int64_t window = telling_window(runs, protocols[0]);
  if (window == 0) return "";
  int64_t trained = 0;
  std::string list;
  for (const ReportRun& run : runs) {
    for (const PplPoint& p : run.ppl) {
      if (p.window != window || p.protocol != protocols[0]) continue;
      trained = std::max(trained, run.trained_window);
      list += cat(list.empty() ? "" : ", ", escape_html(run.name), " ", tag("strong", table_number(p.ppl)));
    }
  }
  std::string text = cat("Perplexity at a window of ", short_tokens(static_cast<double>(window)), " tokens");
  if (trained > 0 && window > trained) {
    text += cat(", ", short_number(static_cast<double>(window) / static_cast<double>(trained)), " times the trained ",
                trained);
  }
  if (protocols.size() > 1) text += ", for the runs measured in the same way";
  return tag("p", text + ": " + list + ".", "verdict");
}

std::string text_sections(const ReportOptions& options) {
  std::string out;
  for (const auto& [heading, text] : options.texts) {
    out += cat("<section>\n", tag("h2", escape_html(heading)), "\n", tag("pre", escape_html(text)), "</section>\n");
  }
  return out;
}

/// Errors: there is something at `path` that does not begin as a part of a report does.
void check_ours(const std::string& path, const std::string& begin, size_t within) {
  std::error_code error;
  const auto status = std::filesystem::symlink_status(path, error);
  if (status.type() == std::filesystem::file_type::not_found) return;
  check(status.type() == std::filesystem::file_type::regular, kOp, "'", path,
        "' is not a regular file and is not replaced: choose another --out");
  const std::string text = read_file(path);
  check(text.empty() || text.substr(0, within).find(begin) != std::string::npos, kOp, "'", path,
        "' is there already and is not part of a report, so it is not replaced: choose another --out");
}

}  // namespace

std::string report_html(const std::vector<ReportRun>& given, const ReportOptions& options) {
  check(!given.empty(), kOp, "needs at least one run");
  check(given.size() <= kMostRuns, kOp, "at most ", kMostRuns, " runs fit on a page, got ", given.size());
  const Runs runs = with_distinct_names(given);
  const std::vector<int> colors = colors_of(runs);
  std::string out =
      cat("<!DOCTYPE html>\n<html lang=\"en\">\n<head>\n<meta charset=\"utf-8\"/>\n<meta name=\"generator\" content=\"",
          kBrand,
          "\"/>\n<meta name=\"viewport\" content=\"width=device-width, initial-scale=1\"/>\n"
          "<link rel=\"icon\" href=\"data:,\"/>\n");  // or the browser asks a server for one
  out += tag("title", escape_html(options.title)) + "\n" + tag("style", report_style()) + "\n</head>\n<body>\n";
  out += cat("<header><div class=\"in\">", tag("div", kBrand, "brand"), tag("h1", escape_html(options.title)));
  if (!options.subtitle.empty()) out += tag("p", escape_html(options.subtitle), "lead");
  out += cat("</div>", report_rope(), "</header>\n<main>\n", verdict(runs));
  for (const auto& make :
       {runs_section, ppl_section, loss_section, validation_section, bins_section, lastk_section, longppl_section,
        passkey_section, needle_section, ruler_section, task_section, choice_section, summary_section, question_section,
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
  check(base.extension() == ".html" || base.extension() == ".htm", kOp, "the page's name must end in .html, got '",
        path, "'");
  const std::string csv = std::filesystem::path(base).replace_extension(".csv").string(),
                    jsonl = std::filesystem::path(base).replace_extension(".jsonl").string();
  const std::string columns = "run,section,by,x,what,value", first_field = "{\"run\":";
  check_ours(path, kBrand, 1 << 16);
  check_ours(csv, columns, columns.size());
  check_ours(jsonl, first_field, first_field.size());
  const std::vector<Record> records = report_records(runs);
  const std::string html = report_html(runs, options);
  write_file_atomic(csv, to_csv(records));
  write_file_atomic(jsonl, to_jsonl(records));
  write_file_atomic(path, html);
}

}  // namespace rw
