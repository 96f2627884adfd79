// Adapters in a model: what is trained and what it costs, that merged is unmerged, and PEFT's files.
#include <filesystem>
#include <nlohmann/json.hpp>

#include "autograd/tape.h"
#include "nn/decoder.h"
#include "nn/generate.h"
#include "nn/io/adapter.h"
#include "nn/io/checkpoint.h"
#include "nn/train_step.h"
#include "support.h"
#include "tensor/file.h"
#include "tensor/folder.h"

using namespace rw;

namespace {

ModelConfig tiny() {
  ModelConfig c;
  c.vocab_size = 50, c.hidden_size = 32, c.intermediate_size = 48, c.num_hidden_layers = 2, c.num_attention_heads = 4;
  c.num_key_value_heads = 2;
  c.rope.max_position_embeddings = 32;
  return c;
}

ModelConfig adapted(AdapterDescription a = {.rank = 4, .alpha = 8}) {
  ModelConfig c = tiny();
  c.adapter = std::move(a);
  return c;
}

StepInput input(uint64_t step, const CausalLm& model) {
  Random random(5, Purpose::test, step);
  const Tensor ids = Tensor::empty({2, 16}, DType::i32), targets = Tensor::empty({2, 16}, DType::i32);
  for (int64_t i = 0; i < 32; ++i) {
    ids.data<int32_t>()[i] = static_cast<int32_t>(random.below(50));
    targets.data<int32_t>()[i] = (ids.data<int32_t>()[i] * 7 + 3) % 50;
  }
  StepInput in{ids, targets, model.plain_positions(0, 16), {.length = 16, .training = true}, {}, 32};
  if (model.has_dropout()) in.dropout = CausalLm::DropoutDraw{.seed = 1, .draw = step};
  return in;
}

double train(CausalLm& model, AdamW& optimizer, int64_t begin, int64_t end) {
  TrainStep step(model, optimizer);
  double loss = 0;
  for (int64_t s = begin; s < end; ++s) {
    step.add(input(static_cast<uint64_t>(s), model));
    step.update(1e-2, 1);
    loss = step.result().loss;
  }
  return loss;
}

Tensor logits_of(const CausalLm& model) {
  const NoGrad no_grad;
  const StepInput in = input(99, model);
  return model.logits(model.forward(in.ids.to(model.device()), model.angles(in.positions, in.context))).value();
}

/// A base folder, and the model that is trained beside it.
std::unique_ptr<CausalLm> beside(const std::string& base, const AdapterDescription& a, DType compute = DType::f32) {
  return load_hf(base, {.compute = compute, .adjust = [&](ModelConfig& c) { c.adapter = a; }, .seed = 4});
}

/// Random values where LoRA begins with zeros.
void fill_b(CausalLm& model) {
  for (size_t i = 0; i < model.arena().size(); ++i) {
    const ParamArena::Segment& s = model.arena().segments()[i];
    if (s.spec.name.ends_with("lora_B.weight"))
      model.arena().set_values(i, test::randn(s.spec.shape, i, DType::f32, 0.1));
  }
  model.arena().refresh();
}

}  // namespace

TEST_CASE("an adapter begins as no change, and only it has gradients, moments and masters") {
  const test::TempDir dir;
  save_hf(dir.path("base"), CausalLm(tiny(), DType::f32, kCpu, 1));
  const auto base = load_hf(dir.path("base"));
  for (const DType compute : {DType::f32, DType::bf16}) {
    const auto model = beside(dir.path("base"), {.rank = 4}, compute);
    if (compute == DType::f32) CHECK(logits_of(*model).to_vector() == logits_of(*base).to_vector());
    const ParamArena& arena = model->arena();
    // Rank 4 beside q [32,32], k and v [16,32], o [32,32], gate and up [48,32], down [32,48], of two blocks.
    CHECK(arena.trained_count() == 2 * 4 * (64 + 48 + 48 + 64 + 80 + 80 + 80));
    AdamW optimizer(model->arena(), {.weight_decay = 0.1});
    model->enable_grad();
    CHECK(arena.grad().numel() == arena.numel());
    CHECK(arena.m().numel() == arena.numel());
    CHECK(arena.numel() < arena.trained_count() + 64 * 16);
    CHECK(arena.master().numel() == arena.numel());
    const Tensor frozen = arena.frozen().clone();
    CHECK(frozen.dtype() == compute);
    const double first = train(*model, optimizer, 0, 1), last = train(*model, optimizer, 1, 60);
    CHECK(last < first - 0.2);
    CHECK(arena.frozen().to_vector() == frozen.to_vector());
  }
}

