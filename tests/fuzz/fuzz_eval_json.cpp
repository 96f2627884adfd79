// The JSON of an evaluation, its tables, and its place in a report. What is read must be written and read back the same.
#include <cstdio>
#include <cstdlib>

#include "eval/report.h"
#include "fuzz.h"

void fuzz_one(std::string_view input) {
  const rw::EvalResult result = rw::eval_result_from_json(std::string(input), "eval.json");
  const std::string json = rw::to_json(result);
  if (rw::to_json(rw::eval_result_from_json(json, "again")) != json) {
    std::fprintf(stderr, "fuzz: the evaluation does not read back\n");
    std::abort();
  }
  rw::to_csv(result.rows);
  rw::to_jsonl(result.totals);
  rw::to_text_table(result.totals);
  rw::ReportRun run;
  run.name = "run";
  rw::add_eval_result(run, result);
  rw::report_html({run}, {});
}

std::vector<std::string> fuzz_seeds() {
  return {
      R"({"kind":"ppl","protocol":{"windows":"16","stride":8},"rows":[{"document":"a","window":16,"tokens":50,"nll":3.5}],"totals":[{"window":16,"tokens":50,"nll":3.5,"ppl":33.1,"low":30,"high":36}]})",
      R"({"kind":"needle","protocol":{},"rows":[],"totals":[{"length":128,"depth":0.5,"accuracy":0.75,"trials":4}]})",
      R"({"kind":"passkey","protocol":{},"rows":[{"ok":true}],"totals":[{"distance":128,"accuracy":1,"trials":4}]})",
      R"({"kind":"bins","protocol":{},"rows":[],"totals":[{"begin":0,"end":16,"nll":4},{"begin":16,"end":32,"nll":null}]})",
      R"({"kind":"lastk","protocol":{},"rows":[],"totals":[{"context":16,"nll":4,"low":3,"high":5}]})",
      R"({"kind":"tasks","protocol":{"k":1e308},"rows":[{"task":"a\"b","accuracy":-0.0}],"totals":[]})"};
}
