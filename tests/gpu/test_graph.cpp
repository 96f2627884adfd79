// CUDA graphs: a replayed training step and a replayed decoding step against the eager ones.
#include <cmath>

#include "autograd/ops/loss.h"
#include "autograd/tape.h"
#include "gpu/gpu.h"
#include "nn/decoder.h"
#include "nn/generate.h"
#include "nn/train_step.h"
#include "support.h"

using namespace rw;

namespace {

using test::kGpu;

ModelConfig small(int64_t heads = 4, int64_t kv_heads = 2, int64_t head_dim = 16) {
  ModelConfig c;
  c.vocab_size = 512, c.hidden_size = 64, c.intermediate_size = 176, c.num_hidden_layers = 2;
  c.num_attention_heads = heads, c.num_key_value_heads = kv_heads, c.head_dim = head_dim;
  c.tie_word_embeddings = false;
  c.rope.max_position_embeddings = 64;
  return c;
}

/// Ids, targets with a few unscored tokens, and positions that jump: different at every step.
StepInput input(int64_t batch, int64_t length, uint64_t step) {
  Random random(5, Purpose::test, step);
  StepInput in;
  in.ids = Tensor::empty({batch, length}, DType::i32);
  in.targets = Tensor::empty({batch, length}, DType::i32);
  in.positions = Tensor::empty({batch, length});
  for (int64_t b = 0; b < batch; ++b) {
    int64_t position = random.below(20);
    for (int64_t t = 0; t < length; ++t) {
      in.ids.data<int32_t>()[b * length + t] = static_cast<int32_t>(random.below(512));
      const bool scored = random.below(8) != 0;
      in.targets.data<int32_t>()[b * length + t] = scored ? static_cast<int32_t>(random.below(512)) : kIgnoreIndex;
      in.scored += scored;
      in.positions.data<float>()[b * length + t] = static_cast<float>(position);
      position += 1 + (random.below(10) == 0 ? random.below(30) : 0);
    }
  }
  in.context = {.length = 512, .training = true};
  return in;
}

const auto kSteps = static_cast<uint64_t>(test::repetitions(12, 3));

struct Run {
  std::vector<double> losses, norms, weights;
  int64_t replays = 0;
};

ModelConfig small_clex() {
  ModelConfig config = small();
  config.rope = rope_config_from_json(
      R"({"max_position_embeddings":64,"head_dim":16,"rope_scaling":{"rope_type":"clex","max_factor":8}})");
  return config;
}

/// CLEX, its down-projection not zero: with it the gradient of the other would be.
void learn_frequencies(CausalLm& model) {
  const ParamArena& arena = model.arena();
  const size_t down = arena.index_of("model.rotary_emb.ode_down_proj");
  arena.set_values(down, test::randn(arena.segments()[down].spec.shape, 4, DType::f32, 0.02));
  arena.refresh();
}

/// `clex`: with learned frequencies and several t in a batch; in the third update every t is 1.
Run train(DType dtype, bool graph, bool recompute = false, ArenaMemory memory = {}, bool clex = false) {
  CausalLm model(clex ? small_clex() : small(), dtype, kGpu, 3, memory);
  if (clex) learn_frequencies(model);
  AdamW optimizer(model.arena(), {.weight_decay = 0.1});
  model.enable_grad();
  model.set_recompute(recompute);
  TrainStep step(model, optimizer, graph);
  Run run;
  const auto look = [&] {
    const StepResult r = step.result();
    run.losses.push_back(r.loss);
    run.norms.push_back(r.grad_norm);
  };
  for (uint64_t s = 0; s < kSteps; ++s) {
    for (uint64_t micro = 0; micro < 2; ++micro) {
      StepInput in = input(3, s < 2 * kSteps / 3 ? 40 : 24, 2 * s + micro);  // another shape in the middle
      for (uint64_t b = 0; clex && b < 3; ++b) {
        in.t.push_back(s == 2 ? 1.0 : 1 + static_cast<double>((3 * s + 2 * micro + b) % 5) * 1.25);
      }
      step.add(in);
      run.replays += step.replayed();
    }
    step.update(1e-3, 1.0);
    // Memory that others take between steps must not be the graph's.
    const Tensor other = Tensor::full({1 << 16}, 1e30, DType::f32, kGpu);
    if (step.pending() > 1) look();
  }
  look();
  for (size_t i = 0; i < model.arena().size(); ++i) {
    const std::vector<double> values = model.arena().values_of(i).to_vector();
    run.weights.insert(run.weights.end(), values.begin(), values.end());
  }
  return run;
}

}  // namespace

