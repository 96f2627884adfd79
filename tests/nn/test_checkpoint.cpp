#include <filesystem>
#include <fstream>

#include "nn/generate.h"
#include "nn/io/checkpoint.h"
#include "support.h"

using namespace rw;
namespace fs = std::filesystem;

namespace {

LlamaConfig tiny() {
  LlamaConfig c;
  c.vocab_size = 20, c.hidden_size = 16, c.intermediate_size = 24, c.num_hidden_layers = 1, c.num_attention_heads = 2;
  c.rope.max_position_embeddings = 16;
  return c;
}

}  // namespace

TEST_CASE("a checkpoint restores weights, moments and counters") {
  const test::TempDir dir;
  Llama model(tiny(), DType::f32, kCpu, 1), other(tiny(), DType::f32, kCpu, 2);
  AdamW optimizer(model.arena(), {}), second(other.arena(), {});
  model.arena().grad().fill(0.5);
  optimizer.step(1e-2);
  const std::string folder = save_checkpoint(dir.path(), model, optimizer,
                                             {.step = 7, .tokens = 99, .seed = 5, .recipe = {{"method", "pose"}}}, 2);
  CHECK(latest_checkpoint(dir.path()) == folder);
  const TrainerState state = load_checkpoint(folder, other, second);
  CHECK(state.step == 7);
  CHECK(state.tokens == 99);
  CHECK(state.recipe.at("method") == "pose");
  CHECK(second.steps() == 1);
  CHECK(other.arena().master().to_vector() == model.arena().master().to_vector());
  CHECK(other.arena().m().to_vector() == model.arena().m().to_vector());
  CHECK(other.arena().v().to_vector() == model.arena().v().to_vector());
}

TEST_CASE("only the newest checkpoints are kept and a damaged one is passed over") {
  const test::TempDir dir;
  Llama model(tiny(), DType::f32, kCpu, 1);
  AdamW optimizer(model.arena(), {});
  for (int64_t step : {1, 2, 3, 10}) save_checkpoint(dir.path(), model, optimizer, {.step = step}, 3);
  CHECK_FALSE(fs::exists(dir.path("checkpoint-000001")));
  CHECK(latest_checkpoint(dir.path()) == dir.path("checkpoint-000010"));
  {
    std::fstream file(dir.path("checkpoint-000010/model.safetensors"), std::ios::in | std::ios::out | std::ios::binary);
    file.seekp(1000);
    file.put('x');
  }
  CHECK(latest_checkpoint(dir.path()) == dir.path("checkpoint-000003"));
  fs::remove(dir.path("checkpoint-000003/trainer_state.json"));
  CHECK(latest_checkpoint(dir.path()) == dir.path("checkpoint-000002"));
  CHECK_FALSE(latest_checkpoint(dir.path("none")).has_value());
}

TEST_CASE("a checkpoint that cannot be written leaves the earlier ones whole and no rest") {
  const test::TempDir dir;
  Llama model(tiny(), DType::f32, kCpu, 1);
  AdamW optimizer(model.arena(), {});
  save_checkpoint(dir.path(), model, optimizer, {.step = 1}, 0);
  CHECK_THROWS_AS(save_checkpoint(dir.path(), model, optimizer, {.step = 2}, 0,
                                  [](const std::string&) { fail("test", "disk full"); }),
                  Error);
  CHECK(latest_checkpoint(dir.path()) == dir.path("checkpoint-000001"));
  CHECK(std::distance(fs::directory_iterator(dir.path()), {}) == 1);
}

TEST_CASE("generation stops at a stop token, at the limit, or when it is told to") {
  Llama model(tiny(), DType::f32, kCpu, 1);
  std::vector<int32_t> made;
  const auto collect = [&](int32_t id) {
    made.push_back(id);
    return true;
  };
  CHECK(generate(model, {1, 2}, {.tokens = 8, .sampling = {.temperature = 0}, .stop = {}}, collect) == 8);
  CHECK(made.size() == 8);
  const int32_t first = made[0];
  CHECK(generate(model, {1, 2}, {.tokens = 8, .sampling = {.temperature = 0}, .stop = {first}}, collect) == 0);
  CHECK(generate(model, {1, 2}, {.tokens = 8, .sampling = {.temperature = 0}, .stop = {}},
                 [](int32_t) { return false; }) == 1);
  CHECK(test::error_of([&] { generate(model, {}, {}, collect); }).find("empty") != std::string::npos);
  CHECK(test::error_of([&] { generate(model, {25}, {}, collect); }).find("25") != std::string::npos);
}
