// The memory plan against the allocator of the CPU.
#include "autograd/tape.h"
#include "nn/memory_plan.h"
#include "nn/train_step.h"
#include "support.h"
#include "tensor/allocator.h"

using namespace rw;

namespace {

ModelConfig shape(int64_t vocab, int64_t hidden, int64_t ffn, int64_t layers, int64_t heads, int64_t kv) {
  ModelConfig c;
  c.vocab_size = vocab, c.hidden_size = hidden, c.intermediate_size = ffn, c.num_hidden_layers = layers;
  c.num_attention_heads = heads, c.num_key_value_heads = kv;
  c.rope.max_position_embeddings = 4096;
  return c;
}

/// The allocator's peak over two steps of a model of that task, inputs included.
int64_t measured(const MemoryTask& task) {
  release_cached_memory();
  const int64_t before = memory_stats().live_bytes;
  ArenaMemory arena = task.arena;
  arena.host_state = task.choice.offload_optimizer;
  CausalLm model(task.model, task.compute, kCpu, 1, arena);
  AdamW optimizer(model.arena(), {});
  model.enable_grad();
  model.set_recompute(task.choice.recompute, {.inputs_on_host = task.choice.offload_activations,
                                              .keep_attention = task.choice.keep_attention});
  model.set_mlp_tile(task.choice.mlp_tile);
  model.set_linear({.recompute_input = task.choice.recompute_inputs});
  TrainStep step(model, optimizer);
  const auto make = [&](uint64_t n) {
    Random random(1, Purpose::test, n);
    const Shape s{task.batch, task.length};
    StepInput in{Tensor::empty(s, DType::i32), Tensor::empty(s, DType::i32), Tensor::empty(s), {}, {}, s.numel()};
    for (int64_t i = 0; i < s.numel(); ++i) {
      in.ids.data<int32_t>()[i] = static_cast<int32_t>(random.below(task.model.vocab_size));
      in.targets.data<int32_t>()[i] = static_cast<int32_t>(random.below(task.model.vocab_size));
      in.positions.data<float>()[i] = static_cast<float>(i % task.length);
    }
    in.context = {.length = task.length, .training = true};
    if (model.has_dropout()) in.dropout = CausalLm::DropoutDraw{.seed = 1, .draw = n};
    return in;
  };
  StepInput now = make(0), next = make(1);
  reset_peak_memory();
  step.add(now);
  step.update(1e-3, 1);
  step.add(next);
  step.update(1e-3, 1);
  return memory_stats().peak_bytes - before;
}

}  // namespace