TEST_CASE("gradients of adapters, norms and embeddings are those of finite differences") {
  AdapterDescription a{.rank = 2, .alpha = 3};
  a.targets = {"q_proj", "v_proj", "down_proj"};
  a.embeddings = a.norms = true;
  CausalLm model(adapted(a), DType::f64, kCpu, 2);
  fill_b(model);
  model.enable_grad();
  const StepInput in = input(0, model);
  const auto loss = [&] { return model.loss(in.ids, in.targets, model.angles(in.positions, in.context)); };
  backward(loss());
  const ParamArena& arena = model.arena();
  Random random(3, Purpose::test);
  for (size_t i = 0; i < arena.size(); ++i) {
    const ParamArena::Segment& s = arena.segments()[i];
    if (!s.trainable) continue;
    CAPTURE(s.spec.name);
    for (int trial = 0; trial < 2; ++trial) {
      const int64_t at = random.below(s.numel);
      double* value = arena.master_of(i).data<double>() + at;
      const double kept = *value, h = 1e-5;
      const NoGrad no_grad;
      *value = kept + h;
      const double up = loss().item();
      *value = kept - h;
      const double down = loss().item();
      *value = kept;
      CHECK(arena[i].grad().data<double>()[at] == doctest::Approx((up - down) / (2 * h)).epsilon(1e-5).scale(1));
    }
  }
}

TEST_CASE("merged is unmerged within rounding, tied or not, through PEFT's files") {
  AdapterDescription with_rest{.rank = 2};
  with_rest.norms = with_rest.embeddings = true;
  for (const AdapterDescription& description :
       {AdapterDescription{.rank = 3, .alpha = 5, .rank_stabilized = true}, with_rest}) {
    for (const bool tied : {true, false}) {
      CAPTURE(description.rank);
      CAPTURE(tied);
      const test::TempDir dir;
      ModelConfig c = tiny();
      c.tie_word_embeddings = tied;
      save_hf(dir.path("base"), CausalLm(c, DType::f32, kCpu, 1));
      const auto model = beside(dir.path("base"), description);
      fill_b(*model);
      AdamW optimizer(model->arena(), {});
      model->enable_grad();
      train(*model, optimizer, 0, 3);
      save_adapter(dir.path("lora"), *model, {.base = "base"});
      const auto merged = load_merged(dir.path("base"), dir.path("lora"));
      CHECK(test::relative_error(logits_of(*merged), logits_of(*model)) < 1e-5);
      CHECK(test::relative_error(logits_of(*merged), logits_of(*load_hf(dir.path("base")))) > 1e-2);
      const auto again = beside(dir.path("base"), description);
      load_adapter(dir.path("lora"), *again);
      CHECK(logits_of(*again).to_vector() == logits_of(*model).to_vector());
    }
  }
}

