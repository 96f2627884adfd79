// `ropewalk bench window`: what a longer context window costs in training, with text of its whole length and
// with the short samples of PoSE and E2-LLM; and what each way to save memory costs and saves.
#include "bench_window.h"

#include <algorithm>
#include <cmath>
#include <cstdio>
#include <nlohmann/json.hpp>
#include <optional>

#include "common.h"
#include "model_shapes.h"
#include "result_file.h"
#include "tensor/allocator.h"
#include "tensor/file.h"

using namespace rw;

namespace {

using Options = WindowOptions;
using Row = WindowRow;

std::vector<Row> rows_of(const Options& o, const ModelShape& shape) {
  std::vector<Row> rows;
  for (const char* method : {"pose", "e2"}) {
    for (const int64_t batch : o.batches) {
      for (const int64_t target : o.targets)
        if (asked_for(o.only, method))
          rows.push_back(
              {.method = method, .window = shape.window, .target = target, .batch = batch, .recompute = o.recompute});
    }
  }
  for (const bool recompute : {false, true}) {
    for (const int64_t window : o.windows)
      if (asked_for(o.only, recompute ? "recompute" : "full"))
        rows.push_back({.method = "full", .window = window, .target = window, .batch = 1, .recompute = recompute});
  }
  return rows;
}

/// What of the state is where, and in what.
std::string state_text(const Options& o) {
  std::string text = o.state.lora_rank > 0
                         ? cat("LoRA of rank ", o.state.lora_rank, " beside ", o.state.lora_base, " weights")
                     : o.plain ? "f32 master weights and gradients"
                               : "split f32 master weights, bf16 gradients";
  text += cat(", moments in ", o.state.moments);
  if (o.keep_attention) text += ", attention's outputs kept";
  if (o.recompute_inputs) text += ", outputs of norms and activations recomputed";
  if (o.mlp_tile > 0) text += cat(", MLPs in tiles of ", o.mlp_tile);
  if (o.offload != "none") text += cat(", on the host: ", o.offload);
  return text;
}

void print_row(const Row& row, const std::optional<MemoryPlan>& plan, const Outcome& outcome) {
  if (!outcome.cost) return void(std::printf("%s\n", outcome.why.c_str()));
  const double tokens = static_cast<double>(row.batch * row.window);
  std::printf("%9.3f s  %9s tok/s  peak %9s", outcome.cost->seconds,
              with_commas(std::llround(tokens / outcome.cost->seconds)).c_str(),
              memory_text(outcome.cost->peak_bytes).c_str());
  if (plan) std::printf("  plan %9s", memory_text(plan->bytes).c_str());
  if (plan && plan->host_bytes > 0) std::printf(" + %s on the host", memory_text(plan->host_bytes).c_str());
  std::printf("\n");
}

nlohmann::json row_json(const Row& row, const Options& o, const std::optional<MemoryPlan>& plan,
                        const Outcome& outcome) {
  nlohmann::json line = {{"name", row.name()},       {"window", row.window},         {"target", row.target},
                         {"batch", row.batch},       {"recompute", row.recompute},   {"state", state_text(o)},
                         {"seconds", nullptr},       {"tokens_per_second", nullptr}, {"peak_bytes", nullptr},
                         {"planned_bytes", nullptr}, {"planned_host_bytes", nullptr}};
  if (plan) {
    line["planned_bytes"] = plan->bytes;
    line["planned_host_bytes"] = plan->host_bytes;
  }
  if (outcome.cost) {
    line["seconds"] = outcome.cost->seconds;
    line["tokens_per_second"] = static_cast<double>(row.batch * row.window) / outcome.cost->seconds;
    line["peak_bytes"] = outcome.cost->peak_bytes;
  }
  return line;
}

void check_options(const Options& o, const std::vector<Row>& rows) {
  check(o.memory_gib >= 0 && o.seconds >= 0, "bench", "--memory-gib and --seconds must not be negative");
  check(o.state.lora_rank > 0 || o.state.lora_base == "native", "bench", "--lora-base needs --lora-rank");
  check(o.state.lora_rank == 0 || !o.recompute_inputs, "bench", "--recompute-inputs has no effect with --lora-rank");
  for (const Row& row : rows) {
    check(row.window > 0 && row.batch > 0 && row.target >= row.window, "bench", row.name(), ": a window of ",
          row.window, " tokens cannot train for ", row.target);
    check(row.recompute || !o.keep_attention, "bench", row.name(),
          ": --keep-attention is for recomputed blocks: add --recompute, or --only recompute");
    check(row.recompute || !o.offloads("activations"), "bench", row.name(), ": --offload ", o.offload,
          " keeps the inputs of recomputed blocks on the host: add --recompute, or --only recompute");
  }
  check_result_file("bench", o.json, "what this verb writes", [](const std::string& path) {
    return read_file(path, limits::evaluation).find("\"tokens_per_second\"") != std::string::npos;
  });
}

void run(const Options& o, const Globals& globals) {
  const Device device = use(globals);
  const ModelShape& shape = model_shape("bench", o.shape);
  const std::vector<Row> rows = rows_of(o, shape);
  check_options(o, rows);
  set_memory_limit(static_cast<int64_t>(o.memory_gib * (1 << 30)), device);
  const double begin = now();
  ModelConfig config = shape.config(kWindowVocab);
  if (o.state.lora_rank > 0)
    config.adapter = AdapterDescription{.rank = o.state.lora_rank, .base_blocks = base_format(o.state.lora_base)};
  CausalLm model(config, DType::bf16, device, 1, o.arena());
  AdamW optimizer(model.arena(), {.weight_decay = 0.1});
  model.enable_grad();
  std::printf("training step of %s (%s parameters) on %s, bf16, %s; weights made in %.0f s\n", shape.name,
              with_commas(shape.parameters(kWindowVocab)).c_str(),
              device.is_cuda() ? cuda_device_name(device.index).c_str() : "the CPU", state_text(o).c_str(),
              now() - begin);
  std::string lines;
  int failed = 0;
  for (const Row& row : rows) {
    std::printf("%-5s window %6lld  target %6lld  B %2lld%s  ", row.method, static_cast<long long>(row.window),
                static_cast<long long>(row.target), static_cast<long long>(row.batch),
                row.recompute ? " recomputed" : "           ");
    std::fflush(stdout);
    const std::optional<MemoryPlan> plan = plan_of(config, o, row, device);
    const Outcome outcome = measure(model, optimizer, o, row);
    failed += !outcome.cost && !outcome.full;
    print_row(row, plan, outcome);
    std::fflush(stdout);
    lines += row_json(row, o, plan, outcome).dump() + "\n";
    if (!o.json.empty()) write_file_atomic(o.json, lines);
  }
  set_memory_limit(0, device);
  check(failed == 0, "bench", failed, " of ", rows.size(), " rows failed");
}

}  // namespace

