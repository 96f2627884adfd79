// Runs that train an adapter, and runs that are held to a size of memory.
#include "nn/io/adapter.h"
#include "nn/io/checkpoint.h"
#include "support.h"
#include "tensor/allocator.h"
#include "tensor/file.h"
#include "tensor/folder.h"
#include "train/recipe_fields.h"
#include "train/trainer.h"

using namespace rw;

namespace {

Recipe tiny(const std::string& out) {
  Recipe r;
  r.data = {"demo"};
  r.out = out;
  r.hidden = 32, r.layers = 2, r.heads = 4, r.ffn = 64, r.window = 32;
  r.steps = 6, r.batch = 2;
  r.save_minutes = 0;
  return r;
}

Recipe beside(const std::string& base, const std::string& out) {
  Recipe r = tiny(out);
  r.from = base;
  const Recipe plain;
  r.hidden = plain.hidden, r.layers = plain.layers, r.heads = plain.heads, r.ffn = plain.ffn, r.window = 0;
  r.lora_rank = 4;
  r.schedule.lr = 1e-2;
  return r;
}

TrainResult run(const Recipe& r, TrainCallbacks callbacks = {}) { return Trainer(r, {}, std::move(callbacks)).run(); }

std::string weights(const std::string& folder) { return read_file(folder + "/adapter_model.safetensors"); }

}  // namespace

TEST_CASE("a run leaves an adapter in PEFT's layout, and a stopped one goes on to the same bits") {
  const test::TempDir dir;
  run(tiny(dir.path("base")));
  Recipe r = beside(dir.path("base"), dir.path("whole"));
  r.method = "pose", r.scaling = "yarn", r.target = 128;
  r.lora_dropout = 0.2, r.lora_norms = true, r.accumulate = 2;
  run(r);
  CHECK(is_adapter_folder(r.out));
  CHECK(!path_exists(r.out + "/config.json"));
  CHECK(!path_exists(r.out + "/model.safetensors"));
  const auto merged = load_merged(dir.path("base"), r.out);
  CHECK(merged->config().rope.rope_type() == "yarn");

  Recipe again = r;
  again.out = dir.path("stopped");
  again.save_every = 2;
  int64_t steps = 0;
  run(again, {.on_step = [&](const StepReport&) { ++steps; }, .stop = [&] { return steps >= 3; }});
  CHECK(!is_adapter_folder(again.out));
  CHECK(adapter_folder(again.out).find("checkpoint-") != std::string::npos);
  again.resume = true;
  run(again);
  CHECK(weights(again.out) == weights(r.out));

  again.overwrite = true, again.resume = false;
  again.lora_from = r.out;
  run(again);
  CHECK(weights(again.out) != weights(r.out));
  again.overwrite = false;
  CHECK(test::error_of([&] { run(again); }).find("holds a model") != std::string::npos);
}

TEST_CASE("settings of an adapter are honoured or refused by name") {
  const test::TempDir dir;
  run(tiny(dir.path("base")));
  const auto refusal = [&](const std::function<void(Recipe&)>& change) {
    Recipe r = beside(dir.path("base"), dir.path("x"));
    change(r);
    return test::error_of([&] { run(r); });
  };
  CHECK(refusal([](Recipe& r) { r.from = ""; }).find("--from") != std::string::npos);
  CHECK(refusal([](Recipe& r) { r.lora_targets = "q_proj,,v_proj"; }).find("--lora-targets") != std::string::npos);
  CHECK(refusal([](Recipe& r) { r.lora_targets = "query"; }).find("'query'") != std::string::npos);
  CHECK(refusal([](Recipe& r) { r.lora_rank = 0, r.lora_alpha = 3; }).find("--lora-alpha has no effect") !=
        std::string::npos);
  CHECK(refusal([](Recipe& r) { r.lora_base = "nf4", r.matmul = "fp8", r.dtype = "bf16"; }).find("--lora-base") !=
        std::string::npos);
  CHECK(refusal([](Recipe& r) { r.mlp_tile = 8, r.matmul = "fp8", r.dtype = "bf16"; }).find("--mlp-tile") !=
        std::string::npos);
  for (const char* base : {"int8", "nf4"}) {
    Recipe r = beside(dir.path("base"), dir.path(base));
    r.lora_base = base, r.lora_double_scales = true;
    CHECK(run(r).losses.size() == 6);
  }
}

TEST_CASE("--memory chooses, says what, and refuses what cannot be") {
  const test::TempDir dir;
  std::string said;
  const TrainCallbacks listen{.on_notice = [&](const std::string& line) { said += line + "\n"; }};
  Recipe r = tiny(dir.path("a"));
  r.window = 512, r.batch = 4;
  r.memory = "1G";
  Trainer(r, {}, listen).run();
  CHECK(said.find("no block recomputed") != std::string::npos);
  said.clear();
  r.out = dir.path("b"), r.memory = "7M";
  const int64_t live = memory_stats().live_bytes;
  Trainer(r, {}, listen).run();
  CHECK(said.find("--memory 7M") != std::string::npos);
  CHECK((said.find("every block") != std::string::npos || said.find("tiles") != std::string::npos));
  CHECK(memory_stats().live_bytes == live);
  r.out = dir.path("c"), r.memory = "100K";
  CHECK(test::error_of([&] { run(r); }).find("--batch") != std::string::npos);
  r.memory = "many";
  CHECK(test::error_of([&] { run(r); }).find("as 24G") != std::string::npos);
}
