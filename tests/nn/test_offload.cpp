// What is kept in host memory, and moments in fewer bits: the same training as without, or close to it. Where the
// device is the CPU, its own memory stands for the host's.
#include <algorithm>
#include <cmath>

#include "autograd/ops/loss.h"
#include "autograd/recompute.h"
#include "autograd/tape.h"
#include "models.h"
#include "nn/io/checkpoint.h"
#include "nn/memory_plan.h"
#include "nn/train_step.h"

using namespace rw;

namespace {

bool same_bits(const Tensor& a, const Tensor& b) {
  return a.shape() == b.shape() && a.dtype() == b.dtype() &&
         std::memcmp(a.raw(), b.raw(), static_cast<size_t>(a.bytes())) == 0;
}

ModelConfig shape() {
  ModelConfig c = test::golden_config();
  c.num_hidden_layers = 4;
  return c;
}

StepInput input_of(const ModelConfig& c, uint64_t draw, int64_t batch = 2, int64_t length = 24) {
  Random random(3, Purpose::test, draw);
  const Tensor ids = Tensor::empty({batch, length}, DType::i32), positions = Tensor::empty({1, length});
  for (int64_t i = 0; i < ids.numel(); ++i) ids.data<int32_t>()[i] = static_cast<int32_t>(random.below(c.vocab_size));
  for (int64_t i = 0; i < length; ++i) positions.data<float>()[i] = static_cast<float>(i);
  return {ids, test::next_tokens(ids), positions, {.length = length, .training = true}, {}, batch * (length - 1)};
}

struct Trained {
  Tensor master, m, v, compute;
  std::vector<double> norms, losses;
};

struct Setting {
  DType dtype = DType::f32;
  ArenaMemory arena = {};
  MemoryChoice choice = {};
  ModelConfig model = shape();
  bool last = true;  // TrainStep is told that a micro-batch is the last of its step
};

/// Steps of two micro-batches each.
Trained train(const Setting& s, int64_t steps = 3) {
  ArenaMemory arena = s.arena;
  arena.host_state = s.choice.offload_optimizer;
  CausalLm model(s.model, s.dtype, kCpu, 1, arena);
  AdamW optimizer(model.arena(), {.weight_decay = 0.1});
  model.enable_grad();
  model.set_recompute(s.choice.recompute,
                      {.inputs_on_host = s.choice.offload_activations, .keep_attention = s.choice.keep_attention});
  model.set_mlp_tile(s.choice.mlp_tile);
  model.set_linear({.recompute_input = s.choice.recompute_inputs});
  TrainStep step(model, optimizer);
  Trained out;
  for (int64_t i = 0; i < steps; ++i) {
    for (uint64_t micro = 0; micro < 2; ++micro)
      step.add(input_of(s.model, 2 * static_cast<uint64_t>(i) + micro), s.last && micro == 1);
    step.update(1e-2, 0.5);
    const StepResult r = step.result();
    out.norms.push_back(r.grad_norm);
    out.losses.push_back(r.loss);
  }
  out.master = model.arena().master().clone();
  out.m = model.arena().m().clone(), out.v = model.arena().v().clone();
  out.compute = model.arena().compute().clone();
  return out;
}

/// All that the planner can choose, on a GPU.
std::vector<MemoryChoice> all_choices() {
  std::vector<MemoryChoice> out;
  for (const bool optimizer : {false, true}) {
    for (const auto& [recompute, inputs, keep] :
         {std::tuple{false, false, false}, std::tuple{true, false, false}, std::tuple{true, true, false},
          std::tuple{true, false, true}, std::tuple{true, true, true}}) {
      for (const int64_t tile : {0, 16}) out.push_back({recompute, tile, inputs, optimizer, keep});
    }
    out.push_back({.offload_optimizer = optimizer, .recompute_inputs = true});
  }
  return out;
}

}  // namespace