void add_bench_window(CLI::App& bench, Globals& globals) {
  auto options = std::make_shared<Options>();
  auto& o = *options;
  CLI::App* sub = bench.add_subcommand("window", "Training for longer context windows: time and memory of a step");
  sub->footer(
      "PoSE's and E2-LLM's samples have the shape's window, whatever the target; full-length samples have the "
      "target's,\n"
      "first with all activations kept, then with every block recomputed in backward. Linear scaling, for E2-LLM its "
      "own.\n"
      "What does not fit says so. On a GPU what `ropewalk plan` expects stands beside each peak.\n\n"
      "  ropewalk bench window --json cost.jsonl\n"
      "  ropewalk bench window --only full,recompute --windows 8192 --memory-gib 75\n"
      "  ropewalk bench window --only recompute --windows 262144 --mlp-tile 4096 --moments int8 --offload activations\n"
      "  ropewalk bench window --only pose --targets 131072 --batches 1 --lora-rank 8 --lora-base nf4 --recompute");
  const auto list = [&](const char* name, auto& to, const char* help) {
    sub->add_option(name, to, help)->delimiter(',')->capture_default_str();
  };
  sub->add_option("--model-shape", o.shape, model_shape_names())->capture_default_str();
  sub->add_option("--only", o.only, "parts, with commas: pose, e2, full, recompute");
  list("--targets", o.targets, "context windows that PoSE and E2-LLM train for");
  list("--batches", o.batches, "samples of their steps");
  list("--windows", o.windows, "tokens of full-length samples");
  sub->add_flag("--plain", o.plain, "f32 gradients, and f32 master weights apart from their bf16 copy");
  sub->add_flag("--recompute", o.recompute, "PoSE and E2-LLM, too: every block recomputed in backward");
  sub->add_flag("--keep-attention", o.keep_attention, "of recomputed blocks, keep what attention gives");
  sub->add_flag("--recompute-inputs", o.recompute_inputs, "recompute outputs of norms and activations");
  sub->add_option("--mlp-tile", o.mlp_tile, "tokens of the feed-forward layers at a time; 0: all")
      ->check(CLI::NonNegativeNumber)
      ->capture_default_str();
  sub->add_option("--offload", o.offload, "what lies in host memory: none, activations, optimizer or all")
      ->check(CLI::IsMember({"none", "activations", "optimizer", "all"}))
      ->capture_default_str();
  add_state_options(*sub, o.state);
  sub->add_option("--memory-gib", o.memory_gib, "use no more than this, as on a smaller card (0: all there is)")
      ->capture_default_str();
  sub->add_option("--seconds", o.seconds, "time for each row, after one step that is not timed; at least one step")
      ->capture_default_str();
  sub->add_option("--json", o.json, "also write a line of JSON for each row here");
  sub->callback([options, &globals] { run(*options, globals); });
}
