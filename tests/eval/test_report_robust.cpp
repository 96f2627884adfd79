// Reports of files that anyone may have written, of runs that were measured in
// different ways, and over files that are not ours.
#include <doctest/doctest.h>

#include <filesystem>
#include <fstream>

#include "eval/report.h"
#include "eval/report_chart.h"
#include "support.h"
#include "tensor/file.h"

using namespace rw;
namespace fs = std::filesystem;

namespace {

/// A run folder with these files.
class Run {
 public:
  explicit Run(const std::vector<std::pair<std::string, std::string>>& files) {
    for (const auto& [name, text] : files) write_file_atomic(dir_.path(name), text);
  }
  std::string path(const std::string& name = "") const { return dir_.path(name); }
  /// The page, or the error.
  std::string page() const {
    try {
      return report_html({load_run(path())});
    } catch (const Error& e) {
      return e.what();
    }
  }

 private:
  test::TempDir dir_;
};

size_t count(const std::string& text, const std::string& part) {
  size_t n = 0;
  for (size_t at = text.find(part); at != std::string::npos; at = text.find(part, at + 1)) ++n;
  return n;
}

const std::string kStep = "{\"step\":0,\"loss\":1}\n";

}  // namespace

TEST_CASE(
    "A report refuses numbers out of range by file and name, and draws extreme ones without end of time or memory") {
  const auto error = [](const std::string& name, const std::string& text) {
    return Run({{"steps.txt", ""}, {name, text}, {name == "metrics.jsonl" ? "x.txt" : "metrics.jsonl", kStep}}).page();
  };
  CHECK(error("eval-a.json", R"({"kind":"ppl","totals":[{"ppl":5}]})").find("\"window\" of a total") !=
        std::string::npos);
  CHECK(error("eval-a.json", R"({"kind":"ppl","totals":[{"window":1e300,"ppl":5}]})").find("eval-a.json") !=
        std::string::npos);
  CHECK(error("eval-a.json", R"({"kind":"needle","totals":[{"length":8,"depth":7,"accuracy":1}]})").find("\"depth\"") !=
        std::string::npos);
  CHECK(error("eval-a.json", R"({"kind":"passkey","totals":[{"distance":8,"accuracy":1e99}]})").find("\"accuracy\"") !=
        std::string::npos);
  CHECK(error("metrics.jsonl", R"({"step":1e18,"loss":1})").find("\"step\" must be from 0") != std::string::npos);
  CHECK(error("metrics.jsonl", R"({"step":-1,"loss":1})").find("\"step\" must be from 0") != std::string::npos);
  CHECK(error("frequencies.json", R"({"inv_freq":["a"]})").find("positive numbers") != std::string::npos);
  CHECK(error("recipe.toml", "target = \"999999999999999999999999999999\"").find("target must be at most") !=
        std::string::npos);
  CHECK(error("recipe.toml", "method=\"clex\"\nwindow=\"32\"\ntarget=\"64\"\nmax_factor=\"999999999999999999\"\n")
            .find("max_factor must be at") != std::string::npos);
  CHECK(error("cost.json", R"({"tokens":1e300})").find("\"tokens\" must be from 0") != std::string::npos);
  for (const char* ppl : {"1.7e308", "5e-324", "-1.7e308", "0", "null"}) {
    CAPTURE(ppl);
    const std::string page = error("eval-a.json", std::string(R"({"kind":"ppl","totals":[{"window":2,"ppl":)") + ppl +
                                                      R"(},{"window":4,"ppl":10}]})");
    CHECK(page.find("</html>") != std::string::npos);
    CHECK(page.size() < 100000);
    CHECK(page.find("nan") == std::string::npos);
  }
  const std::string far =
      error("metrics.jsonl", "{\"step\":1000000000000,\"loss\":1}\n{\"step\":1000000000001,\"loss\":2}\n");
  CHECK(far.find("</html>") != std::string::npos);
}

TEST_CASE("Axes end whatever their numbers are") {
  for (const double low : {-1e15, -1.0, 0.0, 1e-300, 1.0, 1e14, 1e300}) {
    for (const double step : {0.0, 1e-300, 1e-12, 1.0, 1e14, 1e308}) {
      for (const bool logarithmic : {false, true}) {
        const ChartSpec spec{.log2_x = logarithmic, .log_y = logarithmic};
        const std::string svg = line_chart(spec, {{.name = "a", .points = {{low, low}, {low + step, low + step}}}},
                                           {.width = 300, .height = 200}, "x");
        CHECK(svg.size() < 100000);
        CHECK(svg.find("nan") == std::string::npos);
      }
    }
  }
}