TEST_CASE("every choice of the planner trains the same model: bit for bit, or by gradients within 1e-6 with tiles") {
  ModelConfig tied = shape();
  tied.tie_word_embeddings = true;
  for (const ModelConfig& config : {shape(), tied}) {
    const Trained plain = train({.model = config}), one_step = train({.model = config}, 1);
    for (const MemoryChoice& choice : all_choices()) {
      CAPTURE(choice.recompute);
      CAPTURE(choice.mlp_tile);
      CAPTURE(choice.offload_activations);
      CAPTURE(choice.keep_attention);
      CAPTURE(choice.recompute_inputs);
      CAPTURE(choice.offload_optimizer);
      if (choice.mlp_tile == 0) {
        const Trained other = train({.choice = choice, .model = config});
        CHECK(same_bits(other.master, plain.master));
        CHECK(same_bits(other.m, plain.m));
        CHECK(same_bits(other.v, plain.v));
        CHECK(same_bits(other.compute, plain.compute));
        CHECK(other.norms == plain.norms);
        CHECK(other.losses == plain.losses);
      } else {
        const Trained other = train({.choice = choice, .model = config}, 1);
        CHECK(test::relative_error(other.m, one_step.m) < 1e-6);  // the gradient, times 1 - beta1
        CHECK(test::relative_error(other.losses, one_step.losses) < 1e-6);
      }
    }
  }
}

TEST_CASE("in bf16 the optimizer on the host and inputs on the host change no bit") {
  for (const bool half : {false, true}) {
    const ArenaMemory arena{.bf16_gradients = half};
    const Trained plain = train({.dtype = DType::bf16, .arena = arena});
    for (const MemoryChoice& choice : all_choices()) {
      if (choice.mlp_tile > 0) continue;
      CAPTURE(half);
      CAPTURE(choice.recompute);
      CAPTURE(choice.offload_activations);
      CAPTURE(choice.keep_attention);
      CAPTURE(choice.recompute_inputs);
      CAPTURE(choice.offload_optimizer);
      const Trained other = train({.dtype = DType::bf16, .arena = arena, .choice = choice});
      CHECK(same_bits(other.master, plain.master));
      CHECK(same_bits(other.compute, plain.compute));
    }
  }
}

TEST_CASE("gradients reach the host also where no micro-batch is said to be the last") {
  const MemoryChoice host{.offload_optimizer = true};
  CHECK(same_bits(train({.choice = host, .last = false}).master, train({}).master));
}

TEST_CASE("recomputed blocks with norms after, side by side or of LayerNorm keep every bit") {
  std::vector<ModelConfig> configs(3, shape());
  configs[0].block.norm = NormKind::layer;
  configs[1].block.parallel = true;
  configs[2].block.norm_place = NormPlace::after;
  for (const ModelConfig& config : configs) {
    for (const DType dtype : {DType::f32, DType::bf16}) {
      const Trained plain = train({.dtype = dtype, .model = config});
      for (const bool offload : {false, true}) {
        const MemoryChoice choice{.recompute = true, .offload_activations = offload, .keep_attention = offload};
        CAPTURE(dtype);
        CAPTURE(static_cast<int>(config.block.norm_place));
        CAPTURE(config.block.parallel);
        CHECK(same_bits(train({.dtype = dtype, .choice = choice, .model = config}).master, plain.master));
        const MemoryChoice inputs{.recompute = offload, .recompute_inputs = true};
        CHECK(same_bits(train({.dtype = dtype, .choice = inputs, .model = config}).master, plain.master));
      }
    }
  }
}

TEST_CASE("an update that is not finite leaves the weights on the host as they were, and no gradient") {
  CausalLm model(shape(), DType::f32, kCpu, 1, {.host_state = true});
  AdamW optimizer(model.arena(), {});
  const Tensor before = model.arena().master().clone();
  model.arena().grad().fill(INFINITY);
  CHECK(!std::isfinite(optimizer.step(1e-2)));
  CHECK(same_bits(model.arena().master(), before));
  CHECK(model.arena().grad().to_vector() == std::vector<double>(static_cast<size_t>(model.arena().numel())));
}