TEST_CASE("a training step as a CUDA graph equals the eager one bit for bit, with accumulation and changing shapes") {
  if (!test::has_gpu()) return;
  for (const DType dtype : {DType::f32, DType::bf16}) {
    for (const bool recompute : {false, true}) {
      CAPTURE(dtype);
      CAPTURE(recompute);
      const Run eager = train(dtype, false, recompute), graph = train(dtype, true, recompute);
      CHECK(eager.replays == 0);
      CHECK(graph.replays == static_cast<int64_t>(2 * kSteps) - 2);  // all but the first micro-batch of each shape
      CHECK(graph.losses == eager.losses);
      CHECK(graph.norms == eager.norms);
      CHECK(graph.weights == eager.weights);
      CHECK(eager.losses.size() == kSteps);
    }
  }
}

TEST_CASE("a replayed step with split masters and bf16 gradients equals the eager one bit for bit") {
  if (!test::has_gpu()) return;
  const Run eager = train(DType::bf16, false, false, ArenaMemory::small_state()),
            graph = train(DType::bf16, true, false, ArenaMemory::small_state());
  CHECK(graph.replays == static_cast<int64_t>(2 * kSteps) - 2);
  CHECK(graph.losses == eager.losses);
  CHECK(graph.norms == eager.norms);
  CHECK(graph.weights == eager.weights);
}

TEST_CASE("a replayed step with learned frequencies equals the one whose tape goes through their ODE, bit for bit") {
  if (!test::has_gpu()) return;
  for (const DType dtype : {DType::f32, DType::bf16}) {
    for (const bool recompute : {false, true}) {
      CAPTURE(dtype);
      CAPTURE(recompute);
      const Run tape = train(dtype, false, recompute, {}, true), graph = train(dtype, true, recompute, {}, true);
      CHECK(tape.replays == 0);
      CHECK(graph.replays == static_cast<int64_t>(2 * kSteps) - 2);
      CHECK(graph.losses == tape.losses);
      CHECK(graph.norms == tape.norms);
      CHECK(graph.weights == tape.weights);
    }
  }
}

TEST_CASE("learned frequencies follow weights that were changed between steps, and both of their matrices learn") {
  if (!test::has_gpu()) return;
  const auto matrices = [](const CausalLm& model) {
    std::vector<double> all;
    for (size_t i = model.rope_parameters(); i < model.arena().size(); ++i) {
      const std::vector<double> values = model.arena().values_of(i).to_vector();
      all.insert(all.end(), values.begin(), values.end());
    }
    return all;
  };
  std::vector<std::vector<double>> learned;
  std::vector<double> losses;
  for (const bool graph : {false, true}) {
    CausalLm model(small_clex(), DType::f32, kGpu, 3);
    AdamW optimizer(model.arena(), {});
    model.enable_grad();
    TrainStep step(model, optimizer, graph);
    for (uint64_t s = 0; s < 4; ++s) {
      if (s == 2) learn_frequencies(model);
      StepInput in = input(3, 40, s);
      in.t = {2.5, 1, 7};
      step.add(in);
      CHECK(step.replayed() == (graph && s > 0));
      step.update(1e-3, 1.0);
      losses.push_back(step.result().loss);
    }
    learned.push_back(matrices(model));
    const std::vector<double> before = learned.back();
    StepInput in = input(3, 40, 4);
    in.t = {2.5, 1, 7};
    step.add(in);
    step.update(1e-3, 1.0);
    const std::vector<double> after = matrices(model);
    int64_t moved = 0;
    for (size_t i = 0; i < after.size(); ++i) moved += after[i] != before[i];
    CHECK(moved > static_cast<int64_t>(after.size()) * 3 / 4);
  }
  CHECK(learned[0] == learned[1]);
  CHECK(std::vector<double>(losses.begin(), losses.begin() + 4) ==
        std::vector<double>(losses.begin() + 4, losses.end()));
}

TEST_CASE("a steady replayed step takes no memory from the system and leaves none behind") {
  if (!test::has_gpu()) return;
  CausalLm model(small(), DType::bf16, kGpu, 3);
  AdamW optimizer(model.arena(), {});
  model.enable_grad();
  TrainStep step(model, optimizer);
  const auto once = [&](uint64_t s) {
    step.add(input(2, 32, s));
    step.update(1e-3, 1.0);
    return step.result().loss;
  };
  for (uint64_t s = 0; s < 4; ++s) once(s);
  const MemoryStats before = memory_stats(kGpu);
  for (uint64_t s = 4; s < 10; ++s) once(s);
  const MemoryStats after = memory_stats(kGpu);
  CHECK(after.system_allocations == before.system_allocations);
  CHECK(after.live_bytes == before.live_bytes);
}

