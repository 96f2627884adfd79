// Host memory beside the card's, and AdamW's moments in fewer bits on it.
#include <bit>
#include <cmath>
#include <iterator>

#include "autograd/ops/loss.h"
#include "autograd/recompute.h"
#include "gpu/gpu.h"
#include "models.h"
#include "nn/memory_plan.h"
#include "nn/train_step.h"
#include "tensor/host_copy.h"

using namespace rw;
using test::kGpu;

namespace {

ModelConfig shape() {
  ModelConfig c = test::golden_config();
  c.num_hidden_layers = 4;
  return c;
}

StepInput input_of(uint64_t draw, int64_t length) {
  Random random(3, Purpose::test, draw);
  const Tensor ids = Tensor::empty({2, length}, DType::i32), positions = Tensor::empty({1, length});
  for (int64_t i = 0; i < ids.numel(); ++i) ids.data<int32_t>()[i] = static_cast<int32_t>(random.below(512));
  for (int64_t i = 0; i < length; ++i) positions.data<float>()[i] = static_cast<float>(i);
  return {ids, test::next_tokens(ids), positions, {.length = length, .training = true}, {}, 2 * (length - 1)};
}

struct Trained {
  std::vector<double> weights, losses, norms;
  int64_t replays = 0;
};

/// Steps of two micro-batches, the last ones of another length.
Trained train(DType dtype, const MemoryChoice& choice, bool graph, ArenaMemory arena = {}, int64_t steps = 6,
              Device device = kGpu) {
  arena.host_state = choice.offload_optimizer;
  CausalLm model(shape(), dtype, device, 1, arena);
  AdamW optimizer(model.arena(), {.weight_decay = 0.1});
  model.enable_grad();
  model.set_recompute(choice.recompute,
                      {.inputs_on_host = choice.offload_activations, .keep_attention = choice.keep_attention});
  model.set_mlp_tile(choice.mlp_tile);
  model.set_linear({.recompute_input = choice.recompute_inputs});
  TrainStep step(model, optimizer, graph);
  Trained out;
  for (int64_t i = 0; i < steps; ++i) {
    for (uint64_t micro = 0; micro < 2; ++micro) {
      step.add(input_of(2 * static_cast<uint64_t>(i) + micro, i < steps - 2 ? 40 : 24), micro == 1);
      out.replays += step.replayed();
    }
    step.update(1e-2, 0.5);
    const StepResult r = step.result();
    out.losses.push_back(r.loss), out.norms.push_back(r.grad_norm);
  }
  for (size_t i = 0; i < model.arena().size(); ++i) {
    const std::vector<double> values = model.arena()[i].value().to_vector();  // what is computed with
    out.weights.insert(out.weights.end(), values.begin(), values.end());
  }
  return out;
}

}  // namespace

TEST_CASE("copies to and from pinned memory come after what makes their source and before what reads their target") {
  if (!test::has_gpu()) return;
  const auto copies = make_host_copies(kGpu);
  const Tensor host = host_tensor({1 << 22}, DType::f32, kGpu);
  CHECK(!host.is_cuda());
  for (int round = 0; round < 20; ++round) {
    const Tensor x = Tensor::full({1 << 22}, round, DType::f32, kGpu);
    const int64_t out = copies->start(x, host);
    copies->join(out);
    x.fill(-1);
    const Tensor back = Tensor::empty({1 << 22}, DType::f32, kGpu);
    copies->join(copies->start(host, back));
    const Tensor sum = back.clone();
    CHECK(sum.slice(0, 1).item() == round);
    CHECK(sum.slice((1 << 22) - 1, 1 << 22).item() == round);
  }
  CHECK_THROWS_AS(copies->start(host, host_tensor({1 << 22}, DType::f32, kGpu)), Error);
}

