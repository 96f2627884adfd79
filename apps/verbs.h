// The verbs of `ropewalk`: each registers its subcommand with options, help and the callback that does the work.
#pragma once
#include <CLI/CLI.hpp>
#include <memory>
#include <string>

/// Options that every verb has.
struct Globals {
  std::string device = "auto";
  int threads = 0;  // 0: all cores
  bool quiet = false;
};

namespace rw {
struct Recipe;
}

/// What main's parser has before any verb: --config, --device, --threads, --quiet, and a verb that must follow.
void add_globals(CLI::App& app, Globals& globals);
/// Returns where the options go.
std::shared_ptr<rw::Recipe> add_train(CLI::App& app, Globals& globals);
void add_eval(CLI::App& app, Globals& globals);
void add_eval_logits(CLI::App& eval, Globals& globals);
void add_generate(CLI::App& app, Globals& globals);
void add_chat(CLI::App& app, Globals& globals);
void add_cloze(CLI::App& app, Globals& globals);
void add_tokenizer(CLI::App& app, Globals& globals);
void add_convert(CLI::App& app, Globals& globals);
void add_bench(CLI::App& app, Globals& globals);
void add_bench_ops(CLI::App& bench, Globals& globals);  // two of bench's own verbs
void add_bench_window(CLI::App& bench, Globals& globals);
void add_profile(CLI::App& app, Globals& globals);
void add_demo(CLI::App& app, Globals& globals);
void add_plan(CLI::App& app, Globals& globals);
void add_compare(CLI::App& app, Globals& globals);
void add_report(CLI::App& app, Globals& globals);
void add_search(CLI::App& app, Globals& globals);
void add_theory(CLI::App& app, Globals& globals);
