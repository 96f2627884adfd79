#include <doctest/doctest.h>

#include <algorithm>
#include <cmath>
#include <cstdlib>
#include <filesystem>
#include <set>

#include "eval/perplexity.h"
#include "eval/report.h"
#include "eval/report_chart.h"
#include "support.h"
#include "tensor/file.h"

using namespace rw;

namespace {

/// Numbers of a small real experiment's kind: a base, direct extrapolation, PI and PoSE.
std::vector<ReportRun> sample_runs() {
  const std::vector<int64_t> windows = {256, 512, 1024, 2048, 4096, 8192};
  const std::vector<std::pair<std::string, std::vector<double>>> table = {
      {"base (no extension)", {32.5, 31.9, 378, 379, 480, 478}},
      {"PI, full length", {32.8, 31.9, 31.4, 31.2, 31.1, 403}},
      {"PoSE linear", {32.7, 31.9, 31.6, 31.6, 31.9, 357}},
      {"PoSE YaRN", {34.1, 33.3, 32.8, 32.6, 32.7, 377}},
      {"E2-LLM", {34.4, 33.7, 32.8, 33.1, 35.2, 52.7}},
      {"CLEX", {33.0, 32.6, 34.9, 38.5, 50.4, 133}}};
  std::vector<ReportRun> runs;
  for (const auto& [name, ppl] : table) {
    ReportRun run;
    run.name = name;
    run.baseline = runs.empty();
    const double r = static_cast<double>(runs.size());
    run.trained_window = 512;
    run.target_window = run.baseline ? 512 : 4096;
    run.recipe = {{"method", run.baseline ? "none" : "pose"}, {"lr", "0.0004"}, {"note", "a < b & \"c\""}};
    for (size_t i = 0; i < windows.size(); ++i) run.ppl.push_back({windows[i], ppl[i], ppl[i] * 0.93, ppl[i] * 1.08});
    const int64_t steps = run.baseline ? 4000 : 1000;
    for (int64_t step = 0; step < steps; ++step) {
      const double t = static_cast<double>(step);
      run.loss.push_back(
          {step, (run.baseline ? 3.5 + 5.5 * std::exp(-t / 150) : 3.5 + (0.3 + 0.1 * r) * std::exp(-t / 90)) +
                     0.05 * std::sin(t * (7 + r))});
    }
    for (int64_t b = 0; b < 16; ++b) {
      const double cliff = run.baseline && b >= 4 ? 2.5 : 0.02 * r;
      run.bins.push_back({b * 128, b * 128 + 128, 3.6 + cliff + 0.4 / (static_cast<double>(b) + 1)});
    }
    for (int64_t k : windows) {
      run.passkey.push_back(
          {k, k <= 512 ? 1.0 : std::max(0.0, run.baseline ? 0.0 : 1 - 0.1 * r * std::log2(k / 512.0)), 32});
      run.lastk.push_back({k, 3.6 - 0.03 * std::log2(k / 256.0) + (run.baseline && k > 512 ? 2 : 0), 3.4, 3.7});
    }
    if (r < 3) {
      for (int64_t length : {256, 512, 1024, 2048, 4096}) {
        for (int d = 0; d <= 10; ++d)
          run.needle.push_back({length, d / 10.0, length <= 512 ? 1.0 : std::clamp(r / 2 - d * 0.04, 0.0, 1.0)});
      }
      std::vector<double> p;
      for (int m = 0; m < 256; ++m) p.push_back(m < 90 ? m : m + 700 * r);
      run.positions = {p, p};
      for (double& v : run.positions[1]) v = v > 90 ? v + 200 * r : v;
    }
    for (int i = 0; i < 32; ++i) {
      run.base_inv_freq.push_back(std::pow(10000.0, -i / 32.0));
      run.inv_freq.push_back(run.base_inv_freq.back() / (run.baseline ? 1 : 1 + 7 * std::min(1.0, i * r / 64)));
    }
    run.cost = {40 + 30 * r, steps * 32768, 1.2e6 + 1e5 * r,
                (int64_t{1} << 30) + static_cast<int64_t>(runs.size()) * 300000000};
    runs.push_back(std::move(run));
  }
  return runs;
}

/// Names of elements that are opened but not closed, in order; a closing tag that fits nothing is an error.
std::string unbalanced(const std::string& html) {
  const std::set<std::string> empty = {"meta", "link", "br"};
  std::vector<std::string> open;
  for (size_t at = html.find('<'); at != std::string::npos; at = html.find('<', at + 1)) {
    const size_t end = html.find('>', at);
    if (end == std::string::npos) return "an unclosed <";
    std::string body = html.substr(at + 1, end - at - 1);
    if (body[0] == '!') continue;
    if (body.find('<') != std::string::npos) return "a < inside a tag: " + body;
    if (std::count(body.begin(), body.end(), '"') % 2) return "an odd quote in: " + body;
    const std::string name = body.substr(body[0] == '/', body.find_first_of(" \n/", 1) - (body[0] == '/'));
    if (body[0] == '/') {
      if (open.empty() || open.back() != name)
        return "</" + name + "> closes " + (open.empty() ? "nothing" : open.back());
      open.pop_back();
    } else if (body.back() != '/' && !empty.count(name)) {
      open.push_back(name);
    }
  }
  return open.empty() ? "" : "not closed: " + open.back();
}

size_t count(const std::string& text, const std::string& part) {
  size_t n = 0;
  for (size_t at = text.find(part); at != std::string::npos; at = text.find(part, at + 1)) ++n;
  return n;
}

}  // namespace