TEST_CASE(
    "on a GPU inputs of blocks on the host and outputs of attention that are kept change no bit, eager or as a graph") {
  if (!test::has_gpu()) return;
  for (const DType dtype : {DType::f32, DType::bf16}) {
    const Trained plain = train(dtype, {}, false);
    for (const bool graph : {false, true}) {
      CHECK(train(dtype, {.recompute_inputs = true}, graph).weights == plain.weights);
      for (const bool offload : {false, true}) {
        CAPTURE(dtype);
        CAPTURE(graph);
        CAPTURE(offload);
        for (const bool keep : {false, true}) {
          CAPTURE(keep);
          const Trained other =
              train(dtype, {.recompute = true, .offload_activations = offload, .keep_attention = keep}, graph);
          CHECK(other.weights == plain.weights);
          CHECK(other.losses == plain.losses);
          CHECK((other.replays > 0) == graph);
        }
      }
    }
  }
}

TEST_CASE("on a GPU the optimizer on the host trains the same model, and as a graph the same bits") {
  if (!test::has_gpu()) return;
  for (const DType dtype : {DType::f32, DType::bf16}) {
    const Trained plain = train(dtype, {}, false, {}, 3);
    for (const bool all : {false, true}) {
      const MemoryChoice choice{.recompute = all, .offload_activations = all, .offload_optimizer = true};
      const Trained eager = train(dtype, choice, false, {}, 3), graph = train(dtype, choice, true, {}, 3);
      CHECK(graph.weights == eager.weights);
      CHECK(graph.losses == eager.losses);
      // AdamW of the CPU and of the GPU differ by roundings; a copy in bf16 by one of its own. After one step alone:
      // from then on gradients differ, too, and AdamW makes whole steps of those that are nearly zero.
      const Trained first = train(dtype, choice, false, {}, 1), plain_first = train(dtype, {}, false, {}, 1);
      CHECK(test::relative_error(first.weights, plain_first.weights) < (dtype == DType::f32 ? 2e-6 : 0x1p-8));
      CHECK(test::relative_error(eager.losses, plain.losses) < (dtype == DType::f32 ? 2e-6 : 5e-3));
    }
    const Trained half = train(DType::bf16, {.offload_optimizer = true}, true, {.bf16_gradients = true}, 3);
    CHECK(std::isfinite(half.losses.back()));
  }
}

TEST_CASE("on a GPU moments in fewer bits begin as f32's do, repeat, and stay within their steps of them") {
  if (!test::has_gpu()) return;
  constexpr int64_t kCount = 5003;
  const cuda::AdamWTable table = cuda::adamw_table({{0, 1.f, 1.f}}, kCount, kGpu);
  const Tensor scalars = Tensor::empty({cuda::kAdamWScalars}, DType::f32, kGpu),
               norm = Tensor::empty({1}, DType::f64, kGpu);
  const auto run = [&](MomentFormat format, int steps) {
    const int64_t blocks = (kCount + 63) / 64;
    const bool codes = format == MomentFormat::int8;
    const DType dtype = codes ? DType::i32 : format == MomentFormat::bf16 ? DType::bf16 : DType::f32;
    const Shape flat{codes ? blocks * 16 : kCount};
    cuda::AdamWMoments kept{Tensor::zeros(flat, dtype, kGpu), Tensor::zeros(flat, dtype, kGpu)};
    if (codes) kept.m_scales = Tensor::zeros({blocks}, DType::f32, kGpu);
    if (codes) kept.v_scales = Tensor::zeros({blocks}, DType::f32, kGpu);
    const Tensor master = test::randn({kCount}, 1, DType::f32).to(kGpu);
    for (int step = 1; step <= steps; ++step) {
      const Tensor grad = test::randn({kCount}, 10 + static_cast<uint64_t>(step), DType::f32).to(kGpu);
      cuda::squared_norm(grad, norm);
      cuda::set_adamw_scalars({.lr = 1e-2f, .draw = moment_draw(step)}, scalars);
      cuda::adamw(master, grad, kept, Tensor(), table, scalars, norm);
      CHECK(grad.to_vector() == std::vector<double>(kCount, 0.0));
    }
    return std::pair{master.to(kCpu), kept};
  };
  for (const MomentFormat format : {MomentFormat::bf16, MomentFormat::int8}) {
    CHECK(test::same_bits(run(format, 1).first, run(MomentFormat::f32, 1).first));
    CHECK(test::same_bits(run(format, 3).first, run(format, 3).first));
    CHECK(test::relative_error(run(format, 3).first, run(MomentFormat::f32, 3).first) < 5e-3);
  }
  const auto [master, kept] = run(MomentFormat::int8, 1);
  const auto [same, whole] = run(MomentFormat::f32, 1);
  const Tensor m = kept.m.to(kCpu), v = kept.v.to(kCpu), want_m = whole.m.to(kCpu), want_v = whole.v.to(kCpu);
  const Tensor m_scales = kept.m_scales.to(kCpu), v_scales = kept.v_scales.to(kCpu);
  int64_t wrong = 0;
  for (int64_t i = 0; i < kCount; ++i) {
    // Of m a step is s / 127. Of v it is 1/16 of the power of two at or below it; a smaller one than the least is that.
    const float scale = m_scales.data<float>()[i / 64], top = v_scales.data<float>()[i / 64];
    const float got_m = static_cast<float>(static_cast<const int8_t*>(m.raw())[i]) * scale / 127.f;
    wrong += std::abs(got_m - want_m.data<float>()[i]) > scale / 127.f * (1 + 0x1p-20f);
    const int32_t base = square_base(std::bit_cast<uint32_t>(top));
    const float got_v = std::bit_cast<float>(square_bits(static_cast<const uint8_t*>(v.raw())[i], base));
    const float least = std::bit_cast<float>(square_bits(1, base)), exact = want_v.data<float>()[i];
    if (exact == 0) wrong += got_v != 0;
    else if (exact < least) wrong += got_v != least;
    else wrong += std::abs(got_v - exact) > std::ldexp(1.f, std::ilogb(exact) - 4);
  }
  CHECK(wrong == 0);
}