TEST_CASE("the planned peak is the allocator's within 5 percent") {
  std::vector<MemoryTask> tasks;
  const auto add = [&](const ModelConfig& c, int64_t batch, int64_t length, std::optional<AdapterDescription> a = {}) {
    for (const MemoryChoice choice :
         {MemoryChoice{false, 0}, MemoryChoice{true, 0}, MemoryChoice{false, 64}, MemoryChoice{true, 64},
          MemoryChoice{true, 0, true}, MemoryChoice{false, 64, false, true}, MemoryChoice{true, 64, true, true},
          MemoryChoice{.recompute = true, .keep_attention = true},
          MemoryChoice{.recompute = true, .mlp_tile = 64, .offload_activations = true, .keep_attention = true},
          MemoryChoice{.recompute_inputs = true}, MemoryChoice{.mlp_tile = 64, .recompute_inputs = true}}) {
      for (const MomentFormat moments : {MomentFormat::f32, MomentFormat::int8}) {
        MemoryTask t{.model = c, .batch = batch, .length = length, .arena = {.moments = moments}, .choice = choice};
        t.model.adapter = a;
        tasks.push_back(t);
      }
    }
  };
  add(shape(256, 64, 192, 4, 4, 4), 2, 256);
  add(shape(256, 64, 192, 4, 4, 1), 1, 1024);
  add(shape(4096, 96, 256, 3, 4, 2), 1, 512);
  ModelConfig untied = shape(1000, 64, 128, 2, 4, 4);
  untied.tie_word_embeddings = false;
  add(untied, 2, 256);
  add(shape(256, 64, 192, 4, 4, 4), 1, 512, AdapterDescription{.rank = 8});
  add(shape(256, 64, 192, 4, 4, 4), 1, 512, AdapterDescription{.rank = 8, .dropout = 0.1});
  AdapterDescription few{.rank = 4};
  few.targets = {"q_proj", "v_proj"};
  few.base_blocks = BlockFormat{};
  add(shape(256, 128, 384, 4, 4, 4), 1, 512, few);
  // Tiles that are small beside the tokens: attention's backward pass is the highest.
  for (const bool inputs : {false, true})
    tasks.push_back({.model = shape(256, 64, 192, 3, 2, 1), .batch = 1, .length = 4096, .choice = {true, 256, inputs}});
  tasks.push_back({.model = shape(256, 64, 192, 3, 2, 1),
                   .batch = 1,
                   .length = 4096,
                   .choice = {.recompute = true, .mlp_tile = 256, .keep_attention = true}});
  for (const MemoryTask& task : tasks) {
    const MemoryPlan plan = plan_memory(task);
    const int64_t got = measured(task);
    CAPTURE(task.model.vocab_size);
    CAPTURE(task.length);
    CAPTURE(task.choice.recompute);
    CAPTURE(task.choice.mlp_tile);
    CAPTURE(task.choice.offload_activations);
    CAPTURE(task.choice.offload_optimizer);
    CAPTURE(task.choice.keep_attention);
    CAPTURE(task.choice.recompute_inputs);
    CAPTURE(static_cast<int>(task.arena.moments));
    CAPTURE(task.model.adapter.has_value());
    CAPTURE(plan.bytes);
    CAPTURE(got);
    CAPTURE(plan.moment);
    CHECK(static_cast<double>(plan.bytes) / static_cast<double>(got) == doctest::Approx(1).epsilon(0.05));
  }
}

TEST_CASE("the chosen plan stays under the limit, and no limit is met by nothing") {
  MemoryTask task{.model = shape(256, 64, 192, 4, 4, 4), .batch = 2, .length = 512};
  const int64_t most = plan_memory(task).bytes;
  CHECK(!choose_memory(task, most).recompute);
  CHECK(choose_memory(task, most).mlp_tile == 0);
  const MemoryChoice less = choose_memory(task, most * 7 / 10);
  CHECK((less.recompute || less.mlp_tile > 0));
  task.choice = less;
  CHECK(plan_memory(task).bytes <= most * 7 / 10);
  const std::string error = test::error_of([&] { choose_memory(task, 1 << 20); });
  CHECK(error.find("at the least") != std::string::npos);
  CHECK(error.find("--batch") != std::string::npos);
}

TEST_CASE("of recomputed blocks attention's outputs are kept where there is memory for them") {
  MemoryTask task{.model = shape(256, 64, 192, 8, 4, 4), .batch = 2, .length = 512};
  const auto bytes = [&](const MemoryChoice& choice) {
    task.choice = choice;
    return plan_memory(task).bytes;
  };
  const int64_t kept = bytes({.recompute = true, .keep_attention = true}), again = bytes({.recompute = true});
  // 8 blocks, 1024 tokens, in f32: outputs of 64 values and 4 statistics, all but one block's.
  CHECK(kept - again == 7 * 1024 * 4 * (64 + 4));
  const auto chosen = [&](int64_t limit) {
    task.choice = {};
    return choose_memory(task, limit, /*native=*/false);
  };
  CHECK(chosen(kept).recompute);
  CHECK(chosen(kept).keep_attention);
  CHECK(chosen(kept - 1).recompute);
  CHECK_FALSE(chosen(kept - 1).keep_attention);
  task.choice = {.keep_attention = true};
  CHECK_THROWS_WITH_AS(plan_memory(task), doctest::Contains("recomputed blocks"), Error);
}

