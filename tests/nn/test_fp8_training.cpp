// Training with 8-bit products on the CPU, which computes what a GPU does but for the order of sums.
#include <cmath>
#include <cstring>

#include "autograd/tape.h"
#include "nn/causal_lm.h"
#include "nn/io/checkpoint.h"
#include "nn/train_step.h"
#include "support.h"

using namespace rw;

namespace {

constexpr int64_t kBatch = 4, kWindow = 32, kVocab = 48;

ModelConfig small() {
  ModelConfig c;
  c.vocab_size = kVocab, c.hidden_size = 64, c.intermediate_size = 96, c.num_hidden_layers = 2;
  c.num_attention_heads = 4, c.num_key_value_heads = 2;
  c.rope.max_position_embeddings = kWindow;
  return c;
}

/// A token and the one that follows it: 5 id + 3, but for a few.
StepInput input(const CausalLm& model, uint64_t step, uint64_t part = 0) {
  Random random(11, Purpose::test, step, part);
  std::vector<int32_t> ids, targets;
  for (int64_t i = 0; i < kBatch * kWindow; ++i) {
    ids.push_back(static_cast<int32_t>(random.below(kVocab)));
    targets.push_back(random.below(8) == 0 ? 0 : (5 * ids.back() + 3) % kVocab);
  }
  return {Tensor::from(ids, {kBatch, kWindow}),
          Tensor::from(targets, {kBatch, kWindow}),
          model.plain_positions(0, kWindow),
          {.training = true},
          {},
          kBatch * kWindow};
}

struct Trained {
  explicit Trained(Matmul matmul, bool recompute = false, bool keep_attention = false)
      : model(small(), DType::bf16, kCpu, 3), optimizer(model.arena(), {.weight_decay = 0.1}) {
    model.enable_grad();
    model.set_linear({.matmul = matmul, .recompute_input = recompute});
    model.set_recompute(recompute, {.keep_attention = keep_attention});
  }
  /// Steps [begin, end), of two micro-batches each.
  void run(uint64_t begin, uint64_t end) {
    TrainStep step(model, optimizer);
    for (uint64_t i = begin; i < end; ++i) {
      step.add(input(model, i, 0));
      step.add(input(model, i, 1), true);
      step.update(1e-2, 1.0);
      losses.push_back(step.result().loss);
    }
  }
  bool equals(const Trained& other) const {
    const Tensor &a = model.arena().master(), &b = other.model.arena().master();
    return losses == other.losses && std::memcmp(a.raw(), b.raw(), static_cast<size_t>(a.bytes())) == 0;
  }
  CausalLm model;
  AdamW optimizer;
  std::vector<double> losses;
};

}  // namespace

TEST_CASE("training in 8-bit products lowers the loss as bf16 does, and is not the same") {
  Trained fp8(Matmul::fp8_wherever), native(Matmul::native);
  fp8.run(0, 40);
  native.run(0, 40);
  CHECK(fp8.losses.back() < 0.6 * fp8.losses.front());
  CHECK(std::abs(fp8.losses.back() - native.losses.back()) < 0.15);
  CHECK_FALSE(fp8.equals(native));
}

TEST_CASE("training in 8-bit products repeats bit for bit, also with recomputed blocks and inputs made again") {
  Trained once(Matmul::fp8_wherever), again(Matmul::fp8_wherever), recomputed(Matmul::fp8_wherever, true),
      kept(Matmul::fp8_wherever, true, true);
  for (Trained* t : {&once, &again, &recomputed, &kept}) t->run(0, 4);
  CHECK(once.equals(again));
  CHECK(once.equals(recomputed));
  CHECK(once.equals(kept));
}

TEST_CASE("training in 8-bit products resumes bit for bit") {
  const test::TempDir dir;
  Trained whole(Matmul::fp8_wherever), first(Matmul::fp8_wherever), second(Matmul::fp8_wherever);
  whole.run(0, 6);
  first.run(0, 3);
  const std::string folder = save_checkpoint(dir.path(), first.model, first.optimizer, {.step = 3}, 1);
  load_checkpoint(folder, second.model, second.optimizer);
  second.losses = first.losses;
  second.run(3, 6);
  CHECK(second.equals(whole));
}

TEST_CASE("8-bit products are refused by name for a model that computes in f32") {
  CausalLm model(small(), DType::f32, kCpu, 3);
  CHECK(test::error_of([&] { model.set_linear({.matmul = Matmul::fp8}); }) ==
        "[matmul] fp8 products need a model that computes in bf16, got f32");
}
