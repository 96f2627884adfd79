// `ropewalk train`: options and help.
#include <csignal>
#include <cstdio>
#include <memory>

#include "common.h"
#include "interrupt.h"
#include "ranks.h"
#include "train.h"
#include "train/recipe_fields.h"

using namespace rw;

namespace {

const char* title(FieldGroup group) {
  switch (group) {
    case FieldGroup::text: return "Text";
    case FieldGroup::model: return "A new model";
    case FieldGroup::method: return "Method";
    case FieldGroup::optimizer: return "Optimizer";
    case FieldGroup::computing: return "Computing";
    case FieldGroup::keeping: return "Keeping";
    case FieldGroup::validation: return "Validation";
  }
  return "";
}

/// One option from its line of the table.
void add_option_of(CLI::App& app, TrainConfig& c, const RecipeField& f) {
  const std::string name = "--" + f.name;
  const RecipeField::Ref ref = f.at(c);
  CLI::Option* option = nullptr;
  if (const auto* flag = std::get_if<bool*>(&ref)) {
    option = app.add_flag_function(name, [&c, &f, flag = *flag](int64_t n) { *flag = n > 0, c.given.insert(f.name); });
  } else if (const auto* list = std::get_if<std::vector<std::string>*>(&ref)) {
    option = app.add_option_function<std::vector<std::string>>(
        name, [&c, &f, list = *list](const std::vector<std::string>& v) { *list = v, c.given.insert(f.name); });
  } else {
    option = app.add_option_function<std::string>(name, [&c, &f](const std::string& v) { set_field(c, f, v); });
    if (!f.choices.empty()) option->check(CLI::IsMember(f.choices));
    option->default_str(f.text(c));
  }
  option->description(f.help);
  option->group(title(f.group));
}

void print_result(const TrainConfig& config, const TrainResult& r) {
  const auto line = [&](const char* what) {
    std::printf("%s %s  steps %lld  tokens %s  time %s", what, config.out.c_str(), static_cast<long long>(r.steps),
                with_commas(r.tokens).c_str(), duration(r.seconds).c_str());
    if (!r.losses.empty()) std::printf("  loss %.4f", r.losses.back());
    std::printf("\n");
  };
  if (r.end == TrainEnd::was_finished) {
    std::printf("model %s is finished: %lld steps; nothing to do\n", config.out.c_str(), static_cast<long long>(r.steps));
  } else if (r.end == TrainEnd::stopped) {
    line("stopped");
    std::fprintf(stderr, "ropewalk: stopped at step %lld of %lld; the same command with --resume goes on from %s\n",
                 static_cast<long long>(r.steps), static_cast<long long>(config.steps), r.checkpoint.c_str());
  } else {
    line("model");
  }
}

}  // namespace

void add_train_options(CLI::App& app, TrainConfig& config) {
  app.add_option("--out", config.out, "folder for the model, checkpoints and metrics.jsonl");
  app.add_flag("--resume", config.resume, "go on with the same run in --out, from its newest whole checkpoint");
  app.add_flag("--overwrite", config.overwrite, "replace the run or the model that is in --out");
  for (const RecipeField& f : recipe_fields()) add_option_of(app, config, f);
  app.add_option("--chunks", config.positions.chunks, "pose: chunks of a sample")->capture_default_str();
  app.add_option("--pose-variant", config.positions.variant, "pose: paper, code, v1 or cream")->capture_default_str();
  app.add_option("--pose-content", config.positions.content, "pose: text offsets: uniform, zero or same")
      ->capture_default_str();
  app.add_option("--content-windows", config.positions.content_windows,
                  "pose: text comes from a stretch of so many windows (0: the whole document)")
      ->check(CLI::NonNegativeNumber)
      ->capture_default_str();
  app.add_flag("--fixed-g{false}", config.positions.augment_g, "e2: always the largest scale (the paper's ablation)");
  app.add_flag("--fixed-t{false}", config.positions.augment_t, "e2: no offset (the paper's ablation)");
  app.add_option("--spread", config.positions.spread,
                  "clex: positions of a sample: random, multiply (m t), or skip (two chunks)")
      ->capture_default_str();
  app.add_option("--max-factor", config.positions.max_factor, "e2, clex: largest scale factor")->capture_default_str();
  app.add_flag("--continuous-t", config.positions.continuous, "clex: t uniform on [1, max-factor] instead of integers");
  app.add_flag("--per-step", config.positions.per_step, "e2, clex: one scale factor per step instead of one per sample");
}

std::shared_ptr<TrainConfig> add_train(CLI::App& app, Globals& globals) {
  auto config = std::make_shared<TrainConfig>();
  CLI::App* sub = app.add_subcommand("train", "Train a model, or extend the context window of one");
  sub->footer(
      "A sample is --window tokens. Methods, for a model given by --from:\n"
      "  full      contiguous text of --target tokens, any --scaling (default: direct fine-tuning)\n"
      "  pi        position interpolation: full length, linear scaling\n"
      "  pose      positional skips: short windows that imitate --target, any --scaling (default linear)\n"
      "  randpos   random sorted positions below --target\n"
      "  e2        E2-LLM: random scale and offset per sample; serves every window up to max-factor times the base's\n"
      "  clex      learned frequencies by a neural ODE\n"
      "OUT becomes a model folder with the whole RoPE recipe in config.json; eval and generate need no flags for it.\n"
      "Started by torchrun, mpirun or srun, each process is one rank with a GPU of its own and a part of every batch\n"
      "(docs/parallel.md); the run is the same on any number of GPUs.\n"
      "Every option may stand in a TOML file under [train], given by --config; the command line wins.\n\n"
      "  ropewalk train --data books/ --out base --window 512 --steps 2000\n"
      "  ropewalk train --data books/ --from base --out long --method pose --scaling yarn --target 4096 --steps 500 "
      "--lr 2e-4");
  add_train_options(*sub, *config);
  sub->get_option("--out")->required();
  sub->callback([config, &globals] {
    Globals own = globals;
    const auto comm = join_ranks(own);
    catch_interrupts("\nropewalk: interrupted before the first step or outside of training\n");
    const TrainResult r = run_training(*config, own, {}, comm.get());
    if (comm) comm->close();
    if (!comm || comm->root()) print_result(*config, r);
    if (r.end == TrainEnd::stopped) throw Interrupted{interrupted() ? interrupted() : SIGTERM};
  });
  return config;
}