TEST_CASE("inputs of linear layers are recomputed before anything else is given up") {
  MemoryTask task{.model = shape(256, 64, 192, 8, 4, 4), .batch = 2, .length = 512};
  const auto bytes = [&](const MemoryChoice& choice) {
    task.choice = choice;
    return plan_memory(task).bytes;
  };
  const int64_t whole = bytes({}), again = bytes({.recompute_inputs = true});
  REQUIRE(again < whole);
  const auto chosen = [&](int64_t limit, bool native = true) {
    task.choice = {};
    return choose_memory(task, limit, native);
  };
  CHECK_FALSE(chosen(whole).recompute_inputs);
  CHECK(chosen(whole - 1).recompute_inputs);
  CHECK_FALSE(chosen(whole - 1).recompute);
  CHECK(chosen(whole - 1).mlp_tile == 0);
  CHECK_FALSE(chosen(again - 1).recompute_inputs);
  CHECK(chosen(whole - 1, /*native=*/false).recompute);
}

TEST_CASE("small tiles come after what else fits") {
  MemoryTask task{.model = shape(256, 64, 1024, 2, 4, 4), .batch = 1, .length = 8192};
  const auto bytes = [&](const MemoryChoice& choice) {
    task.choice = choice;
    return plan_memory(task).bytes;
  };
  const int64_t limit = bytes({.recompute = true, .mlp_tile = 1024});
  REQUIRE(bytes({.recompute = true, .mlp_tile = 256, .keep_attention = true}) <= limit);
  task.choice = {};
  const MemoryChoice chosen = choose_memory(task, limit);
  CHECK(chosen.recompute);
  CHECK_FALSE(chosen.keep_attention);
  CHECK(chosen.mlp_tile == 1024);
}

TEST_CASE("on a GPU what is left over goes to the host, the blocks' inputs before the optimizer") {
  MemoryTask task{
      .model = shape(256, 64, 192, 8, 4, 4), .compute = DType::bf16, .cuda = true, .batch = 2, .length = 512};
  const auto bytes = [&](const MemoryChoice& choice) {
    task.choice = choice;
    return plan_memory(task).bytes;
  };
  const int64_t both = bytes({true, 64}), inputs = bytes({true, 64, true}), all = bytes({true, 64, true, true});
  REQUIRE(both > inputs);
  REQUIRE(inputs > all);
  CHECK(bytes({true, 64, false, true}) < both);
  const auto chosen = [&](int64_t limit, bool host = true) {
    task.choice = {};
    return choose_memory(task, limit, true, host);
  };
  CHECK_FALSE(chosen(both).offload_activations);
  CHECK(chosen(both - 1).offload_activations);
  CHECK_FALSE(chosen(inputs).offload_optimizer);
  CHECK(chosen(inputs - 1).offload_optimizer);
  CHECK(chosen(all).offload_activations);
  CHECK_THROWS_WITH_AS(chosen(all - 1), doctest::Contains("--moments int8"), Error);
  CHECK_THROWS_WITH_AS(chosen(both - 1, false), doctest::Contains("at the least"), Error);
  task.cuda = false;
  CHECK_THROWS_WITH_AS(chosen(all), doctest::Contains("at the least"), Error);
  task.cuda = true, task.choice = {true, 64, true, true};
  const MemoryPlan plan = plan_memory(task);
  int64_t sum = 0;
  for (const MemoryTerm& t : plan.host_terms) sum += t.bytes;
  CHECK(sum == plan.host_bytes);
}

TEST_CASE("a step under a limit of its plan runs, and under half of it ends with an error") {
  MemoryTask task{.model = shape(256, 64, 192, 4, 4, 4), .batch = 2, .length = 512};
  const int64_t base = memory_stats().live_bytes, bytes = plan_memory(task).bytes;
  set_memory_limit(base + bytes * 105 / 100);
  measured(task);
  set_memory_limit(base + bytes / 2);
  CHECK_THROWS_AS(measured(task), OutOfMemory);
  set_memory_limit(0);
  CHECK(Tape::current().saved_bytes() == 0);  // nothing is left of the pass that failed
}

TEST_CASE("sizes of memory are read as people write them") {
  CHECK(memory_size("24G") == int64_t{24} << 30);
  CHECK(memory_size("900M") == int64_t{900} << 20);
  CHECK(memory_size("1.5GiB") == int64_t{3} << 29);
  CHECK(memory_size("1024") == 1024);
  for (const char* bad : {"", "G", "-1G", "24X", "24GG", "nan", "1e30"})
    CHECK(test::error_of([&] { memory_size(bad); }).find("as 24G") != std::string::npos);
}
