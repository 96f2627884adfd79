#include <cctype>
#include <filesystem>
#include <fstream>

#include "nn/generate.h"
#include "nn/io/checkpoint.h"
#include "nn/io/hf.h"
#include "support.h"
#include "tensor/allocator.h"
#include "tensor/file.h"

using namespace rw;
namespace fs = std::filesystem;

namespace {

ModelConfig tiny() {
  ModelConfig c;
  c.vocab_size = 20, c.hidden_size = 16, c.intermediate_size = 24, c.num_hidden_layers = 1, c.num_attention_heads = 2;
  c.rope.max_position_embeddings = 16;
  return c;
}

}  // namespace

TEST_CASE("a checkpoint restores weights, moments and counters") {
  const test::TempDir dir;
  CausalLm model(tiny(), DType::f32, kCpu, 1), other(tiny(), DType::f32, kCpu, 2);
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
  CausalLm model(tiny(), DType::f32, kCpu, 1);
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
  CausalLm model(tiny(), DType::f32, kCpu, 1);
  AdamW optimizer(model.arena(), {});
  save_checkpoint(dir.path(), model, optimizer, {.step = 1}, 0);
  CHECK_THROWS_AS(save_checkpoint(dir.path(), model, optimizer, {.step = 2}, 0,
                                  [](const std::string&) { fail("test", "disk full"); }),
                  Error);
  CHECK(latest_checkpoint(dir.path()) == dir.path("checkpoint-000001"));
  CHECK(std::distance(fs::directory_iterator(dir.path()), {}) == 1);
}

TEST_CASE("a checkpoint is written under another name and appears whole") {
  const test::TempDir dir;
  CausalLm model(tiny(), DType::f32, kCpu, 1);
  AdamW optimizer(model.arena(), {});
  save_checkpoint(dir.path(), model, optimizer, {.step = 4}, 0, [&](const std::string& folder) {
    CHECK(fs::path(folder).filename().string().starts_with(".tmp-"));
    CHECK(fs::exists(folder + "/model.safetensors"));
    CHECK_FALSE(fs::exists(folder + "/trainer_state.json"));  // comes last: without it a folder is no checkpoint
    CHECK_FALSE(fs::exists(dir.path("checkpoint-000004")));
    std::ofstream(folder + "/extra.txt") << "more";
  });
  CHECK(latest_checkpoint(dir.path()) == dir.path("checkpoint-000004"));
  CHECK(std::distance(fs::directory_iterator(dir.path()), {}) == 1);
  std::ofstream(dir.path("checkpoint-000004/extra.txt"), std::ios::app) << "!";  // every file has its checksum
  CHECK_FALSE(latest_checkpoint(dir.path()).has_value());
}

TEST_CASE("every damaged byte of a trainer state is noticed") {
  const test::TempDir dir;
  CausalLm model(tiny(), DType::f32, kCpu, 1);
  AdamW optimizer(model.arena(), {});
  const std::string folder =
      save_checkpoint(dir.path(), model, optimizer, {.step = 3, .tokens = 48, .seed = 2, .recipe = {{"lr", "0.1"}}}, 0);
  const std::string path = folder + "/trainer_state.json", good = read_file(path);
  int looked_at = 0;
  for (size_t i = 0; i < good.size(); i += 3) {
    if (std::isspace(static_cast<unsigned char>(good[i]))) continue;
    std::string bad = good;
    bad[i] = bad[i] == '7' ? '8' : '7';
    write_file_atomic(path, bad);
    CAPTURE(bad);
    CHECK_FALSE(latest_checkpoint(dir.path()).has_value());
    CHECK(test::error_of([&] { load_checkpoint(folder, model, optimizer); }).find("trainer_state") !=
          std::string::npos);
    ++looked_at;
  }
  CHECK(looked_at > 100);
  for (size_t n = 0; n < good.size(); n += 17) {
    write_file_atomic(path, good.substr(0, n));
    CHECK_FALSE(latest_checkpoint(dir.path()).has_value());
  }
  write_file_atomic(path, std::string(100000, '[') + std::string(100000, ']'));
  CHECK_FALSE(latest_checkpoint(dir.path()).has_value());
  write_file_atomic(path, good);
  CHECK(latest_checkpoint(dir.path()) == folder);
}

