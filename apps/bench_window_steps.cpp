// Steps of `ropewalk bench window` on one model that all rows share.
#include <algorithm>
#include <cmath>

#include "autograd/tape.h"
#include "bench_window.h"
#include "common.h"
#include "model_shapes.h"
#include "nn/train_step.h"
#include "rope/kinds.h"
#include "rope/samplers.h"
#include "tensor/allocator.h"

using namespace rw;

namespace {

/// Steps of one row on a model that every row shares: weights go on from the row before.
class Steps {
 public:
  Steps(CausalLm& model, AdamW& optimizer, const WindowOptions& o, const WindowRow& row)
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
    model.set_recompute(row.recompute, {.inputs_on_host = row.recompute && o.offloads("activations"),
                                        .keep_attention = row.recompute && o.keep_attention});
    model.set_mlp_tile(o.mlp_tile);
    model.set_linear({.recompute_input = o.recompute_inputs});
    sampler_ = make_position_sampler(positions);
  }

  /// Seconds of one whole step, from the upload of its input to the end of its update.
  double run(int64_t i) {
    SampleSpec spec{.seed = 1, .step = i, .window = row_.window, .target = row_.target};
    for (int64_t b = 0; b < row_.batch; ++b) spec.sample_ids.push_back(b);
    const StepInput input{
        .ids = random_ids(row_.batch, row_.window, kWindowVocab, static_cast<uint64_t>(2 * i)),
        .targets = random_ids(row_.batch, row_.window, kWindowVocab, static_cast<uint64_t>(2 * i + 1)),
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
  const WindowRow& row_;
  TrainStep step_;
  std::unique_ptr<PositionSampler> sampler_;
};

}  // namespace

std::optional<MemoryPlan> plan_of(const ModelConfig& config, const WindowOptions& o, const WindowRow& row,
                                  Device device) {
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
                                 .offload_optimizer = o.offloads("optimizer"),
                                 .keep_attention = row.recompute && o.keep_attention,
                                 .recompute_inputs = o.recompute_inputs}});
}

Outcome measure(CausalLm& model, AdamW& optimizer, const WindowOptions& o, const WindowRow& row) {
  constexpr double kLong = 20;  // seconds of a step beside which the choice of products is nothing
  const Device device = model.device();
  release_cached_memory(device);
  reset_peak_memory(device);
  Outcome outcome;
  try {
    Steps steps(model, optimizer, o, row);
    std::vector<double> times = {steps.run(0)};                  // chooses products
    if (times[0] < kLong || o.offload != "none") times.clear();  // the first step locks host memory
    const double start = now();
    for (int64_t i = 1; times.empty() || now() - start < o.seconds; ++i) times.push_back(steps.run(i));
    std::sort(times.begin(), times.end());
    outcome.cost = Cost{times[times.size() / 2], memory_stats(device).peak_bytes};
    return outcome;
  } catch (const Error& e) {
    // The driver's own words where it is not the allocator that ran out.
    outcome.why = e.what();
    outcome.full = dynamic_cast<const OutOfMemory*>(&e) || outcome.why.find("out of memory") != std::string::npos;
    if (outcome.full) outcome.why = "out of memory";
  }
  Tape::current().clear();
  model.arena().zero_grad();
  return outcome;
}
