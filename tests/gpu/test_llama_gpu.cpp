// The whole model on the GPU: reference values, and training against the CPU.
#include <cmath>

#include "autograd/ops/loss.h"
#include "autograd/tape.h"
#include "gpu/gpu.h"
#include "models.h"
#include "nn/adamw.h"
#include "nn/causal_lm.h"
#include "nn/generate.h"
#include "nn/io/hf.h"
#include "support.h"

using namespace rw;

namespace {

using test::kGpu;

std::vector<double> train(DType dtype, Device device, int64_t steps, bool recompute = false, ArenaMemory memory = {}) {
  CausalLm model(test::golden_config(), dtype, device, 3, memory);
  AdamW optimizer(model.arena(), {.weight_decay = 0.1});
  model.enable_grad();
  model.set_recompute(recompute);
  std::vector<double> losses;
  for (int64_t step = 0; step < steps; ++step) {
    const Tensor ids = test::learnable(4, 48, static_cast<uint64_t>(step), 512), targets = test::next_tokens(ids);
    const double n = 4 * 47;
    const Var loss = model.loss(ids.to(device), targets.to(device), model.angles(model.plain_positions(0, 48), {}));
    losses.push_back(loss.item() / n);
    backward(loss);
    optimizer.step(2e-3, 1 / n, 1.0);
  }
  return losses;
}

}  // namespace

TEST_CASE("the reference LLaMA on the GPU in f32: logits, loss and all gradients") {
  if (!test::has_gpu()) return;
  const SafetensorsFile& g = test::golden("golden_llama");
  CausalLm model(test::golden_config(), DType::f32, kGpu, std::nullopt);
  assign_weights(model, [&](const std::string& name) { return g.load("weights/" + name); });
  model.enable_grad();
  const Tensor ids = g.load("base/input_ids").to(kGpu), targets = test::next_tokens(g.load("base/labels")).to(kGpu);
  const RopeAngles angles = model.angles(g.load("base/position_ids").to(DType::f32), {});
  {
    const NoGrad no_grad;
    CHECK(test::relative_error(model.logits(model.forward(ids, angles)).value(), g.load("base64/logits")) < 1e-5);
  }
  double n = 0;
  for (double t : targets.to_vector()) n += t != kIgnoreIndex;
  const Var loss = model.loss(ids, targets, angles);
  CHECK(std::abs(loss.item() / n - g.load("base64/loss").item()) < 1e-5);
  backward(loss, Tensor::full({1}, 1 / n, DType::f32, kGpu));
  for (size_t i = 0; i < model.arena().size(); ++i) {
    const std::string name = model.arena().segments()[i].spec.name;
    CAPTURE(name);
    CHECK(test::relative_error(model.arena()[i].grad(), g.load("base64/grad." + name)) < 2e-5);
  }
}

TEST_CASE("200 steps on the GPU follow the CPU's losses in f32, and bf16 stays within one percent") {
  if (!test::has_gpu()) return;
  const int64_t steps = test::repetitions(200, 4);
  const std::vector<double> cpu = train(DType::f32, kCpu, steps), gpu = train(DType::f32, kGpu, steps),
                            bf16 = train(DType::bf16, kGpu, steps);
  double worst = 0;
  for (size_t i = 0; i < cpu.size(); ++i) worst = std::max(worst, std::abs(cpu[i] - gpu[i]));
  CHECK(cpu.back() < (steps < 200 ? 0.999 : 0.8) * cpu.front());
  CHECK(worst < 1e-3);
  CHECK(std::abs(bf16.back() - gpu.back()) < 0.01 * gpu.back());
  CHECK(gpu == train(DType::f32, kGpu, steps));
  CHECK(bf16 == train(DType::bf16, kGpu, steps, true));  // recomputation changes nothing
}

TEST_CASE("200 steps with split masters, and with bf16 gradients too, stay within one percent on the GPU") {
  if (!test::has_gpu()) return;
  const int64_t steps = test::repetitions(200, 4);
  const auto end_of = [&](ArenaMemory memory, bool recompute = false) {
    const std::vector<double> losses = train(DType::bf16, kGpu, steps, recompute, memory);
    const int64_t last = std::min<int64_t>(steps, 20);
    double sum = 0;
    for (int64_t i = steps - last; i < steps; ++i) sum += losses[static_cast<size_t>(i)];
    return sum / static_cast<double>(last);
  };
  const double plain = end_of({}), small = end_of(ArenaMemory::small_state());
  CHECK(std::abs(end_of({.split_master = true}) - plain) < 0.01 * plain);
  CHECK(std::abs(small - plain) < 0.01 * plain);
  CHECK(end_of(ArenaMemory::small_state()) == small);        // repeats
  CHECK(end_of(ArenaMemory::small_state(), true) == small);  // recomputation changes nothing
}

TEST_CASE("generation over a KV cache on the GPU equals the whole forward") {
  if (!test::has_gpu()) return;
  for (const std::string scaling : {R"(null)", R"({"rope_type":"dynamic","factor":2.0})",
                                    R"({"rope_type":"yarn","factor":4.0,"original_max_position_embeddings":16})"}) {
    ModelConfig c = test::golden_config();
    c.rope = rope_config_from_json(cat(R"({"head_dim":16,"max_position_embeddings":16,"rope_scaling":)", scaling, "}"));
    CausalLm model(c, DType::f32, kGpu, 3);
    const Tensor ids = test::learnable(1, 40, 1, 512).to(kGpu);
    const NoGrad no_grad;
    const Tensor want = model.forward(ids, model.angles(model.plain_positions(0, 40), {.length = 40}))
                            .value()
                            .view({40, 64})
                            .slice(39, 40);
    KvCache cache = model.make_cache(1, 40);
    model.extend(ids.view({40}).slice(0, 9).view({1, 9}), cache);
    Tensor last;
    for (int64_t t = 9; t < 40; ++t) last = model.extend(ids.view({40}).slice(t, t + 1).view({1, 1}), cache);
    CAPTURE(scaling);
    CHECK(test::relative_error(last.view({1, 64}), want) < 1e-4);
  }
}

TEST_CASE("running out of device memory names the tag and leaves the process usable") {
  if (!test::has_gpu()) return;
  const MemoryTag tag("too-large");
  std::string message;
  try {
    Tensor::empty({int64_t{1} << 50}, DType::f32, kGpu);
  } catch (const OutOfMemory& e) {
    message = e.what();
  }
  CHECK(message.find("too-large") != std::string::npos);
  CHECK(train(DType::f32, kGpu, 2).size() == 2);
}
