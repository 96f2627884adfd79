// `ropewalk compare RECIPE`: options, and what a comparison says while it runs. The work is in train/comparison.h.
#include <cstdio>
#include <filesystem>

#include "common.h"
#include "interrupt.h"
#include "tensor/printable.h"
#include "train.h"
#include "train/comparison.h"
#include "verbs.h"

using namespace rw;

namespace {

struct Options {
  std::string recipe;
  ComparisonOptions comparison;
  ComparisonOverrides overrides;
  bool list = false, tables = false;
};

const char* state_name(StageState state) {
  switch (state) {
    case StageState::waiting:
      return "waiting";
    case StageState::under_way:
      return "under way";
    case StageState::trained:
      return "trained";
    case StageState::done:
      return "done";
  }
  return "";
}

void list(const Comparison& c) {
  const ComparisonRecipe& recipe = c.recipe();
  std::vector<Record> rows;
  rows.push_back({{"arm", std::string("base")},
                  {"state", std::string(state_name(c.state("base")))},
                  {"method", std::string(recipe.model.empty() ? "plain" : "given")},
                  {"target", recipe.base.window},
                  {"steps", recipe.model.empty() ? recipe.base.steps : 0}});
  for (const ComparisonArm* arm : c.wanted()) {
    rows.push_back({{"arm", arm->name},
                    {"state", std::string(state_name(c.state(arm->name)))},
                    {"method", arm->train.method + (arm->train.scaling.empty() ? "" : " " + arm->train.scaling)},
                    {"target", arm->train.target},
                    {"steps", arm->train.steps}});
  }
  std::fputs(to_text_table(rows).c_str(), stdout);
}

/// One line per stage on standard output, and bars on standard error.
class Talk {
 public:
  explicit Talk(const Globals& globals) : globals_(globals) {}

  ComparisonCallbacks callbacks() {
    return {.on_stage =
                [](size_t stage, size_t stages, const std::string& name, const std::string& what) {
                  std::printf("[%zu/%zu] %-24s %s\n", stage, stages, name.c_str(), what.c_str());
                  std::fflush(stdout);
                },
            .training =
                [this](const std::string&) {
                  training_.emplace(globals_);
                  return training_->callbacks();
                },
            .on_trained = [this](const std::string&) { training_.reset(); },
            .on_work =
                [this](const std::string& what, int64_t done, int64_t total) {
                  if (!bar_ || title_ != what) bar_.emplace(what, total, globals_), title_ = what;
                  bar_->update(done);
                  if (done < total) return;
                  bar_->finish();
                  bar_.reset();
                }};
  }

 private:
  const Globals& globals_;
  std::optional<TrainingDisplay> training_;
  std::optional<ProgressBar> bar_;
  std::string title_;
};

void run(Options& o, const Globals& globals) {
  const double start = now();
  catch_interrupts("\nropewalk: interrupted; the same command goes on from here\n");
  o.comparison.name = std::filesystem::path(o.recipe).stem().string();
  if (o.comparison.out.empty()) o.comparison.out = "out/" + o.comparison.name;
  Talk talk(globals);
  o.comparison.device = use(globals);
  Comparison comparison(read_comparison_recipe(o.recipe, o.overrides), o.comparison, talk.callbacks());
  if (o.list) return list(comparison);
  if (!o.tables) {
    size_t trained = comparison.recipe().model.empty() ? 1 : 0;
    for (const ComparisonArm* arm : comparison.wanted()) trained += !arm->zero_shot;
    if (!globals.quiet)
      std::fprintf(stderr, "%zu arms and the base: %zu trainings, %zu evaluations each\n", comparison.wanted().size(),
                   trained, comparison.recipe().evals.size());
    if (!comparison.run()) {
      std::fprintf(stderr, "ropewalk: stopped; the same command goes on from here\n");
      throw Interrupted{interrupted()};
    }
  }
  const std::string table = comparison.write_tables(), &out = comparison.out();
  std::printf("\n%s\ntable %s/table.md  report %s/report.html", table.c_str(), printable(out).c_str(),
              printable(out).c_str());
  if (!o.tables) std::printf("  time %s", duration(now() - start).c_str());
  std::printf("\n");
}

}  // namespace

void add_compare(CLI::App& app, Globals& globals) {
  auto options = std::make_shared<Options>();
  auto& o = *options;
  CLI::App* sub = app.add_subcommand("compare", "Train and evaluate several methods from one base, by a recipe");
  sub->footer(
      "RECIPE is a TOML file: [base] [mix] [eval] [eval.NAME] [arm] [arms.NAME], see recipes/ and docs/comparing.md.\n"
      "The same command goes on where it was stopped, and does nothing where all is done.\n\n"
      "  ropewalk compare recipes/tiny.toml\n"
      "  ropewalk compare recipes/pilot.toml --root ~/books --only 'pose*' --out out/pilot");
  sub->add_option("recipe", o.recipe, "TOML file")->required();
  sub->add_option("--out", o.comparison.out,
                  "folder for models, tables and report (default: out/ and the recipe's name)");
  sub->add_option("--only", o.comparison.only,
                  "only these arms, by name or pattern ('pose*'); the base is always there")
      ->delimiter(',');
  sub->add_flag("--list", o.list, "show the arms and how far each is, and do nothing");
  sub->add_flag("--tables", o.tables, "write tables and report of what is done so far, and do nothing else");
  sub->add_option("--root", o.overrides.root, "folder that the recipe's relative paths start from (default: this one)");
  sub->add_option("--data", o.overrides.data, "training text instead of the recipe's");
  sub->add_option("--eval-data", o.overrides.eval_data, "evaluation text instead of the recipe's");
  sub->add_option("--base", o.overrides.model,
                  "a model, or another comparison's folder, to take as the base instead of training one");
  sub->add_option("--max-seeds", o.overrides.max_seeds, "only the first N seeds of each arm (0: all)")
      ->check(CLI::NonNegativeNumber);
  sub->add_option("--max-arms", o.overrides.max_arms, "refuse a recipe whose lists make more arms")
      ->check(CLI::PositiveNumber)
      ->capture_default_str();
  sub->add_flag("--drop-weights", o.comparison.drop_weights, "remove an arm's weights once it is evaluated");
  sub->callback([options, &globals] { run(*options, globals); });
}
