// The table that other programs read beside metrics.jsonl.
#include <filesystem>
#include <sstream>

#include "data/demo_corpus.h"
#include "support.h"
#include "tensor/file.h"
#include "train/metrics_file.h"
#include "train/trainer.h"

using namespace rw;

namespace {

std::vector<std::string> lines_of(const std::string& path) {
  std::istringstream in(read_file(path));
  std::vector<std::string> lines;
  for (std::string line; std::getline(in, line);) lines.push_back(line);
  return lines;
}

Recipe small_run(const std::string& out) {
  Recipe r;
  r.out = out, r.hidden = 16, r.layers = 1, r.heads = 2, r.window = 16, r.batch = 2, r.steps = 4, r.csv = true;
  return r;
}

}  // namespace

TEST_CASE("a table has one row per line of metrics.jsonl, and what a line lacks is empty") {
  const test::TempDir dir;
  const std::string jsonl = dir.path("metrics.jsonl"), csv = dir.path("metrics.csv");
  write_file_atomic(jsonl,
                    "{\"step\":0,\"loss\":4.5,\"lr\":0.1,\"grad_norm\":1,\"tokens_per_s\":10,\"time_s\":1.5}\nxx\n");
  {
    MetricsTable table(csv, jsonl);
    table.write("{\"step\":1,\"loss\":null,\"lr\":0.25}");
  }
  CHECK(read_file(csv) == "step,loss,lr,grad_norm,tokens_per_s,time_s\n0,4.5,0.1,1,10,1.5\n1,,0.25,,,\n");
}

TEST_CASE("a run with csv writes the table as it goes, and a resumed run goes on with it") {
  const test::TempDir dir;
  Recipe recipe = small_run(dir.path("run"));
  int steps = 0;
  const TrainPlace place{.documents = make_demo_corpus(1, 4, 2000)};
  Trainer(recipe, place, {.on_step = [&](const StepReport&) { ++steps; }, .stop = [&] { return steps == 2; }}).run();
  CHECK(lines_of(dir.path("run/metrics.csv")).size() == 3);
  recipe.resume = true;
  Trainer(recipe, place).run();
  const auto rows = lines_of(dir.path("run/metrics.csv")), records = lines_of(dir.path("run/metrics.jsonl"));
  REQUIRE(rows.size() == 5);
  REQUIRE(records.size() == 4);
  for (int step = 0; step < 4; ++step) CHECK(rows[static_cast<size_t>(step) + 1].starts_with(cat(step, ",")));
  recipe.resume = false, recipe.overwrite = true, recipe.csv = false;
  Trainer(recipe, place).run();
  CHECK_FALSE(std::filesystem::exists(dir.path("run/metrics.csv")));  // an earlier run's table does not stay
}

TEST_CASE("a run that diverges says nan, not -nan, and leaves no model") {
  const test::TempDir dir;
  Recipe recipe = small_run(dir.path("run"));
  recipe.schedule.lr = 1e30, recipe.schedule.kind = "constant", recipe.clip = 0;
  const std::string error =
      test::error_of([&] { Trainer(recipe, TrainPlace{.documents = make_demo_corpus(1, 4, 2000)}).run(); });
  CHECK(error.find("is nan at step") != std::string::npos);
  CHECK_FALSE(std::filesystem::exists(dir.path("run/config.json")));
}