TEST_CASE("The report is well-formed and asks nothing of the network") {
  const std::string html = report_html(sample_runs(), {.title = "A & B <compared>", .texts = {{"Sample", "x < y"}}});
  CHECK(unbalanced(html) == "");
  for (const char* word : {"http", "//", "src=", "@import", "url(", "<script"})
    CHECK(html.find(word) == std::string::npos);
  CHECK(html.find("nan") == std::string::npos);
  CHECK(html.find("inf\"") == std::string::npos);
  CHECK(html.find("A &amp; B &lt;compared&gt;") != std::string::npos);
  CHECK(html.find("prefers-color-scheme: dark") != std::string::npos);
  CHECK(html.find("width=device-width") != std::string::npos);
  if (const char* path = std::getenv("ROPEWALK_WRITE_REPORT")) {
    write_report(path, sample_runs(),
                 {.title = "Six ways to a longer window", .subtitle = "A 30 M LLaMA trained on books at 512 tokens"});
  }
}

TEST_CASE("Every section of the report has pictures and tables, and appears only when there are numbers") {
  const std::string html = report_html(sample_runs());
  for (const char* heading : {"Perplexity by window", "Training loss", "Loss by position", "Passkey by distance",
                              "Needle in a haystack", "Frequencies", "Positions in training", "Cost", "Recipes"}) {
    CHECK_MESSAGE(html.find(std::string("<h2>") + heading) != std::string::npos, heading);
  }
  CHECK(count(html, "<table>") >= 12);
  ReportRun bare;
  bare.name = "bare";
  bare.ppl = {{256, 12.5, 12.5, 12.5}};
  const std::string small = report_html({bare});
  CHECK(unbalanced(small) == "");
  CHECK(count(small, "<section>") == 1);
  CHECK(small.find("12.5") != std::string::npos);
  CHECK(test::error_of([] { report_html({}); }) == "[report] needs at least one run");
}

TEST_CASE("Charts survive collapse, infinity and single points") {
  ReportRun run;
  run.name = "odd";
  run.ppl = {{256, 20, 0, 0}, {512, INFINITY, NAN, NAN}, {1024, 1e12, 1e11, 1e13}};
  run.loss = {{0, 5.0}};
  run.bins = {{0, 1, NAN}};
  const std::string html = report_html({run});
  CHECK(unbalanced(html) == "");
  CHECK(html.find("nan,") == std::string::npos);
  CHECK(html.find("∞") != std::string::npos);
  CHECK(html.find("log scale") != std::string::npos);
}