TEST_CASE("the GPU decoder gives the logits of the whole forward for every head dim and grouping") {
  if (!test::has_gpu()) return;
  struct Case {
    int64_t heads, kv_heads, head_dim;
    const char* scaling;
    RopeLayout layout;
  };
  for (const Case& k :
       std::vector<Case>{{4, 4, 16, R"({"rope_type":"default"})", RopeLayout::half},
                         {8, 1, 48, R"({"rope_type":"yarn","factor":4.0})", RopeLayout::half},
                         {6, 2, 64, R"({"rope_type":"default","logn_scaling":"position"})", RopeLayout::half},
                         {10, 2, 128, R"({"rope_type":"linear","factor":4.0})", RopeLayout::interleaved},
                         {3, 3, 256, R"({"rope_type":"default"})", RopeLayout::half},
                         // So many heads that a split of the cache is several steps of its block.
                         {66, 66, 16, R"({"rope_type":"default"})", RopeLayout::half}}) {
    for (const DType dtype : {DType::f32, DType::bf16}) {
      ModelConfig c = small(k.heads, k.kv_heads, k.head_dim);
      c.rope_layout = k.layout;
      c.rope = rope_config_from_json(
          cat(R"({"max_position_embeddings":64,"head_dim":)", k.head_dim, R"(,"rope_scaling":)", k.scaling, "}"));
      CausalLm model(c, dtype, kGpu, 3);
      const int64_t total = test::repetitions(1100, 80);  // three splits of the cache in the end
      const int64_t first = test::repetitions(9, total - 4);
      const Tensor ids = input(1, total, 9).ids;
      const NoGrad no_grad;
      const Tensor want =
          model.logits(model.forward(ids.to(kGpu), model.angles(model.plain_positions(0, total), {.length = total})))
              .value()
              .to(kCpu)
              .to(DType::f32)
              .view({total, 512});
      KvCache cache = model.make_cache(1, total);
      model.extend(ids.view({total}).slice(0, first).view({1, first}).to(kGpu), cache);
      REQUIRE(Decoder::supports(model, cache));
      const auto decoder = Decoder::make(model, cache);
      double worst = 0;
      for (int64_t t = first; t < total; ++t) {
        const std::vector<float>& got = decoder->step(ids.data<int32_t>()[t]);
        worst = std::max(
            worst, test::relative_error(std::vector<double>(got.begin(), got.end()), want.slice(t, t + 1).to_vector()));
      }
      CAPTURE(k.head_dim);
      CAPTURE(dtype);
      CHECK(worst < (dtype == DType::f32 ? 1e-4 : 0.04));
    }
  }
}

TEST_CASE("greedy decoding runs ahead on the GPU, and begins anew when another token is asked for") {
  if (!test::has_gpu()) return;
  CausalLm model(small(), DType::bf16, kGpu, 3);
  const auto by_step = [&](bool other) {
    KvCache cache = model.make_cache(1, 64);
    model.extend(Tensor::from(std::vector<int32_t>{1, 2, 3}, {1, 3}).to(kGpu), cache);
    const auto decoder = Decoder::make(model, cache);
    std::vector<int32_t> out{7};
    while (cache.length < 64) {
      const std::vector<float>& logits = decoder->step(out.back());
      out.push_back(static_cast<int32_t>(std::max_element(logits.begin(), logits.end()) - logits.begin()));
      if (other && cache.length % 9 == 0) out.back() = 11;
    }
    return out;
  };
  const auto ahead = [&](bool other) {
    KvCache cache = model.make_cache(1, 64);
    model.extend(Tensor::from(std::vector<int32_t>{1, 2, 3}, {1, 3}).to(kGpu), cache);
    const auto decoder = Decoder::make(model, cache);
    std::vector<int32_t> out{7};
    while (cache.length < 64) {
      out.push_back(decoder->greedy(out.back()));
      if (other && cache.length % 9 == 0) out.back() = 11;
    }
    CHECK_THROWS_WITH_AS(decoder->greedy(1), doctest::Contains("full"), Error);
    return out;
  };
  CHECK(ahead(false) == by_step(false));
  CHECK(ahead(true) == by_step(true));
}
