// Split masters and bf16 gradients: what they keep exactly, and what they round.
#include <cmath>
#include <cstring>
#include <filesystem>

#include "autograd/ops/loss.h"
#include "autograd/tape.h"
#include "models.h"
#include "nn/causal_lm.h"
#include "nn/io/checkpoint.h"
#include "nn/io/hf.h"
#include "nn/split_master.h"
#include "support.h"
#include "tensor/allocator.h"
#include "tensor/file.h"

using namespace rw;

namespace {

ModelConfig tiny() {
  ModelConfig c;
  c.vocab_size = 50, c.hidden_size = 32, c.intermediate_size = 48, c.num_hidden_layers = 2, c.num_attention_heads = 4;
  c.num_key_value_heads = 2;
  c.tie_word_embeddings = false;
  c.rope.max_position_embeddings = 32;
  return c;
}

bool same_bits(const Tensor& a, const Tensor& b) {
  return a.dtype() == b.dtype() && a.shape() == b.shape() &&
         std::memcmp(a.raw(), b.raw(), static_cast<size_t>(a.bytes())) == 0;
}

bool same_values(const ParamArena& a, const ParamArena& b) {
  bool same = a.size() == b.size();
  for (size_t i = 0; i < a.size(); ++i) same &= same_bits(a.values_of(i), b.values_of(i));
  return same;
}

/// Elements of two bf16 tensors that differ.
int64_t differing(const Tensor& a, const Tensor& b) {
  int64_t n = 0;
  for (int64_t i = 0; i < a.numel(); ++i) n += a.data<bf16>()[i].bits != b.data<bf16>()[i].bits;
  return n;
}

/// Three parameters of odd sizes with rates of their own.
void declare(ParamArena& arena) {
  arena.add({"a", {700}, normal_init(1)});
  arena.add({"b", {33, 101}, normal_init(0.02), false});
  arena.add({"c", {5}, constant_init(1), true, 0.5});
}

struct Run {
  std::vector<double> losses;
  std::vector<Tensor> values;
};
Run train(ArenaMemory memory, int64_t steps) {
  CausalLm model(tiny(), DType::bf16, kCpu, 3, memory);
  AdamW optimizer(model.arena(), {.weight_decay = 0.1});
  model.enable_grad();
  Run run;
  for (int64_t step = 0; step < steps; ++step) {
    const Tensor text = test::learnable(4, 17, static_cast<uint64_t>(step), 50);
    const Tensor ids = Tensor::empty({4, 16}, DType::i32), targets = Tensor::empty({4, 16}, DType::i32);
    for (int64_t i = 0; i < 64; ++i) {
      ids.data<int32_t>()[i] = text.data<int32_t>()[i / 16 * 17 + i % 16];
      targets.data<int32_t>()[i] = text.data<int32_t>()[i / 16 * 17 + i % 16 + 1];
    }
    const Var loss = model.loss(ids, targets, model.angles(model.plain_positions(0, 16), {}));
    run.losses.push_back(loss.item() / 64);
    backward(loss);
    optimizer.step(3e-3, 1.0 / 64, 1.0);
  }
  for (size_t i = 0; i < model.arena().size(); ++i) run.values.push_back(model.arena().values_of(i));
  return run;
}

double tail_mean(const std::vector<double>& losses, size_t count) {
  double sum = 0;
  for (size_t i = losses.size() - count; i < losses.size(); ++i) sum += losses[i];
  return sum / static_cast<double>(count);
}

}  // namespace

TEST_CASE("a split f32 comes back bit for bit, and its upper half is the nearest bf16") {
  // Zero, the smallest subnormals and normals, both sides of one, all bits of the fraction set, the largest numbers.
  for (const uint32_t upper : {0x0000u, 0x0001u, 0x007fu, 0x0080u, 0x0081u, 0x3c23u, 0x3c24u, 0x3f7fu, 0x3f80u, 0x3fffu,
                               0x4000u, 0x7effu, 0x7f7eu, 0x7f7fu, 0x7f80u}) {
    for (const uint32_t sign : {0x0000u, 0x8000u}) {
      int64_t wrong = 0, differ = 0;
      for (uint32_t lower = 0; lower < 0x10000u; ++lower) {
        const uint32_t bits = ((upper | sign) << 16) | lower;
        if (upper == 0x7f80u && lower != 0) break;  // NaN
        const SplitFloat s = split_float(bits);
        wrong += join_float(s) != bits;
        float value = 0;
        std::memcpy(&value, &bits, 4);
        const uint16_t nearest = bf16(value).bits;
        const bool halfway = lower == 0x8000u;
        if (!halfway) differ += s.high != nearest;
        if (halfway) CHECK(s.high == ((upper | sign) + 1));  // away from zero
      }
      CAPTURE(upper);
      CHECK(wrong == 0);
      CHECK(differ == 0);
    }
  }
}