TEST_CASE("a run with its optimizer on the host resumes bit for bit, and its checkpoint is that of one without") {
  const test::TempDir dir;
  const auto run = [&](ArenaMemory arena, const std::string& out, bool again) {
    const ModelConfig config = shape();
    auto model = std::make_unique<CausalLm>(config, DType::bf16, kCpu, 1, arena);
    auto optimizer = std::make_unique<AdamW>(model->arena(), AdamWConfig{});
    model->enable_grad();
    for (uint64_t i = 0; i < 4; ++i) {
      TrainStep step(*model, *optimizer);
      step.add(input_of(config, i), true);
      step.update(1e-2, 1);
      if (i != 1) continue;
      TrainerState state;
      state.step = 2;
      save_checkpoint(dir.path(out), *model, *optimizer, state, 0);
      if (!again) continue;
      model = std::make_unique<CausalLm>(config, DType::bf16, kCpu, 7, arena);
      optimizer = std::make_unique<AdamW>(model->arena(), AdamWConfig{});
      model->enable_grad();
      load_checkpoint(checkpoint_folder(dir.path(out), 2), *model, *optimizer);
    }
    return model->arena().master().clone();
  };
  for (const MomentFormat moments : {MomentFormat::f32, MomentFormat::bf16, MomentFormat::int8}) {
    const ArenaMemory plain{.moments = moments}, host{.host_state = true, .moments = moments};
    const std::string name = cat("m", static_cast<int>(moments));
    const Tensor straight = run(plain, name + "plain", false);
    CHECK(same_bits(run(host, name + "host", true), straight));
    CHECK(same_bits(run(plain, name + "again", true), straight));
    for (const char* file : {"model.safetensors", "optimizer.safetensors"})
      CHECK(file_checksum(checkpoint_folder(dir.path(name + "plain"), 2) + "/" + file) ==
            file_checksum(checkpoint_folder(dir.path(name + "host"), 2) + "/" + file));
  }
}

TEST_CASE("rounding a moment at random has its mean, and what is a code already stays") {
  double sum16 = 0, sum_m = 0, sum_v = 0;
  const int64_t n = 20000;
  const float m = 0.3001f, v = 1.2345e-5f, scale = 1.0f;
  const int32_t base = square_base(std::bit_cast<uint32_t>(scale));
  for (int64_t i = 0; i < n; ++i) {
    const uint32_t random = moment_bits(moment_draw(5), i);
    sum16 += std::bit_cast<float>(static_cast<uint32_t>(moment_bf16(std::bit_cast<uint32_t>(m), random)) << 16);
    sum_m += moment_code(m * 127.f / scale, random) * scale / 127.0;
    sum_v += std::bit_cast<float>(square_bits(square_code(std::bit_cast<uint32_t>(v), base, random >> 13), base));
  }
  CHECK(sum16 / n == doctest::Approx(m).epsilon(2e-4));
  CHECK(sum_m / n == doctest::Approx(m).epsilon(1e-3));
  CHECK(sum_v / n == doctest::Approx(v).epsilon(2e-3));
  for (int32_t code = 1; code < 256; ++code) {
    const uint32_t bits = square_bits(code, base);
    for (const uint32_t random : {0u, 0x7ffffu}) CHECK(square_code(bits, base, random) == code);
  }
  CHECK(square_code(0, base, ~0u) == 0);
  CHECK(square_code(1, base, 0) == 1);  // too small for the block: never zero
  for (const float edge : {-127.f, 127.f}) CHECK(moment_code(edge, 0xffff) == static_cast<int32_t>(edge));
}

TEST_CASE("the scales of a block of int8 moments are its largest ones, wherever they stand") {
  const int64_t n = 3 * kMomentBlock - 7;
  for (const int64_t largest : {int64_t{0}, int64_t{5}, kMomentBlock - 1, kMomentBlock + 33, n - 1}) {
    ParamArena arena;
    arena.add({"w", {n}, constant_init(1), false});
    arena.allocate(DType::f32, kCpu, 0, {.moments = MomentFormat::int8});
    AdamW optimizer(arena, {.beta1 = 0.5, .beta2 = 0.75});
    arena.grad().fill(0.25);
    arena.grad().data<float>()[largest] = -2;
    optimizer.step(0.1);
    for (int64_t block = 0; block < 3; ++block) {
      const float g = largest / kMomentBlock == block ? 2.f : 0.25f;  // moments start at 0
      CHECK(arena.m_scales().data<float>()[block] == 0.5f * g);
      CHECK(arena.v_scales().data<float>()[block] == 0.25f * g * g);
    }
  }
}