TEST_CASE("training goes on from a checkpoint bit for bit, dropout and recomputation included") {
  const test::TempDir dir;
  save_hf(dir.path("base"), CausalLm(tiny(), DType::f32, kCpu, 1));
  const AdapterDescription a{.rank = 4, .dropout = 0.3};
  const auto run = [&](bool resumed, bool recompute) {
    auto model = beside(dir.path("base"), a);
    model->set_recompute(recompute);
    auto optimizer = std::make_unique<AdamW>(model->arena(), AdamWConfig{});
    model->enable_grad();
    train(*model, *optimizer, 0, 3);
    if (resumed) {
      const std::string folder = save_checkpoint(dir.path("run"), *model, *optimizer, {.step = 3}, 0);
      CHECK(!path_exists(folder + "/model.safetensors"));
      model = beside(dir.path("base"), a);
      model->set_recompute(recompute);
      optimizer = std::make_unique<AdamW>(model->arena(), AdamWConfig{});
      model->enable_grad();
      CHECK(load_checkpoint(folder, *model, *optimizer).step == 3);
    }
    train(*model, *optimizer, 3, 6);
    return model->arena().master().to_vector();
  };
  const std::vector<double> want = run(false, false);
  CHECK(run(true, false) == want);
  CHECK(run(false, true) == want);
}

TEST_CASE("dropout is for training: forward without a draw has none, and a step must say which masks") {
  AdapterDescription a{.rank = 4, .dropout = 0.5};
  CausalLm model(adapted(a), DType::f32, kCpu, 2);
  fill_b(model);
  const std::vector<double> plain = logits_of(model).to_vector();
  model.set_dropout(CausalLm::DropoutDraw{.seed = 1, .draw = 1});
  CHECK(logits_of(model).to_vector() != plain);
  model.set_dropout(std::nullopt);
  CHECK(logits_of(model).to_vector() == plain);
  AdamW optimizer(model.arena(), {});
  model.enable_grad();
  TrainStep step(model, optimizer);
  StepInput in = input(0, model);
  in.dropout.reset();
  CHECK(test::error_of([&] { step.add(in); }).find("which masks") != std::string::npos);
}

TEST_CASE("weights in blocks train an adapter as their values do") {
  const test::TempDir dir;
  save_hf(dir.path("base"), CausalLm(tiny(), DType::f32, kCpu, 1));
  AdapterDescription a{.rank = 4};
  a.base_blocks = BlockFormat{BlockCode::nf4, true};
  const auto blocks = beside(dir.path("base"), a);
  // The same values, kept whole.
  const auto whole = beside(dir.path("base"), {.rank = 4});
  for (size_t i = 0; i < whole->arena().size(); ++i) whole->arena().set_values(i, blocks->arena().values_of(i));
  whole->arena().refresh();
  CHECK(test::relative_error(logits_of(*blocks), logits_of(*whole)) < 1e-5);
  CHECK(test::relative_error(logits_of(*blocks), logits_of(*load_hf(dir.path("base")))) > 1e-3);
  for (CausalLm* model : {blocks.get(), whole.get()}) {
    AdamW optimizer(model->arena(), {});
    model->enable_grad();
    train(*model, optimizer, 0, 4);
  }
  CHECK(test::relative_error(blocks->arena().master(), whole->arena().master()) < 1e-4);
  CHECK(test::error_of([&] {
          CausalLm model(adapted(a), DType::bf16, kCpu, 1);
          model.set_linear({.matmul = Matmul::fp8});
        }).find("choose one") != std::string::npos);
}

TEST_CASE("MLPs in tiles have the gradients of whole ones") {
  for (const bool with_adapter : {false, true}) {
    const auto run = [&](int64_t tile, bool recompute, DType dtype = DType::f32) {
      CausalLm model(with_adapter ? adapted({.rank = 4, .dropout = 0.2}) : tiny(), dtype, kCpu, 2);
      if (with_adapter) fill_b(model);
      model.enable_grad();
      model.set_mlp_tile(tile);
      model.set_recompute(recompute);
      const StepInput in = input(0, model);
      model.set_dropout(in.dropout);
      backward(model.loss(in.ids, in.targets, model.angles(in.positions, in.context)));
      return model.arena().grad();
    };
    const Tensor want = run(0, false), exact = run(0, false, DType::f64);
    for (const int64_t tile : {1, 5, 16, 31}) {
      CAPTURE(tile);
      CHECK(test::relative_error(run(tile, false, DType::f64), exact) < 1e-13);
      CHECK(test::relative_error(run(tile, true, DType::f64), exact) < 1e-13);
      // In f32 a tile of one token is 1.02e-6 from the whole product here (1.43e-6 from the exact gradients): it rounds
      // once for each token. The planner takes no tile below 64.
      if (tile == 1) continue;
      CHECK(test::relative_error(run(tile, false), want) < 1e-6);
      CHECK(test::relative_error(run(tile, true), want) < 1e-6);
    }
  }
}