TEST_CASE("a NaN stays one when it is split, in both halves together and in the upper one alone") {
  for (const uint32_t bits : {0x7f800001u, 0x7fffffffu, 0xffffffffu, 0xff80ffffu, 0x7fc00000u}) {
    const SplitFloat s = split_float(bits);
    const uint32_t joined = join_float(s);
    CHECK((joined & 0x7fffffffu) > 0x7f800000u);
    CHECK((s.high & 0x7fffu) > 0x7f80u);
    CHECK((joined >> 31) == (bits >> 31));
  }
}

TEST_CASE("AdamW with split masters makes the same f32 weights as without, bit for bit") {
  ParamArena plain, split;
  declare(plain);
  declare(split);
  plain.allocate(DType::bf16, kCpu, 5);
  split.allocate(DType::bf16, kCpu, 5, {.split_master = true});
  CHECK(same_values(plain, split));
  CHECK_FALSE(split.master().defined());
  CHECK(split.compute().bytes() + split.low().bytes() <= 4 * split.numel() + 2);
  AdamW first(plain, {.weight_decay = 0.1}), second(split, {.weight_decay = 0.1});
  for (uint64_t step = 0; step < 20; ++step) {
    const Tensor g = test::randn({plain.numel()}, step, DType::f32);
    plain.grad().copy_from(g);
    split.grad().copy_from(g);
    const double rate = step < 10 ? 1e-2 : 1e-5;  // large steps and such as leave the copy as it is
    CHECK(first.step(rate, 0.5, 1.0) == second.step(rate, 0.5, 1.0));
    CHECK(same_values(plain, split));
    CHECK(same_bits(plain.m(), split.m()));
    CHECK(same_bits(plain.v(), split.v()));
    CHECK(differing(plain.compute(), split.compute()) <= 2);  // values halfway between two bf16
    for (size_t i = 0; i < split.size(); ++i)
      CHECK(same_bits(split[i].grad(), Tensor::zeros(split.segments()[i].spec.shape)));
  }
}

TEST_CASE("a norm that is not finite leaves split masters as they were") {
  ParamArena arena, before;
  for (ParamArena* a : {&arena, &before}) {
    declare(*a);
    a->allocate(DType::bf16, kCpu, 5, ArenaMemory::small_state());
  }
  AdamW optimizer(arena, {});
  arena.grad().fill(1);
  arena.grad().slice(17, 18).fill(INFINITY);
  CHECK_FALSE(std::isfinite(optimizer.step(1e-2)));
  CHECK(same_values(arena, before));
  CHECK(arena.grad().to_vector() == std::vector<double>(static_cast<size_t>(arena.numel()), 0.0));
}

TEST_CASE("AdamW with bf16 gradients is AdamW with gradients that are bf16 numbers") {
  for (const bool split : {false, true}) {
    ParamArena wide, narrow;
    declare(wide);
    declare(narrow);
    wide.allocate(DType::bf16, kCpu, 5);
    narrow.allocate(DType::bf16, kCpu, 5, {.split_master = split, .bf16_gradients = true});
    AdamW first(wide, {.weight_decay = 0.1}), second(narrow, {.weight_decay = 0.1});
    CHECK(narrow.grad().dtype() == DType::bf16);
    for (uint64_t step = 0; step < 3; ++step) {
      const Tensor g = test::randn({wide.numel()}, step, DType::bf16);
      wide.grad().copy_from(g);
      narrow.grad().copy_from(g);
      CHECK(first.step(1e-2, 0.5, 1.0) == second.step(1e-2, 0.5, 1.0));
      CHECK(same_values(wide, narrow));
    }
  }
}

TEST_CASE("training with split masters and f32 gradients follows the plain trajectory") {
  const Run plain = train({}, 12), split = train({.split_master = true}, 12);
  // The copy differs where a master is halfway between two bf16, which none of these few thousand may ever be.
  for (size_t i = 0; i < plain.losses.size(); ++i) CHECK(std::abs(plain.losses[i] - split.losses[i]) < 1e-3);
}