TEST_CASE("The CSV and JSON lines beside the report hold every number") {
  const test::TempDir folder;
  const auto runs = sample_runs();
  write_report(folder.path("r.html"), runs);
  const std::string csv = read_file(folder.path("r.csv")), jsonl = read_file(folder.path("r.jsonl"));
  const size_t records = report_records(runs).size();
  CHECK(count(csv, "\n") == records + 1);
  CHECK(count(jsonl, "\n") == records);
  CHECK(csv.find("PoSE YaRN,ppl,window,4096,perplexity,32.7,30.411,35.316") != std::string::npos);
  CHECK(csv.find("\"PI, full length\"") != std::string::npos);
}

TEST_CASE("A run folder is read as train and eval leave it") {
  const test::TempDir folder;
  std::filesystem::create_directories(folder.path("pose"));
  const auto write = [&](const std::string& name, const std::string& text) {
    write_file_atomic(folder.path("pose/" + name), text);
  };
  CHECK(test::error_of([&] { load_run(folder.path("pose")); }).find("holds nothing to report") != std::string::npos);
  write("metrics.jsonl",
        "{\"step\":0,\"loss\":5.5,\"lr\":0.001,\"grad_norm\":1,\"tokens_per_s\":1000,\"time_s\":2}\n"
        "{\"step\":1,\"loss\":5.0,\"lr\":0.001,\"grad_norm\":1,\"tokens_per_s\":3000,\"time_s\":4}\n{\"step\":2,\"lo");
  write("config.json",
        R"({"head_dim": 8, "rope_theta": 100.0, "max_position_embeddings": 256, "hidden_size": 16,
            "num_attention_heads": 2, "rope_scaling": {"rope_type": "linear", "factor": 4.0,
             "original_max_position_embeddings": 64}})");
  write("recipe.toml", "method = \"pose\"\nrope_scaling = \"{\\\"factor\\\":4}\"\nwindow = \"64\"\nbatch = \"2\"\n");
  write("eval-ppl.json",
        R"({"kind":"ppl","protocol":{},"rows":[],"totals":[{"window":128,"ppl":9.5,"ppl_low":9,"ppl_high":10},
            {"window":64,"ppl":null}]})");
  const ReportRun run = load_run(folder.path("pose") + "/");
  CHECK(run.name == "pose");
  REQUIRE(run.loss.size() == 2);
  CHECK(run.loss[1].loss == 5.0);
  CHECK(run.cost.seconds == 4);
  CHECK(run.cost.tokens_per_s == 2000);
  CHECK(run.cost.tokens == 256);
  CHECK(run.recipe[1].second == "{\"factor\":4}");
  CHECK_FALSE(run.baseline);
  REQUIRE(run.ppl.size() == 2);
  CHECK(run.ppl[0].window == 64);
  CHECK(std::isnan(run.ppl[0].ppl));
  CHECK(run.ppl[1].ppl == 9.5);
  REQUIRE(run.inv_freq.size() == 4);
  CHECK(run.base_inv_freq[2] / run.inv_freq[2] == doctest::Approx(4));
  CHECK(run.trained_window == 64);
  CHECK(run.target_window == 256);
  CHECK(run.positions.size() == 3);  // drawn again from the recipe
  CHECK(run.positions[0].size() == 64);
  CHECK(run.positions[0].front() == 0);
  CHECK(position_corners(run.positions[0]).size() <= 4);  // a chunk's end and the next one's beginning
  write("cost.json", R"({"seconds": 9, "tokens": 5000, "peak_memory_bytes": 1048576})");
  write("frequencies.json", R"({"length": 256, "attention_scale": 1.25, "inv_freq": [1, 0.2, 0.03, 0.004]})");
  const ReportRun whole = load_run(folder.path("pose"));
  CHECK(whole.cost.tokens == 5000);
  CHECK(whole.cost.peak_memory_bytes == 1048576);
  CHECK(whole.inv_freq[3] == 0.004);
  CHECK(whole.attention_scale == 1.25);
  write("frequencies.json", R"({"length": 256, "inv_freq": [1, 0.2, 0, 0]})");  // as DroPE or a rotated share leaves it
  CHECK(load_run(folder.path("pose")).inv_freq[3] == 0);
  CHECK(report_html({load_run(folder.path("pose"))}).find("∞") != std::string::npos);
  write("recipe.toml", "method = \"plain\"\nrope_scaling = \"null\"\n");
  CHECK(load_run(folder.path("pose")).baseline);
  write("eval-ppl.json", "{\"kind\"");
  CHECK(test::error_of([&] { load_run(folder.path("pose")); }).find("eval-ppl.json: not valid JSON") !=
        std::string::npos);
  write("metrics.jsonl", "{\"step\":0}\n{\"step\":1,\"loss\":1}\n");
  CHECK(test::error_of([&] { load_run(folder.path("pose")); }).find("metrics.jsonl line 1") != std::string::npos);
  CHECK(test::error_of([&] { load_run(folder.path("none")); }).find("is not a folder") != std::string::npos);
}