TEST_CASE("moments in fewer bits train nearly as well, in less memory") {
  ModelConfig config = shape();
  const auto final_loss = [&](MomentFormat moments, double beta2) {
    CausalLm model(config, DType::f32, kCpu, 1, {.moments = moments});
    AdamW optimizer(model.arena(), {.beta2 = beta2});
    model.enable_grad();
    TrainStep step(model, optimizer);
    double sum = 0;
    for (uint64_t i = 0; i < 120; ++i) {
      StepInput in = input_of(config, i, 4, 33);
      for (int64_t k = 0; k < in.ids.numel(); ++k) {  // text that can be learned: next = 3 id + 1, or anything
        int32_t* id = in.ids.data<int32_t>();
        if (k % 33 != 0 && id[k] % 8 != 0) id[k] = (3 * id[k - 1] + 1) % 512;
      }
      in.targets = test::next_tokens(in.ids);
      step.add(in, true);
      step.update(3e-3, 1);
      const double loss = step.result().loss;
      if (i >= 100) sum += loss / 20;
    }
    return sum;
  };
  for (const double beta2 : {0.95, 0.999}) {
    const double plain = final_loss(MomentFormat::f32, beta2);
    CHECK(plain < 4.5);  // of ln 512 = 6.2
    CHECK(final_loss(MomentFormat::bf16, beta2) == doctest::Approx(plain).epsilon(0.02));
    CHECK(final_loss(MomentFormat::int8, beta2) == doctest::Approx(plain).epsilon(0.05));
  }
  CausalLm few(config, DType::f32, kCpu, 1, {.moments = MomentFormat::int8});
  few.enable_grad();
  const ParamArena& a = few.arena();
  CHECK(a.m().bytes() + a.v().bytes() + a.m_scales().bytes() + a.v_scales().bytes() <= a.numel() * 2.13 + 128);
}

TEST_CASE("what does not go together with a state on the host is refused by name") {
  ModelConfig clex = shape();
  clex.rope.kind = rope_kind("clex");
  const auto error = [](const ModelConfig& c, DType dtype, ArenaMemory memory) {
    return test::error_of([&] { CausalLm(c, dtype, kCpu, 1, memory); });
  };
  CHECK(error(clex, DType::bf16, {.host_state = true}).find("cannot be on the host") != std::string::npos);
  CHECK(error(shape(), DType::bf16, {.split_master = true, .host_state = true}).find("no place") != std::string::npos);
  CHECK(error(shape(), DType::f64, {.moments = MomentFormat::int8}).find("f32 or bf16") != std::string::npos);
  CausalLm model(shape(), DType::f32, kCpu, 1);
  CHECK(test::error_of([&] { model.set_recompute(false, {.inputs_on_host = true}); }).find("recomputed") !=
        std::string::npos);
  CHECK(test::error_of([&] { model.set_recompute(false, {.keep_attention = true}); }).find("recomputed") !=
        std::string::npos);
}

TEST_CASE("inputs on the host come back in the order of backward, whatever their number") {
  for (const size_t count : {size_t{1}, size_t{2}, size_t{3}, size_t{7}}) {
    HostInputs host(kCpu);
    for (int pass = 0; pass < 2; ++pass) {
      host.start();
      for (size_t i = 0; i < count; ++i) CHECK(host.put(Tensor::full({5}, static_cast<double>(10 * pass + i))) == i);
      for (size_t i = count; i-- > 0;) CHECK(host.take(i).to_vector()[4] == static_cast<double>(10 * pass + i));
      CHECK_THROWS_WITH_AS(host.take(0), doctest::Contains("earlier pass"), Error);
    }
    CHECK(host.bytes() == static_cast<int64_t>(count - 1) * 20);
  }
}