TEST_CASE("a model with an adapter generates what its merged form generates") {
  const test::TempDir dir;
  save_hf(dir.path("base"), CausalLm(tiny(), DType::f32, kCpu, 1));
  const auto model = beside(dir.path("base"), {.rank = 4});
  fill_b(*model);
  save_adapter(dir.path("lora"), *model, {});
  const auto merged = load_merged(dir.path("base"), dir.path("lora"));
  CHECK(!Decoder::supports(*model, model->make_cache(1, 20)));
  CHECK(Decoder::supports(*merged, merged->make_cache(1, 20)));
  std::vector<int32_t> a, b;
  generate(*model, {1, 2, 3}, {.tokens = 10, .sampling = {.temperature = 0}, .stop = {}},
           [&](int32_t id) { return a.push_back(id), true; });
  generate(*merged, {1, 2, 3}, {.tokens = 10, .sampling = {.temperature = 0}, .stop = {}},
           [&](int32_t id) { return b.push_back(id), true; });
  CHECK(a == b);
  CHECK(test::error_of([&] { save_hf(dir.path("x"), *model); }).find("save_adapter") != std::string::npos);
}

TEST_CASE("what an adapter's files say is honoured or refused by name") {
  const test::TempDir dir;
  save_hf(dir.path("base"), CausalLm(tiny(), DType::f32, kCpu, 1));
  const auto model = beside(dir.path("base"), {.rank = 4, .alpha = 8});
  save_adapter(dir.path("lora"), *model, {.base = "base"});
  const std::string path = dir.path("lora") + "/adapter_config.json";
  const nlohmann::json good = nlohmann::json::parse(read_file(path));
  const auto with = [&](const char* field, const nlohmann::json& value) {
    nlohmann::json j = good;
    j[field] = value;
    write_file_atomic(path, j.dump());
    return test::error_of([&] { load_merged(dir.path("base"), dir.path("lora")); });
  };
  CHECK(with("use_dora", true).find("'use_dora'") != std::string::npos);
  CHECK(with("bias", "all").find("'bias'") != std::string::npos);
  CHECK(with("rank_pattern", {{"q_proj", 8}}).find("'rank_pattern'") != std::string::npos);
  CHECK(with("a_new_field", 3).find("'a_new_field'") != std::string::npos);
  CHECK(with("init_lora_weights", "pissa").find("'init_lora_weights'") != std::string::npos);
  CHECK(with("peft_type", "IA3").find("'peft_type'") != std::string::npos);
  CHECK(with("r", 5).find("rank 5") != std::string::npos);
  write_file_atomic(path, good.dump());
  const auto other = beside(dir.path("base"), {.rank = 4, .alpha = 9});
  CHECK(test::error_of([&] { load_adapter(dir.path("lora"), *other); }).find("scale") != std::string::npos);
  const auto fewer = beside(dir.path("base"), [] {
    AdapterDescription a{.rank = 4, .alpha = 8};
    a.targets = {"q_proj"};
    return a;
  }());
  CHECK(test::error_of([&] { load_adapter(dir.path("lora"), *fewer); }).find("does not train") != std::string::npos);
  CHECK(test::error_of([&] { load_hf(dir.path("lora")); }).find("config.json") != std::string::npos);
  CHECK(test::error_of([&] { model_folder(dir.path("lora")); }).find("--adapter") != std::string::npos);
  AdapterDescription nowhere{.rank = 4};
  nowhere.targets = {"q_proj", "w_pack"};
  CHECK(test::error_of([&] { CausalLm(adapted(nowhere), DType::f32, kCpu, 1); }).find("'w_pack'") != std::string::npos);
}