TEST_CASE("Runs measured by different protocols or texts stand in tables of their own, with a warning") {
  const std::string sliding = R"("mode":"sliding","weighting":"token","bos":true)",
                    text = R"("text":"900 tokens in 3 documents, fnv1a 00000000000000aa")",
                    other = R"("text":"900 tokens in 3 documents, fnv1a 00000000000000bb")";
  const auto measured = [&](const std::string& name, const std::string& protocol, double ppl) {
    ReportRun run;
    run.name = name;
    add_eval_result(run, eval_result_from_json(R"({"kind":"ppl","protocol":{)" + protocol +
                                                   R"(},"totals":[{"window":64,"stride":32,"documents":3,"ppl":)" +
                                                   std::to_string(ppl) + "}]}",
                                               "x"));
    return run;
  };
  const auto a = measured("a", sliding + "," + text, 10), b = measured("b", sliding + "," + text, 9),
             c = measured("c", sliding + "," + other, 2);
  const std::string same = report_html({a, b}), mixed = report_html({a, b, c});
  CHECK(same.find("do not compare") == std::string::npos);
  CHECK(same.find("Measured by: sliding windows, stride 1/2 of the window, 3 documents of text 00000000000000aa") !=
        std::string::npos);
  CHECK(count(same, "class=\"best\"") == 1);
  CHECK(mixed.find("measured in 2 different ways") != std::string::npos);
  CHECK(count(mixed, "class=\"best\"") == 1);  // among a and b; c has no equal
  CHECK(mixed.find("<span class=\"best\">9.00</span>") != std::string::npos);
  CHECK(mixed.find("for the runs measured in the same way: a <strong>10.0</strong>, b <strong>9.00</strong>.") !=
        std::string::npos);
}

TEST_CASE("Scores of tasks and of multiple choice have a table, the best among equals stands out") {
  ReportRun a, b;
  a.name = "a", b.name = "b";
  const auto add = [](ReportRun& run, const std::string& acc) {
    add_eval_result(run, eval_result_from_json(R"({"kind":"choice","protocol":{"file":"arc.jsonl","shots":2},"totals":[
        {"items":50,"acc":)" + acc + R"(,"acc_norm":0.5}]})",
                                               "x"));
  };
  add(a, "0.25");
  add(b, "0.5");
  const std::string html = report_html({a, b});
  CHECK(html.find("<h2>Multiple choice</h2>") != std::string::npos);
  CHECK(html.find("Measured by: multiple choice, arc.jsonl, 2 solved examples, 50 items.") != std::string::npos);
  CHECK(html.find("<th>acc_norm</th>") != std::string::npos);
  CHECK(count(html, "class=\"best\"") == 1);
}

TEST_CASE("Nothing is best where all are equal, or where nothing was found") {
  ReportRun a, b;
  a.name = "a", b.name = "b";
  a.passkey = {{64, 0, 8}, {128, 0.5, 8}, {256, 0.5, 8}};
  b.passkey = {{64, 0, 8}, {128, 0, 8}, {256, 0.5, 8}};
  const std::string html = report_html({a, b});
  CHECK(count(html, "class=\"best\"") == 1);
}

TEST_CASE("A stale evaluation, a run without a model and a lost loss are said on the page") {
  const std::string config =
      R"({"model_type":"llama","head_dim":8,"rope_theta":100.0,"max_position_embeddings":64,"hidden_size":16,
          "num_attention_heads":2,"num_hidden_layers":3,"vocab_size":260})";
  const std::string eval = R"({"kind":"ppl","protocol":{"weights":"0000000000000000"},
                               "totals":[{"window":64,"stride":8,"ppl":9}]})";
  const Run stale({{"config.json", config}, {"model.safetensors", "not these"}, {"eval-ppl.json", eval}});
  const ReportRun run = load_run(stale.path());
  CHECK(run.ppl.empty());
  REQUIRE(run.notices.size() == 1);
  CHECK(run.notices[0].find("eval-ppl.json was measured on other weights") != std::string::npos);
  CHECK(run.facts.architecture == "llama, 3 layers of 16, 2 heads");
  CHECK(run.facts.tokenizer == "260 tokens");
  const std::string page = report_html({run});
  CHECK(page.find("other weights") != std::string::npos);
  CHECK(page.find("<h2>Runs") != std::string::npos);
  const Run weightless({{"config.json", config}, {"eval-ppl.json", eval}});  // its weights were dropped
  CHECK(load_run(weightless.path()).ppl.size() == 1);
  const Run stopped({{"metrics.jsonl", kStep + "{\"step\":1,\"loss\":null}\n"}, {"recipe.toml", "steps = \"9\"\n"}});
  const std::string other = report_html({load_run(stopped.path())});
  CHECK(other.find("stopped after step 2 of 9, no model") != std::string::npos);
  CHECK(other.find("not a number at step 1") != std::string::npos);
  const Run failed({{"metrics.jsonl", kStep},
                    {"recipe.toml", "steps = 9\nmethod = \"pose\"\ntarget = 256\n"},
                    {"run.json", R"({"identity": {"original_window": "64", "target": "256"}})"}});
  CHECK(load_run(failed.path()).trained_window == 64);
  CHECK(report_html({load_run(failed.path())}).find("64 → 256") != std::string::npos);
}