TEST_CASE("Numbers are written as people read them") {
  CHECK(short_number(3.14159) == "3.14");
  CHECK(short_number(1185.47) == "1,185");
  CHECK(short_number(1234567) == "1,234,567");
  CHECK(short_number(0.5) == "0.5");
  CHECK(short_number(33.2e6) == "33.2 M");
  CHECK(short_number(1.7e10) == "17 G");
  CHECK(table_number(3.1) == "3.10");
  CHECK(table_number(99.96) == "100");
  CHECK(table_number(24) == "24.0");
  CHECK(short_tokens(512) == "512");
  CHECK(short_tokens(8192) == "8192");
  CHECK(short_tokens(16384) == "16k");
}

namespace {

EvalResult result_of(const std::string& json) { return eval_result_from_json(json, "x"); }

EvalResult ruler_result(double easy, double hard, const std::string& tasks = "niah_single_1, vt") {
  std::string totals;
  for (const int64_t length : {512, 4096}) {
    const double vt = length > 512 ? hard : easy;
    totals += cat(totals.empty() ? "" : ",", R"({"task":"niah_single_1","length":)", length,
                  R"(,"trials":8,"score":1,"score_low":1,"score_high":1},{"task":"vt","length":)", length,
                  R"(,"trials":8,"score":)", vt, R"(,"score_low":0,"score_high":1},{"task":"average","length":)",
                  length, R"(,"trials":16,"score":)", (1 + vt) / 2, "}");
  }
  return result_of(cat(R"({"kind":"ruler","protocol":{"trials":8,"shots":true,"tasks":")", tasks,
                       R"(","text":"99 tokens in 1 documents, fnv1a abc"},"rows":[],"totals":[)", totals, "]}"));
}

EvalResult choice_result(double acc, const std::string& checksum) {
  return result_of(cat(R"({"kind":"choice","protocol":{"file":"a/b/cloze.jsonl","file_checksum":")", checksum,
                       R"(","shots":0},"rows":[],"totals":[{"items":200,"acc":)", acc, R"(,"acc_low":)", acc - 0.05,
                       R"(,"acc_high":)", acc + 0.05, R"(,"acc_norm":0.5,"acc_norm_low":0.4,"acc_norm_high":0.6}]})"));
}

ReportRun run_with(const std::string& name, const std::vector<EvalResult>& results) {
  ReportRun run;
  run.name = name;
  for (const EvalResult& r : results) add_eval_result(run, r);
  return run;
}

}  // namespace

TEST_CASE("RULER is drawn by task and length: a heat map for each run, and lines of the mean over the tasks") {
  const std::string html =
      report_html({run_with("base", {ruler_result(0.5, 0)}), run_with("long", {ruler_result(0.5, 0.25)})});
  CHECK(unbalanced(html) == "");
  CHECK(html.find("<h2>RULER</h2>") != std::string::npos);
  CHECK(count(html, "class=\"chart heat\"") == 2);
  CHECK(count(html, ">niah_single_1</text>") == 2);
  CHECK(count(html, ">average<") == 0);  // it is the line, no task
  CHECK(html.find("Measured by: RULER, niah_single_1, vt, haystack of text abc, 8 prompts each.") != std::string::npos);
  CHECK(html.find("<span class=\"best\">63</span>") != std::string::npos);  // the mean of 1 and 0.25
  const std::vector<Record> records = report_records({run_with("base", {ruler_result(0.5, 0)})});
  CHECK(std::any_of(records.begin(), records.end(), [](const Record& r) {
    return r.text("x") == "vt" && r.integer("length") == 4096 && r.number("value", 1) == 0 && r.text("kind") == "ruler";
  }));
}

