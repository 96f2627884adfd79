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
