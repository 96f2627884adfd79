// `ropewalk bench window`: what a longer context window costs in training, with text of its whole length and
// with the short samples of PoSE and E2-LLM; and what each way to save memory costs and saves.
#include <algorithm>
#include <cmath>
#include <cstdio>
#include <nlohmann/json.hpp>
#include <optional>

#include "autograd/tape.h"
#include "common.h"
#include "memory_options.h"
#include "model_shapes.h"
#include "nn/adamw.h"
#include "nn/memory_plan.h"
#include "nn/train_step.h"
#include "result_file.h"
#include "rope/kinds.h"
#include "rope/samplers.h"
#include "tensor/allocator.h"
#include "tensor/file.h"

using namespace rw;

namespace {

constexpr int64_t kVocab = 32000;
constexpr const char* kOutOfMemory = "out of memory";

struct Options {
  std::string shape = "X", only, json;
  std::vector<int64_t> targets = {8192, 16384, 32768, 65536, 131072}, windows = {4096, 8192, 16384, 32768, 65536};
  std::vector<int64_t> batches = {2, 1};
  double seconds = 1, memory_gib = 0;
  bool plain = false, recompute = false;
  std::string offload = "none";
  int64_t mlp_tile = 0;
  StateOptions state;

  bool offloads(const char* what) const { return offload == "all" || offload == what; }
  ArenaMemory arena() const {
    ArenaMemory memory = plain ? ArenaMemory{} : ArenaMemory::small_state();
    memory.host_state = offloads("optimizer");
    memory.split_master = memory.split_master && !memory.host_state;
    memory.moments = moment_format(state.moments);
    return memory;
  }
};

struct Row {
  const char* method;      // pose, e2 or full
  int64_t window, target;  // tokens of a sample; the context window it trains for
  int64_t batch;
  bool recompute;
  std::string name() const {
    std::string s = cat(method, "-", target, "-b", batch);
    return recompute ? s + "-recompute" : s;
  }
};

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

/// Steps of one row on a model that every row shares: weights go on from the row before.
class Steps {
 public:
  Steps(CausalLm& model, AdamW& optimizer, const Options& o, const Row& row)
      : model_(model), row_(row), step_(model, optimizer, /*graph=*/false) {  // the card never waits for such launches
    RopeConfig rope = model.config().rope;
    const int64_t original = rope.original_window();
    PositionConfig positions;
    if (std::string(row.method) != "full") positions = position_sampler(row.method);
    if (auto* e2 = positions.get<E2Positions>()) e2->max_factor = std::max<int64_t>(1, row.target / original);
    rope.original_max_position_embeddings = original;
    rope.kind = LinearRope{.factor = std::max(1.0, static_cast<double>(row.target) / static_cast<double>(original))};
    if (positions.is<E2Positions>()) rope.kind = DefaultRope{};  // E2-LLM's scale is in the positions
    model.set_rope(rope);
    model.set_recompute(row.recompute, row.recompute && o.offloads("activations"));
    model.set_mlp_tile(o.mlp_tile);
    sampler_ = make_position_sampler(positions);
  }

  /// Seconds of one whole step, from the upload of its input to the end of its update.
  double run(int64_t i) {
    SampleSpec spec{.seed = 1, .step = i, .window = row_.window, .target = row_.target};
    for (int64_t b = 0; b < row_.batch; ++b) spec.sample_ids.push_back(b);
    const StepInput input{.ids = random_ids(row_.batch, row_.window, kVocab, static_cast<uint64_t>(2 * i)),
                          .targets = random_ids(row_.batch, row_.window, kVocab, static_cast<uint64_t>(2 * i + 1)),
                          .positions = sampler_->sample(spec).positions,
                          .context = {.length = row_.target, .training = true},
                          .scored = row_.batch * row_.window};
    const double start = now();
    step_.add(input, true);
    step_.update(1e-5, 1.0);
    step_.result();
    return now() - start;
  }

 private:
  CausalLm& model_;
  const Row& row_;
  TrainStep step_;
  std::unique_ptr<PositionSampler> sampler_;
};

struct Cost {
  double seconds;
  int64_t peak_bytes;
};

/// What the row's step takes, from formulas. None for blocks without a plan, nor on the CPU, which computes bf16 in f32
/// copies.
std::optional<MemoryPlan> plan_of(const ModelConfig& config, const Options& o, const Row& row, Device device) {
  if (!device.is_cuda() || !memory_is_planned(config)) return std::nullopt;
  return plan_memory({.model = config,
                      .compute = DType::bf16,
                      .cuda = true,
                      .batch = row.batch,
                      .length = row.window,
                      .arena = o.arena(),
                      .choice = {.recompute = row.recompute,
                                 .mlp_tile = o.mlp_tile,
                                 .offload_activations = row.recompute && o.offloads("activations"),
                                 .offload_optimizer = o.offloads("optimizer")}});
}

struct Outcome {
  std::optional<Cost> cost;
  std::string why;  // there is no cost
};

/// A row that does not fit leaves the device free for the next one.
Outcome measure(CausalLm& model, AdamW& optimizer, const Options& o, const Row& row) {
  constexpr double kLong = 20;  // seconds of a step beside which the choice of products is nothing
  const Device device = model.device();
  release_cached_memory(device);
  reset_peak_memory(device);
  Outcome outcome;
  try {
    Steps steps(model, optimizer, o, row);
    std::vector<double> times = {steps.run(0)};  // chooses products
    if (times[0] < kLong) times.clear();
    const double start = now();
    for (int64_t i = 1; times.empty() || now() - start < o.seconds; ++i) times.push_back(steps.run(i));
    std::sort(times.begin(), times.end());
    return {Cost{times[times.size() / 2], memory_stats(device).peak_bytes}, ""};
  } catch (const Error& e) {
    // The driver's own words where it is not the allocator that ran out.
    outcome.why = e.what();
    const bool full = dynamic_cast<const OutOfMemory*>(&e) || outcome.why.find("out of memory") != std::string::npos;
    if (full) outcome.why = kOutOfMemory;
  }
  Tape::current().clear();
  model.arena().zero_grad();
  return outcome;
}

/// What of the state is where, and in what.
std::string state_text(const Options& o) {
  std::string text = o.state.lora_rank > 0
                         ? cat("LoRA of rank ", o.state.lora_rank, " beside ", o.state.lora_base, " weights")
                     : o.plain ? "f32 master weights and gradients"
                               : "split f32 master weights, bf16 gradients";
  text += cat(", moments in ", o.state.moments);
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
  for (const Row& row : rows) {
    check(row.window > 0 && row.batch > 0 && row.target >= row.window, "bench", row.name(), ": a window of ",
          row.window, " tokens cannot train for ", row.target);
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
  ModelConfig config = shape.config(kVocab);
  if (o.state.lora_rank > 0)
    config.adapter = AdapterDescription{.rank = o.state.lora_rank, .base_blocks = base_format(o.state.lora_base)};
  CausalLm model(config, DType::bf16, device, 1, o.arena());
  AdamW optimizer(model.arena(), {.weight_decay = 0.1});
  model.enable_grad();
  std::printf("training step of %s (%s parameters) on %s, bf16, %s; weights made in %.0f s\n", shape.name,
              with_commas(shape.parameters(kVocab)).c_str(),
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
    failed += !outcome.cost && outcome.why != kOutOfMemory;
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