TEST_CASE("Multiple choice stands as a table with intervals beside dots with theirs") {
  const std::string html =
      report_html({run_with("base", {choice_result(0.4, "1")}), run_with("long", {choice_result(0.45, "1")})});
  CHECK(unbalanced(html) == "");
  CHECK(html.find("<h2>Multiple choice</h2>") != std::string::npos);
  CHECK(html.find("<span class=\"best\">45.0</span> <span class=\"range\">40.0 – 50.0</span>") != std::string::npos);
  CHECK(html.find("50.0 <span class=\"range\">40.0 – 60.0</span>") != std::string::npos);  // equal: none is the best
  CHECK(count(html, "class=\"whisker\"") == 2 * 4);                                        // wide and narrow
  CHECK(html.find("cloze.jsonl (1), 0 solved examples, 200 items") != std::string::npos);
}

TEST_CASE("Scores from other items, texts or tasks stand in tables of their own") {
  const auto warned = [](const EvalResult& a, const EvalResult& b) {
    return report_html({run_with("a", {a}), run_with("b", {b})}).find("2 different ways") != std::string::npos;
  };
  CHECK_FALSE(warned(choice_result(0.4, "1"), choice_result(0.5, "1")));
  CHECK(warned(choice_result(0.4, "1"), choice_result(0.5, "2")));  // a file of the same name with other items
  CHECK_FALSE(warned(ruler_result(1, 0), ruler_result(1, 1)));
  CHECK(warned(ruler_result(1, 0), ruler_result(1, 0, "niah_single_1, cwe")));  // means over different tasks
}

TEST_CASE("Summaries show the three ROUGE scores, and LongPPL the share of key tokens beside it") {
  const EvalResult rouge = result_of(
      R"({"kind":"longbench","protocol":{"metric":"rouge-score","file":"gov.jsonl"},"rows":[],"totals":[{"metric":"rouge-score","items":20,"score":0.2,
          "rouge1":0.3,"rouge1_low":0.25,"rouge1_high":0.35,"rouge2":0.1,"rouge2_low":0.05,"rouge2_high":0.15,
          "rougeL":0.2,"rougeL_low":0.15,"rougeL_high":0.25}]})");
  const EvalResult longppl = result_of(
      R"({"kind":"longppl","protocol":{"short_window":512,"alpha":2,"beta":-2,"judge":"the model itself"},"rows":[],
          "totals":[{"window":2048,"short_window":512,"documents":4,"tokens":1000,"key_tokens":25,"longppl":1.5,
          "longppl_low":1.4,"longppl_high":1.7,"ppl":30.25,"difference":0.01}]})");
  const std::string html = report_html({run_with("run", {rouge, longppl})});
  CHECK(unbalanced(html) == "");
  CHECK(html.find("<h2>Summaries</h2>") != std::string::npos);
  CHECK(html.find("<h2>Questions on long texts</h2>") == std::string::npos);
  for (const char* name : {"rouge1", "rouge2", "rougeL"}) CHECK(count(html, name) >= 3);
  CHECK(html.find("30.0 <span class=\"range\">25.0 – 35.0</span>") != std::string::npos);
  CHECK(html.find("<h2>LongPPL</h2>") != std::string::npos);
  CHECK(html.find("1.50 <span class=\"range\">1.40 – 1.70</span></td><td>2.50</td><td>30.2") != std::string::npos);
  CHECK(html.find("a short context of 512 tokens") != std::string::npos);
  ReportRun none = run_with(
      "none",
      {result_of(
          R"({"kind":"longppl","protocol":{},"rows":[],"totals":[{"window":64,"tokens":10,"key_tokens":0,"longppl":null,"ppl":3}]})")});
  CHECK(unbalanced(report_html({none})) == "");
  CHECK(test::error_of([] {
          ReportRun bad;
          add_eval_result(bad, result_of(R"({"kind":"choice","protocol":{},"rows":[],"totals":[{"acc":1.5}]})"),
                          "x.json");
        }).find("x.json: \"acc\" of a total must be from 0 to 1") != std::string::npos);
}
