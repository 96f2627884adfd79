// ropewalk report: run folders to one page.
#include "eval/report.h"

#include <cstdio>
#include <memory>

#include "tensor/error.h"
#include "verbs.h"

using namespace rw;

namespace {

struct Options {
  std::vector<std::string> runs, names;
  std::string out = "report.html";
  ReportOptions report;
};

void run(const Options& o) {
  check(o.names.empty() || o.names.size() == o.runs.size(), "report", "--names gives ", o.names.size(), " names for ",
        o.runs.size(), " runs");
  std::vector<ReportRun> runs;
  for (size_t i = 0; i < o.runs.size(); ++i) {
    runs.push_back(load_run(o.runs[i]));
    if (!o.names.empty()) runs.back().name = o.names[i];
  }
  write_report(o.out, runs, o.report);
  std::printf("%s\n", o.out.c_str());
}

}  // namespace

void add_report(CLI::App& app, Globals&) {
  auto options = std::make_shared<Options>();
  auto& o = *options;
  CLI::App* sub = app.add_subcommand("report", "Compare runs on one HTML page, with CSV and JSON lines beside it");
  sub->add_option("runs", o.runs,
                  "run folders: metrics.jsonl, config.json and recipe.toml as `train` leaves them, and eval-*.json as "
                  "`eval --json` writes them")
      ->required();
  sub->add_option("--out", o.out, "the page")->capture_default_str();
  sub->add_option("--names", o.names, "names to show instead of the folders'")->delimiter(',');
  sub->add_option("--title", o.report.title, "headline")->capture_default_str();
  sub->add_option("--subtitle", o.report.subtitle, "one line below the headline");
  sub->callback([options] { run(*options); });
}
