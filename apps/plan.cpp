// `ropewalk plan`: what a training step of a model takes, from formulas, without weights and without a GPU.
#include <cstdio>

#include "common.h"
#include "memory_options.h"
#include "nn/io/hf.h"
#include "nn/memory_plan.h"

using namespace rw;

namespace {

struct Options {
  std::string model, dtype = "bf16", memory, place = "cuda";
  std::vector<int64_t> windows;
  int64_t batch = 1, tile = 4096;
  StateOptions state;
  bool small_state = false, terms = false;
};

MemoryTask task_of(const Options& o) {
  MemoryTask task{.model = read_hf_config(model_folder(o.model)),
                  .compute = o.dtype == "bf16" ? DType::bf16 : DType::f32,
                  .cuda = o.place == "cuda",
                  .batch = o.batch};
  check(!o.small_state || o.dtype == "bf16", "plan", "--small-state needs --dtype bf16");
  if (o.small_state) task.arena = ArenaMemory::small_state();
  task.arena.moments = moment_format(o.state.moments);
  check(o.state.lora_rank > 0 || o.state.lora_base == "native", "plan", "--lora-base needs --lora-rank");
  if (o.state.lora_rank > 0) {
    task.model.adapter = AdapterDescription{.rank = o.state.lora_rank, .base_blocks = base_format(o.state.lora_base)};
  }
  return task;
}

void print_terms(const MemoryPlan& plan) {
  for (const auto& [place, terms] : {std::pair{"", plan.terms}, std::pair{"host: ", plan.host_terms}}) {
    for (const MemoryTerm& t : terms)
      std::printf("    %-44s %12s   %s\n", (place + t.name).c_str(), memory_text(t.bytes).c_str(), t.formula.c_str());
  }
}

std::vector<MemoryChoice> choices_of(const Options& o) {
  std::vector<MemoryChoice> choices{{}, {.recompute_inputs = true}, {.mlp_tile = o.tile}};
  for (const bool keep : {true, false}) {
    for (const int64_t tile : {int64_t{0}, o.tile})
      choices.push_back({.recompute = true, .mlp_tile = tile, .keep_attention = keep});
  }
  if (o.place != "cuda") return choices;
  for (const auto& [inputs, optimizer] : {std::pair{true, false}, std::pair{false, true}, std::pair{true, true}}) {
    for (const bool keep : {true, false}) {
      choices.push_back({.recompute = true,
                         .mlp_tile = o.tile,
                         .offload_activations = inputs,
                         .offload_optimizer = optimizer,
                         .keep_attention = keep});
    }
  }
  return choices;
}

const char* offload_text(const MemoryChoice& c) {
  return c.offload_activations ? (c.offload_optimizer ? "all" : "activations")
                               : (c.offload_optimizer ? "optimizer" : "no");
}

const char* recompute_text(const MemoryChoice& c) {
  return c.keep_attention ? "except attention" : c.recompute ? "yes" : c.recompute_inputs ? "inputs" : "no";
}

void run(const Options& o) {
  MemoryTask task = task_of(o);
  const ArenaMemory arena = task.arena;
  const int64_t limit = o.memory.empty() ? 0 : memory_size(o.memory);
  std::printf("%10s  %-16s  %8s  %-11s  %12s  %12s%s\n", "window", "recompute", "mlp tile", "offload", "peak", "host",
              limit > 0 ? "  fits" : "");
  for (const int64_t window : o.windows) {
    task.length = window;
    for (const MemoryChoice& choice : choices_of(o)) {
      if (choice.mlp_tile >= o.batch * window && !choice.offload_activations && !choice.offload_optimizer) continue;
      task.choice = choice;
      task.arena = arena;
      task.arena.split_master = arena.split_master && !choice.offload_optimizer;
      const MemoryPlan plan = plan_memory(task);
      std::printf("%10lld  %-16s  %8lld  %-11s  %12s  %12s%s\n", static_cast<long long>(window), recompute_text(choice),
                  static_cast<long long>(choice.mlp_tile), offload_text(choice), memory_text(plan.bytes).c_str(),
                  plan.host_bytes > 0 ? memory_text(plan.host_bytes).c_str() : "",
                  limit == 0            ? ""
                  : plan.bytes <= limit ? "  yes"
                                        : "  no");
      if (o.terms) print_terms(plan);
    }
  }
}

}  // namespace

void add_plan(CLI::App& app, Globals&) {
  auto options = std::make_shared<Options>();
  auto& o = *options;
  CLI::App* sub = app.add_subcommand("plan", "What a training step takes in memory, from formulas; needs no GPU");
  add_model(*sub, o.model);
  sub->add_option("--window", o.windows, "tokens of a sample, e.g. 8192,65536,262144")
      ->delimiter(',')
      ->required()
      ->check(CLI::Range(int64_t{1}, int64_t{1} << 30))
      ->group(kCommonOptions);
  sub->add_option("--batch", o.batch, "samples of a forward")->check(CLI::Range(1, 1 << 20))->capture_default_str();
  sub->add_option("--on", o.place, "the device that is meant: cuda or cpu")
      ->check(CLI::IsMember({"cuda", "cpu"}))
      ->capture_default_str();
  sub->add_option("--dtype", o.dtype, "f32 or bf16")->check(CLI::IsMember({"f32", "bf16"}))->capture_default_str();
  sub->add_option("--mlp-tile", o.tile, "tokens of the feed-forward layers at a time, where they are in tiles")
      ->check(CLI::PositiveNumber)
      ->capture_default_str();
  sub->add_option("--memory", o.memory, "size of the memory, as 24G: says which rows fit");
  sub->add_flag("--small-state", o.small_state, "bf16: 14 bytes for each parameter instead of 18");
  add_state_options(*sub, o.state);
  sub->add_flag("--terms", o.terms, "print every term with its formula");
  sub->callback([options] { run(*options); });
}