TEST_CASE("a model trained with bf16 gradients stays within one percent of the loss with f32 gradients") {
  const Run plain = train({}, 150), small = train(ArenaMemory::small_state(), 150);
  CHECK(tail_mean(plain.losses, 10) < 0.9 * plain.losses.front());
  CHECK(std::abs(tail_mean(small.losses, 10) - tail_mean(plain.losses, 10)) < 0.01 * tail_mean(plain.losses, 10));
}

TEST_CASE("a checkpoint of split masters has the bytes of a plain one and loads into either") {
  const test::TempDir dir;
  ParamArena* arenas[2] = {};
  CausalLm plain(tiny(), DType::bf16, kCpu, 1), split(tiny(), DType::bf16, kCpu, 1, {.split_master = true});
  AdamW first(plain.arena(), {}), second(split.arena(), {});
  arenas[0] = &plain.arena(), arenas[1] = &split.arena();
  for (ParamArena* a : arenas) a->grad().copy_from(test::randn({a->numel()}, 4, DType::f32));
  first.step(1e-3);
  second.step(1e-3);
  const std::string a = save_checkpoint(dir.path("a"), plain, first, {.step = 1}, 1),
                    b = save_checkpoint(dir.path("b"), split, second, {.step = 1}, 1);
  for (const std::string file : {"/model.safetensors", "/optimizer.safetensors", "/config.json"})
    CHECK(read_file(a + file) == read_file(b + file));
  for (const ArenaMemory memory : {ArenaMemory{}, ArenaMemory{.split_master = true}, ArenaMemory::small_state()}) {
    for (const std::string& folder : {a, b}) {
      CausalLm other(tiny(), DType::bf16, kCpu, 2, memory);
      AdamW third(other.arena(), {});
      load_checkpoint(folder, other, third);
      CHECK(same_values(other.arena(), plain.arena()));
      CHECK(same_bits(other.arena().m(), plain.arena().m()));
      CHECK(differing(other.arena().compute(), plain.arena().compute()) <= 2);
    }
  }
  save_hf(dir.path("hf"), split, {.dtype = DType::bf16});
  const auto loaded =
      load_hf(dir.path("hf"), {.compute = DType::bf16, .adjust = {}, .memory = ArenaMemory::small_state()});
  for (size_t i = 0; i < plain.arena().size(); ++i)
    CHECK(same_bits(loaded->arena().values_of(i), plain.arena().values_of(i).to(DType::bf16).to(DType::f32)));
}

TEST_CASE("an arena of small state takes 14 bytes for each parameter, a plain one 18") {
  for (const bool small : {false, true}) {
    const int64_t before = memory_stats().live_bytes;
    ParamArena arena;
    arena.add({"w", {1000, 100}, normal_init(1)});
    arena.allocate(DType::bf16, kCpu, 1, small ? ArenaMemory::small_state() : ArenaMemory{});
    const AdamW optimizer(arena, {});
    CHECK(memory_stats().live_bytes - before == 100000 * (small ? 14 : 18));
  }
}

TEST_CASE("the saving is refused where it cannot be had, and says why") {
  for (const DType dtype : {DType::f32, DType::f64}) {
    CHECK_THROWS_WITH_AS(CausalLm(tiny(), dtype, kCpu, 1, ArenaMemory::small_state()),
                         doctest::Contains("computes in bf16"), Error);
  }
  ModelConfig clex = tiny();
  clex.rope = rope_config_from_json(
      R"({"max_position_embeddings":32,"head_dim":8,"rope_scaling":{"rope_type":"clex","max_factor":4}})");
  CHECK_THROWS_WITH_AS(CausalLm(clex, DType::bf16, kCpu, 1, ArenaMemory::small_state()),
                       doctest::Contains("cannot be split"), Error);
  CausalLm model(tiny(), DType::bf16, kCpu, 1, ArenaMemory::small_state());
  CHECK_THROWS_WITH_AS(model.arena().own(0, 64), doctest::Contains("one process"), Error);
  CHECK_THROWS_WITH_AS(model.arena().master_of(0), doctest::Contains("split"), Error);
  CHECK_THROWS_WITH_AS(model.arena().set_values(0, Tensor::zeros({3})), doctest::Contains("must have shape"), Error);
}