TEST_CASE("A curve of losses has no gaps: what is above the picture comes in from its edge") {
  ReportRun run;
  run.name = "noisy";
  for (int64_t step = 0; step < 36; ++step) run.loss.push_back({step, step < 2 ? 9.0 : step % 5 == 0 ? 3.0 : 2.0});
  const std::string html = report_html({run});
  const size_t at = html.find(" d=\"", html.find("class=\"line"));
  REQUIRE(at != std::string::npos);
  const std::string path = html.substr(at + 4, html.find('"', at + 4) - at - 4);
  CHECK(count(path, "M") == 1);
  CHECK(count(path, "L") == 34);  // from the edge to the 34 steps below it
}

TEST_CASE("An evaluation that was written anywhere is found when it is named") {
  const Run base({{"metrics.jsonl", kStep}}), results({});
  const std::string eval =
      R"({"kind":"ppl","protocol":{"model":")" + base.path() + R"("},"totals":[{"window":64,"stride":8,"ppl":9}]})";
  write_file_atomic(results.path("anything.json"), eval);
  const auto runs = load_runs({base.path(), results.path("anything.json")});
  REQUIRE(runs.size() == 1);
  CHECK(runs[0].ppl.size() == 1);
  const auto alone = load_runs({results.path("anything.json")});
  REQUIRE(alone.size() == 1);
  CHECK(alone[0].ppl.size() == 1);
  CHECK(test::error_of([&] { load_runs({results.path("none")}); }).find("is not a folder") != std::string::npos);
}

TEST_CASE("A report replaces nothing but a report") {
  const test::TempDir dir;
  ReportRun run;
  run.name = "a";
  run.ppl = {{64, 9, 8, 10}};
  write_file_atomic(dir.path("metrics.jsonl"), kStep);
  CHECK(test::error_of([&] { write_report(dir.path("metrics.html"), {run}); }).find("not part of a report") !=
        std::string::npos);
  CHECK(read_file(dir.path("metrics.jsonl")) == kStep);
  CHECK_FALSE(fs::exists(dir.path("metrics.html")));
  write_file_atomic(dir.path("mine.html"), "<html>mine</html>");
  CHECK_FALSE(test::error_of([&] { write_report(dir.path("mine.html"), {run}); }).empty());
  CHECK(read_file(dir.path("mine.html")) == "<html>mine</html>");
  CHECK(test::error_of([&] { write_report(dir.path("page.jsonl"), {run}); }).find("must end in .html") !=
        std::string::npos);
  write_report(dir.path("r.html"), {run});
  run.name = "b";
  write_report(dir.path("r.html"), {run});
  CHECK(read_file(dir.path("r.html")).find("\"></span>&#8288;b<") != std::string::npos);
  fs::create_symlink(dir.path("metrics.jsonl"), dir.path("l.html"));
  CHECK_FALSE(test::error_of([&] { write_report(dir.path("l.html"), {run}); }).empty());
  CHECK(fs::is_symlink(dir.path("l.html")));
}

TEST_CASE("Names that are not UTF-8 or hold markup and control characters are harmless on the page") {
  CHECK(escape_html("a\xff<b>\x01&\"é") == "a?&lt;b&gt; &amp;&quot;é");
}

TEST_CASE("An object of an evaluation with thousands of fields is refused and takes no time") {
  std::string text = R"({"kind":"ppl","totals":[{)";
  for (int i = 0; i < 20000; ++i) text += (i ? ",\"k" : "\"k") + std::to_string(i) + "\":1";
  CHECK(test::error_of([&] { eval_result_from_json(text + "}]}", "e"); }).find("more than 256 fields") !=
        std::string::npos);
  const EvalResult big = eval_result_from_json(R"({"kind":"x","totals":[{"n":18446744073709551615,"m":1e300}]})", "e");
  CHECK(big.totals[0].integer("n", 7) == 7);
  CHECK(big.totals[0].integer("m", 7) == 7);
}

TEST_CASE("Values that are shown alike are marked alike, and none is best where all are shown alike") {
  ReportRun a, b, c;
  a.name = "a", b.name = "b", c.name = "c";
  a.ppl = {{64, 119.2, 0, 0}, {128, 121.4, 0, 0}};
  b.ppl = {{64, 119.3, 0, 0}, {128, 121.1, 0, 0}};
  c.ppl = {{64, 125.0, 0, 0}, {128, 120.9, 0, 0}};
  const std::string html = report_html({a, b, c});
  CHECK(count(html, "<span class=\"best\">119</span>") == 2);
  CHECK(count(html, "class=\"best\"") == 2);
}

