// `ropewalk train`: options and help.
#include <csignal>
#include <cstdio>
#include <memory>

#include "common.h"
#include "interrupt.h"
#include "ranks.h"
#include "rope/method_options.h"
#include "tensor/printable.h"
#include "train.h"
#include "train/recipe_fields.h"

using namespace rw;

namespace {

const char* title(FieldGroup group) {
  switch (group) {
    case FieldGroup::text:
      return "Text";
    case FieldGroup::model:
      return "A new model";
    case FieldGroup::method:
      return "Method";
    case FieldGroup::adapter:
      return "Adapters";
    case FieldGroup::optimizer:
      return "Optimizer";
    case FieldGroup::computing:
      return "Computing";
    case FieldGroup::keeping:
      return "Keeping";
    case FieldGroup::validation:
      return "Validation";
  }
  return "";
}

/// The names of an option: what other verbs call --model and --rope may be called so here too.
std::string names_of(const RecipeField& f) {
  const std::string other = f.name == "from" ? "model" : f.name == "scaling" ? "rope" : f.old_name;
  return "--" + f.name + (other.empty() ? "" : ",--" + other);
}

/// What most calls name stands first in the help.
std::string group_of(const RecipeField& f) {
  for (const char* common : {"data", "from", "tokenizer", "method", "scaling", "target", "window", "steps"}) {
    if (f.name == common) return kCommonOptions;
  }
  return title(f.group);
}

/// One option from its line of the table.
void add_option_of(CLI::App& app, Recipe& c, const RecipeField& f) {
  const std::string name = names_of(f);
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
  option->group(group_of(f));
}

/// The options of every method, from the tables of their records' fields.
void add_method_options(CLI::App& app, std::map<std::string, std::string>& given) {
  for (const MethodOption& o : method_options()) {
    const std::string name = "--" + o.name, key = o.key;
    CLI::Option* option = nullptr;
    if (o.is_flag) {
      option = app.add_flag_function(name, [&given, key](int64_t n) { given[key] = n > 0 ? "true" : "false"; });
    } else {
      option = app.add_option_function<std::string>(name, [&given, key](const std::string& v) { given[key] = v; });
      if (!o.choices.empty()) option->check(CLI::IsMember(o.choices));
      option->default_str(o.default_text);
    }
    option->description(o.help);
    option->group(title(FieldGroup::method));
  }
}

void print_result(const Recipe& config, const TrainResult& r) {
  const auto line = [&](const char* what) {
    std::printf("%s %s  steps %lld  tokens %s  time %s", what, printable(config.out).c_str(),
                static_cast<long long>(r.steps), with_commas(r.tokens).c_str(), duration(r.seconds).c_str());
    if (!r.losses.empty()) std::printf("  loss %.4f", r.losses.back());
    std::printf("\n");
  };
  if (r.end == TrainEnd::was_finished) {
    std::printf("model %s is finished: %lld steps; nothing to do\n", printable(config.out).c_str(),
                static_cast<long long>(r.steps));
  } else if (r.end == TrainEnd::stopped) {
    line("stopped");
    std::fprintf(stderr, "ropewalk: stopped at step %lld of %lld; the same command with --resume goes on from %s\n",
                 static_cast<long long>(r.steps), static_cast<long long>(config.steps), r.checkpoint.c_str());
  } else {
    line("model");
  }
}

}  // namespace

void add_train_options(CLI::App& app, Recipe& config) {
  app.add_option("--out", config.out, "folder for the model, checkpoints and metrics.jsonl")->group(kCommonOptions);
  app.add_flag("--resume", config.resume, "go on with the same run in --out, from its newest whole checkpoint")
      ->group(kCommonOptions);
  app.add_flag("--overwrite", config.overwrite, "replace the run or the model that is in --out")->group(kCommonOptions);
  for (const RecipeField& f : recipe_fields()) add_option_of(app, config, f);
  add_method_options(app, config.method_options);
}

std::shared_ptr<Recipe> add_train(CLI::App& app, Globals& globals) {
  auto config = std::make_shared<Recipe>();
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
      "With --lora-rank the model stays as it is and OUT holds an adapter in PEFT's layout: eval and generate take "
      "the\n"
      "model with --model and OUT with --adapter; convert merge makes one model of the two (docs/adapters.md).\n"
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
