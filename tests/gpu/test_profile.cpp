// A profiled training step on the GPU: the kernels it names, how often, and that their times make sense.
#include <map>

#include "autograd/tape.h"
#include "gpu.h"
#include "nn/adamw.h"
#include "nn/causal_lm.h"
#include "nn/train_step.h"
#include "tensor/profile.h"

using namespace rw;
using test::kGpu;

TEST_CASE("a profiled step names every kernel, with plausible counts, times and work") {
  if (!test::has_gpu()) return;
  ModelConfig c;
  c.vocab_size = 512, c.hidden_size = 128, c.intermediate_size = 256, c.num_hidden_layers = 3;
  c.num_attention_heads = 2;
  c.rope.max_position_embeddings = 64;
  CausalLm model(c, DType::bf16, kGpu, 1);
  AdamW optimizer(model.arena(), {});
  model.enable_grad();
  const Tensor ids = Tensor::zeros({2, 64}, DType::i32, kGpu);
  const auto step = [&] {
    Var loss;
    {
      const ProfileRange phase("forward");
      loss = model.loss(ids, ids, model.angles(model.plain_positions(0, 64), {}));
    }
    {
      const ProfileRange phase("backward");
      backward(loss);
    }
    const ProfileRange phase("optimizer");
    optimizer.step(1e-3);
  };
  step();
  start_profile();
  step();
  const Profile p = stop_profile();

  std::map<std::string, int> calls;
  double previous = 0;
  for (const ProfileRecord& r : p.kernels) {
    ++calls[r.phase + ": " + r.name.substr(0, r.name.find(' '))];
    CAPTURE(r.name);
    CHECK(r.start >= previous - 1e-6);
    CHECK(r.end >= r.start);
    CHECK(r.end - r.start < static_cast<double>(test::repetitions(1, 60)));  // the sanitizers are slow
    CHECK(r.queued <= r.end + 1e-3);
    CHECK(r.work.bytes >= 0);
    previous = r.end;
    if (r.name.rfind("gemm", 0) == 0) CHECK(r.work.flops > 0);
    if (r.phase == "backward" && r.name == "rope") CHECK(r.part.rfind("block ", 0) == 0);
  }
  CHECK(calls["forward: rope"] == 3);
  CHECK(calls["forward: rms_norm"] == 7);  // two per block and the last
  CHECK(calls["forward: swiglu"] == 3);
  CHECK(calls["forward: embedding"] == 1);
  CHECK(calls["forward: cross_entropy"] == 1);
  CHECK(calls["forward: gemm"] == 4 * 3 + 3);  // q k v, o, gate and up, down; the head and its two gradients
  CHECK(calls["forward: attention"] == 3);
  CHECK(calls["backward: gemm"] == 8 * 3);
  CHECK(calls["backward: rms_norm_backward"] == 7);
  CHECK(calls["optimizer: adamw"] == 1);
  step();
  CHECK_FALSE(profiling());
}

TEST_CASE("a profile shows what TrainStep sends and fetches, and a replayed graph as one piece") {
  if (!test::has_gpu()) return;
  ModelConfig c;
  c.vocab_size = 64, c.hidden_size = 64, c.intermediate_size = 96, c.num_hidden_layers = 1;
  c.num_attention_heads = 2;
  c.rope.max_position_embeddings = 16;
  CausalLm model(c, DType::bf16, kGpu, 1);
  AdamW optimizer(model.arena(), {});
  model.enable_grad();
  TrainStep step(model, optimizer);
  const Tensor ids = Tensor::zeros({2, 16}, DType::i32);
  const auto update = [&] {
    step.add({ids, ids, model.plain_positions(0, 16), {}, {}, 32});
    step.update(1e-3, 1.0);
    step.result();
  };
  update();
  update();  // recorded, and replayed for the first time
  start_profile();
  update();
  const Profile p = stop_profile();
  REQUIRE(step.replayed());
  std::map<std::string, int> calls;
  for (const ProfileRecord& r : p.kernels) {
    ++calls[r.name];
    if (r.name.rfind("copy", 0) == 0) CHECK(r.work.bytes > 0);
  }
  CHECK(calls["copy host to device"] >= 4);  // ids, targets, positions, frequencies
  CHECK(calls["copy device to host"] >= 2);  // loss and gradient norm
  CHECK(calls["replay of a CUDA graph"] == 1);
}