TEST_CASE("An axis never has two ticks that read the same, nor one tick alone") {
  ReportRun run;
  run.name = "a";
  run.ppl = {{100, 148.2, 0, 0}, {200, 147.4, 0, 0}};
  const std::string html = report_html({run});
  for (const char* tick : {">147.5</text>", ">148.0</text>", ">100</text>", ">200</text>"}) {
    CAPTURE(tick);
    CHECK(count(html, tick) >= 1);
  }
  CHECK(count(html, "class=\"tick\">148</text>") == 0);
}

TEST_CASE("Of several baselines only the first is grey") {
  ReportRun a, b, c;
  a.name = "a", b.name = "b", c.name = "c";
  a.baseline = b.baseline = true;
  for (ReportRun* run : {&a, &b, &c}) run->ppl = {{64, 119.2, 0, 0}, {128, 121.4, 0, 0}};
  const std::string html = report_html({a, b, c});
  const auto lines = [&](const std::string& color) {
    return count(html, "<g class=\"" + color + "\"><path class=\"line");
  };
  CHECK(lines("grey") == 2);  // at a desk and on a phone
  CHECK(lines("c0") == 2);
  CHECK(lines("c1") == 2);
}

TEST_CASE("Intervals of several runs stand beside each other, and one run's stands on its point") {
  const ChartSize size{.width = 720, .height = 380};
  const auto run = [](int color) {
    return ChartSeries{.name = cat("run ", color),
                       .color = color,
                       .points = {{.x = 1, .y = 5, .low = 4, .high = 6}, {.x = 2, .y = 5, .low = 4, .high = 6}}};
  };
  const auto whiskers = [](const std::string& svg) {  // the x of each
    std::vector<std::string> out;
    for (size_t at = svg.find("class=\"whisker\""); at != std::string::npos;
         at = svg.find("class=\"whisker\"", at + 1)) {
      const size_t x = svg.rfind("x1=\"", at) + 4;
      out.push_back(svg.substr(x, svg.find('"', x) - x));
    }
    return out;
  };
  const std::string one = line_chart({}, {run(0)}, size, "wide"),
                    three = line_chart({}, {run(0), run(1), run(2)}, size, "wide");
  REQUIRE(whiskers(one).size() == 2);
  CHECK(one.find("<circle cx=\"" + whiskers(one)[0] + "\"") != std::string::npos);
  const auto beside = whiskers(three);
  REQUIRE(beside.size() == 6);
  CHECK(beside[0] != beside[2]);
  CHECK(beside[2] != beside[4]);
  CHECK(std::stod(beside[0]) >= 52);  // right of the axis
}

TEST_CASE("A run of one step is a dot, and a thread leads from a line that ends early to its name") {
  ReportRun whole, early, failed;
  whole.name = "whole", early.name = "early", failed.name = "failed";
  for (int64_t step = 0; step < 60; ++step) whole.loss.push_back({step, 2.0});
  for (int64_t step = 0; step < 20; ++step) early.loss.push_back({step, 2.1});
  failed.loss = {{0, 2.2}};
  const std::string html = report_html({whole, early, failed});
  CHECK(count(html, "<circle") == 2);         // the wide and the narrow picture
  CHECK(count(html, "class=\"lead\"") == 2);  // early and failed
  CHECK(count(report_html({whole}), "class=\"lead\"") == 0);
}

TEST_CASE("A name never parts from its mark, and settings break at underscores and slashes") {
  const Run run({{"metrics.jsonl", kStep}, {"recipe.toml", "retrieval_share = 0.5\ndata = \"books/a.txt\"\n"}});
  const std::string page = run.page();
  CHECK(page.find("retrieval_<wbr/>share") != std::string::npos);
  CHECK(page.find("books/<wbr/>a.txt") != std::string::npos);
  CHECK(page.find("\"></span>&#8288;") != std::string::npos);
}

TEST_CASE("A run that is still training has a cost in tokens, whatever its window is called in the recipe") {
  const std::string two = kStep + "{\"step\":1,\"loss\":1}\n", rest = "batch = 3\noriginal_window = 64\ntarget = 256\n";
  const Run pose({{"metrics.jsonl", two}, {"recipe.toml", "method = \"pose\"\nwindow = 0\n" + rest}});
  CHECK(load_run(pose.path()).cost.tokens == 2 * 3 * 64);
  const Run pi({{"metrics.jsonl", two}, {"recipe.toml", "method = \"pi\"\nwindow = 0\n" + rest}});
  CHECK(load_run(pi.path()).cost.tokens == 2 * 3 * 256);
}
