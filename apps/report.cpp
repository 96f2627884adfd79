// ropewalk report: run folders and evaluations to one page.
#include "eval/report.h"

#include <cstdio>
#include <memory>

#include "tensor/error.h"
#include "tensor/printable.h"
#include "verbs.h"

using namespace rw;

namespace {

struct Options {
  std::vector<std::string> runs, names;
  std::string out = "report.html";
  ReportOptions report;
};

void run(const Options& o) {
  std::vector<ReportRun> runs = load_runs(o.runs);
  check(o.names.empty() || o.names.size() == runs.size(), "report", "--names gives ", o.names.size(), " names for ",
        runs.size(), " runs");
  for (size_t i = 0; i < o.names.size(); ++i) runs[i].name = o.names[i];
  write_report(o.out, runs, o.report);
  for (const ReportRun& r : runs) {
    for (const std::string& notice : r.notices) std::fprintf(stderr, "%s: %s\n", r.name.c_str(), notice.c_str());
  }
  std::printf("%s\n", printable(o.out).c_str());
}

}  // namespace

void add_report(CLI::App& app, Globals&) {
  auto options = std::make_shared<Options>();
  auto& o = *options;
  CLI::App* sub = app.add_subcommand("report", "Compare runs on one HTML page, with CSV and JSON lines beside it");
  sub->footer(
      "A run folder holds metrics.jsonl, config.json and recipe.toml as `train` leaves them, and eval-*.json as `eval\n"
      "--json` writes them. An evaluation that stands elsewhere may be named, too: it goes to the run that it "
      "measured.\n\n"
      "  ropewalk report base long --out report.html\n"
      "  ropewalk report base long results/base-ppl.json results/long-ppl.json");
  sub->add_option("runs", o.runs, "run folders, and files of `eval --json`")->required();
  sub->add_option("--out", o.out, "the page; .csv and .jsonl go beside it")->capture_default_str();
  sub->add_option("--names", o.names, "names to show instead of the folders'")->delimiter(',');
  sub->add_option("--title", o.report.title, "headline")->capture_default_str();
  sub->add_option("--subtitle", o.report.subtitle, "one line below the headline");
  sub->callback([options] { run(*options); });
}