TEST_CASE("what a killed process left under temporary names is removed, and nothing else") {
  const test::TempDir dir;
  CausalLm model(tiny(), DType::f32, kCpu, 1);
  AdamW optimizer(model.arena(), {});
  save_checkpoint(dir.path(), model, optimizer, {.step = 1}, 0);
  fs::create_directories(dir.path(".tmp-checkpoint-000002"));
  const std::string ours = temporary_name();
  for (const std::string& name : {std::string(".tmp-checkpoint-000002/model.safetensors"), ours,
                                  std::string("data.tmp-123-0"), std::string("notes.tmp"), std::string("my.tmp-file")})
    std::ofstream(dir.path(name)) << "x";
  remove_unfinished(dir.path());
  CHECK_FALSE(fs::exists(dir.path(".tmp-checkpoint-000002")));
  CHECK_FALSE(fs::exists(dir.path(ours)));
  CHECK(fs::exists(dir.path("data.tmp-123-0")));
  CHECK(fs::exists(dir.path("notes.tmp")));
  CHECK(fs::exists(dir.path("my.tmp-file")));
  CHECK(latest_checkpoint(dir.path()).has_value());
  remove_unfinished(dir.path("no such folder"));
}

TEST_CASE("a checkpoint of the same step replaces the older one") {
  const test::TempDir dir;
  CausalLm model(tiny(), DType::f32, kCpu, 1);
  AdamW optimizer(model.arena(), {});
  save_checkpoint(dir.path(), model, optimizer, {.step = 2, .tokens = 5}, 0);
  save_checkpoint(dir.path(), model, optimizer, {.step = 2, .tokens = 6}, 0);
  CHECK(load_checkpoint(*latest_checkpoint(dir.path()), model, optimizer).tokens == 6);
}

TEST_CASE("a config that describes more than its weight files hold is refused before memory is taken") {
  const test::TempDir dir;
  save_hf(dir.path(), CausalLm(tiny(), DType::f32, kCpu, 1));
  const std::string path = dir.path("config.json"), good = read_file(path);
  const auto with = [&](const std::string& from, const std::string& to) {
    std::string text = good;
    const size_t at = text.find(from);
    REQUIRE(at != std::string::npos);
    write_file_atomic(path, text.replace(at, from.size(), to));
    return test::error_of([&] { load_hf(dir.path()); });
  };
  set_memory_limit(memory_stats().live_bytes + (1 << 20));
  CHECK(with("\"vocab_size\": 20", "\"vocab_size\": 2000000000").find("embed_tokens") != std::string::npos);
  CHECK(with("\"num_hidden_layers\": 1", "\"num_hidden_layers\": 2000000000").find("layers") != std::string::npos);
  CHECK(with("\"num_hidden_layers\": 1", "\"num_hidden_layers\": 2").find("model.layers.1.") != std::string::npos);
  CHECK(with("\"intermediate_size\": 24", "\"intermediate_size\": 2000000000").find("mlp.") != std::string::npos);
  CHECK(with("\"head_dim\": 8", "\"head_dim\": 2000000000").find("head_dim") != std::string::npos);
  CHECK(with("\"head_dim\": 8", "\"head_dim\": 4096").find("self_attn") != std::string::npos);
  write_file_atomic(path, "{\"vocab_size\":" + std::string(100000, '[') + std::string(100000, ']') + "}");
  CHECK(test::error_of([&] { load_hf(dir.path()); }).find("nested deeper") != std::string::npos);
  write_file_atomic(path, good);
  CHECK(load_hf(dir.path()) != nullptr);
  set_memory_limit(0);
}

TEST_CASE("generation stops at a stop token, at the limit, or when it is told to") {
  CausalLm model(tiny(), DType::f32, kCpu, 1);
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