TEST_CASE("on a GPU a step under a limit of its plan runs, with the optimizer and the inputs on the host, too") {
  if (!test::has_gpu()) return;
  ModelConfig config = shape();
  config.vocab_size = 256, config.hidden_size = 256, config.intermediate_size = 768, config.head_dim = 64;
  for (const bool host : {false, true}) {
    MemoryTask task{.model = config,
                    .compute = DType::bf16,
                    .cuda = true,
                    .batch = 2,
                    .length = 2048,
                    .choice = {host, host ? 512 : 0, host, host}};
    const int64_t bytes = plan_memory(task).bytes;
    const auto step_once = [&](int64_t limit) {
      release_cached_memory(kGpu);
      const int64_t base = memory_stats(kGpu).live_bytes;
      set_memory_limit(base + limit, kGpu);
      reset_peak_memory(kGpu);
      CausalLm model(config, DType::bf16, kGpu, 1, {.host_state = host});
      AdamW optimizer(model.arena(), {});
      model.enable_grad();
      model.set_recompute(task.choice.recompute, {.inputs_on_host = task.choice.offload_activations,
                                                  .keep_attention = task.choice.keep_attention});
      model.set_mlp_tile(task.choice.mlp_tile);
      TrainStep step(model, optimizer, /*graph=*/false);
      for (uint64_t i = 0; i < 2; ++i) {
        StepInput in = input_of(i, 2048);
        for (int64_t k = 0; k < in.ids.numel(); ++k)
          in.ids.data<int32_t>()[k] %= 256, in.targets.data<int32_t>()[k] = 1;
        in.scored = in.ids.numel();
        step.add(in, true);
        step.update(1e-3, 1);
        step.result();
      }
      const int64_t peak = memory_stats(kGpu).peak_bytes - base;
      INFO("planned ", bytes, ", measured ", peak);
      CHECK(peak <= limit);
      MESSAGE("on the host: ", host, ", planned ", bytes, ", measured ", peak);
    };
    step_once(bytes + bytes / 4);
    CHECK_THROWS_AS(step_once(bytes / 2), OutOfMemory);
    set_memory_limit(0, kGpu);
  }
}
