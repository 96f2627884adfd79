// Several ranks train the model that one process trains.
#include <cmath>

#include "nn/io/checkpoint.h"
#include "nn/train_step.h"
#include "parallel/ranks.h"

using namespace rw;

namespace {

constexpr int64_t kBatch = 6, kLength = 12;

struct Case {
  DType dtype = DType::f64;
  bool tied = true, recompute = false, keep_attention = false;
  std::string rope = "default";
  int64_t accumulate = 1;
  double clip = 1.0;
};

ModelConfig config_of(const Case& c) {
  ModelConfig m;
  m.vocab_size = 40, m.hidden_size = 24, m.intermediate_size = 40, m.num_hidden_layers = 3, m.num_attention_heads = 4;
  m.num_key_value_heads = 2;
  m.tie_word_embeddings = c.tied;
  m.rope.max_position_embeddings = 16;
  m.rope.kind = rope_kind(c.rope);
  return m;
}

/// Samples [first, first + count) of a step's micro-batch; the number of scored targets differs from sample to sample.
StepInput input(const Case& c, int64_t step, int64_t micro, int64_t first, int64_t count) {
  StepInput in;
  in.ids = Tensor::empty({count, kLength}, DType::i32);
  in.targets = Tensor::empty({count, kLength}, DType::i32);
  in.positions = Tensor::empty({count, kLength});
  in.context = {.length = 16, .training = true};
  for (int64_t b = 0; b < count; ++b) {
    Random random(9, Purpose::test, static_cast<uint64_t>(step), static_cast<uint64_t>(micro * kBatch + first + b));
    for (int64_t t = 0; t < kLength; ++t) {
      const int64_t i = b * kLength + t;
      in.ids.data<int32_t>()[i] = static_cast<int32_t>(random.below(40));
      const bool scored = random.below(6) >= 1 + (first + b) % 3;
      in.targets.data<int32_t>()[i] = scored ? static_cast<int32_t>(random.below(40)) : -100;
      in.scored += scored;
      in.positions.data<float>()[i] = static_cast<float>(t);
    }
    if (c.rope == "clex") in.t.push_back(1 + static_cast<double>((first + b) % 2));
  }
  return in;
}

struct Result {
  std::vector<double> losses, norms, weights, compute, m, v;
  int64_t scored = 0, moments = 0;
};

/// Trains from `state.step` to `steps`, and saves there if a folder is given.
struct Trainer {
  Trainer(const Case& the_case, Communicator* the_comm, int64_t bucket_bytes)
      : c(the_case), comm(the_comm), model(config_of(c), c.dtype, kCpu, comm ? 1 + comm->rank() : 1) {
    if (comm) parallel.emplace(*comm, model.arena(), bucket_bytes);
    optimizer.emplace(model.arena(), AdamWConfig{.weight_decay = 0.1});
    model.enable_grad();
    model.set_recompute(c.recompute, {.keep_attention = c.keep_attention});
    step.emplace(model, *optimizer, true, parallel ? &*parallel : nullptr);
  }
  void train(int64_t from, int64_t to) {
    const int64_t share = kBatch / (comm ? comm->size() : 1), first = comm ? comm->rank() * share : 0;
    for (int64_t s = from; s < to; ++s) {
      for (int64_t micro = 0; micro < c.accumulate; ++micro)
        step->add(input(c, s, micro, first, share), micro + 1 == c.accumulate);
      result.scored += step->update(1e-2, c.clip);
      const StepResult r = step->result();
      result.losses.push_back(r.loss);
      result.norms.push_back(r.grad_norm);
    }
  }
  void save(const std::string& folder, int64_t at) {
    WholeMoments moments;
    if (parallel) {
      parallel->gather_master();
      moments = parallel->gather_moments();
    }
    if (!comm || comm->root()) save_checkpoint(folder, model, *optimizer, {.step = at}, 0, {}, moments);
    if (comm) comm->barrier();
  }
  Result finish() {
    result.moments = model.arena().m().numel();
    result.compute = model.arena().compute().to_vector();
    WholeMoments moments{model.arena().m(), model.arena().v()};
    if (parallel) {
      parallel->gather_master();
      moments = parallel->gather_moments();
    }
    result.weights = model.arena().master().to_vector();
    if (moments.m.defined()) {
      result.m = moments.m.to_vector();
      result.v = moments.v.to_vector();
    }
    return result;
  }
  Case c;
  Communicator* comm;
  CausalLm model;
  std::optional<DataParallel> parallel;
  std::optional<AdamW> optimizer;
  std::optional<TrainStep> step;
  Result result;
};

Result alone(const Case& c, int64_t steps) {
  Trainer t(c, nullptr, 0);
  t.train(0, steps);
  return t.finish();
}

std::vector<Result> together(const Case& c, int size, int64_t steps, int64_t bucket_bytes = 4096) {
  std::vector<Result> results(static_cast<size_t>(size));
  test::run_ranks(size, [&](Communicator& comm) {
    Trainer t(c, &comm, bucket_bytes);
    t.train(0, steps);
    results[static_cast<size_t>(comm.rank())] = t.finish();
  });
  return results;
}

void check_equal(const std::vector<Result>& ranks, const Result& one, double tolerance) {
  for (const Result& r : ranks) {
    CHECK(test::relative_error(r.losses, one.losses) <= tolerance);
    CHECK(test::relative_error(r.norms, one.norms) <= tolerance);
    CHECK(r.scored == one.scored);
    CHECK(r.compute == ranks[0].compute);  // the same on all, to the bit
  }
  CHECK(test::relative_error(ranks[0].weights, one.weights) <= tolerance);
  CHECK(test::relative_error(ranks[0].m, one.m) <= tolerance);
  CHECK(test::relative_error(ranks[0].v, one.v) <= tolerance);
}

}  // namespace

TEST_CASE("two and three ranks train as one process does, in f64 to 1e-12") {
  for (const bool tied : {true, false}) {
    for (const auto& [recompute, keep] : {std::pair{false, false}, std::pair{true, false}, std::pair{true, true}}) {
      CAPTURE(tied);
      CAPTURE(recompute);
      CAPTURE(keep);
      const Case c{.tied = tied, .recompute = recompute, .keep_attention = keep};
      const Result one = alone(c, 4);
      for (const int size : {2, 3}) check_equal(together(c, size, 4), one, 1e-12);
    }
  }
}

TEST_CASE("gradients of one step are those of one process: f32 within 1e-6 of the largest") {
  const Case c{.dtype = DType::f32, .clip = 0};
  const Result one = alone(c, 1);
  const std::vector<Result> two = together(c, 2, 1);
  CHECK(test::relative_error(two[0].m, one.m) <= 1e-6);  // m = (1 - beta1) gradient after the first step
  CHECK(test::relative_error(two[0].losses, one.losses) <= 1e-6);
}

TEST_CASE("any size of bucket gives the same bits") {
  const Case c{.dtype = DType::f32};
  const Result small = together(c, 2, 2, 64)[0], large = together(c, 2, 2, int64_t{1} << 30)[0];
  CHECK(small.weights == large.weights);
  CHECK(small.m == large.m);
}

TEST_CASE("a repeated run gives the same bits") {
  const Case c{.dtype = DType::f32};
  const Result first = together(c, 3, 3)[0], second = together(c, 3, 3)[0];
  CHECK(first.weights == second.weights);
  CHECK(first.losses == second.losses);
  CHECK(first.v == second.v);
}

TEST_CASE("micro-batches add up before their sum travels") {
  const Case c{.accumulate = 3};
  check_equal(together(c, 2, 3), alone(c, 3), 1e-12);
}

TEST_CASE("learned frequencies and bf16 parameters stay in step on all ranks") {
  check_equal(together({.rope = "clex"}, 2, 3), alone({.rope = "clex"}, 3), 1e-9);
  const Case c{.dtype = DType::bf16, .rope = "clex"};
  const std::vector<Result> ranks = together(c, 2, 4);
  CHECK(ranks[0].compute == ranks[1].compute);
  CHECK(ranks[0].losses == ranks[1].losses);
  CHECK(std::abs(ranks[0].losses.back() / alone(c, 4).losses.back() - 1) < 0.01);
  // What each rank computes with: bf16 parameters, but the f32 values of the learned frequencies.
  std::vector<std::vector<double>> learned(2);
  test::run_ranks(2, [&](Communicator& comm) {
    Trainer t(c, &comm, 4096);
    const std::vector<double> before = t.model.arena().master_of(t.model.arena().size() - 1).to_vector();
    t.train(0, 3);
    const std::vector<double> after = t.model.arena().master_of(t.model.arena().size() - 1).to_vector();
    CHECK(before != after);
    learned[static_cast<size_t>(comm.rank())] = after;
  });
  CHECK(learned[0] == learned[1]);
}

TEST_CASE("each rank has moments for its own part only") {
  const int64_t total = alone({}, 1).moments;
  int64_t sum = 0;
  for (const Result& r : together({}, 3, 1)) {
    CHECK(r.moments < total / 3 + 256);
    sum += r.moments;
  }
  CHECK(sum == total);
}

TEST_CASE("a checkpoint does not depend on the number of ranks") {
  const Case c;
  const Result straight = alone(c, 5);
  const test::TempDir dir;
  test::run_ranks(2, [&](Communicator& comm) {
    Trainer t(c, &comm, 4096);
    t.train(0, 3);
    t.save(dir.path(), 3);
  });
  const std::string folder = *latest_checkpoint(dir.path());
  const auto resumed = [&](Communicator* comm) {
    Trainer t(c, comm, 4096);
    const TrainerState state = load_checkpoint(folder, t.model, *t.optimizer);
    t.train(state.step, 5);
    return t.finish();
  };
  const Result by_one = resumed(nullptr);
  CHECK(test::relative_error(by_one.weights, straight.weights) <= 1e-12);
  CHECK(test::relative_error(by_one.v, straight.v) <= 1e-12);
  const std::vector<Result> uninterrupted = together(c, 2, 5);
  for (const int size : {2, 3}) {
    Result root;
    test::run_ranks(size, [&](Communicator& comm) {
      const Result r = resumed(&comm);
      if (comm.root()) root = r;
    });
    CHECK(test::relative_error(root.weights, straight.weights) <= 1e-12);
    if (size == 2) {  // to the bit
      CHECK(root.weights == uninterrupted[0].weights);
      CHECK(root.m == uninterrupted[0].m);
      CHECK(root.v == uninterrupted[0].v);
    }
  }
}

TEST_CASE("a part of the moments is not written as if it were the whole") {
  const test::TempDir dir;
  CausalLm model(config_of({}), DType::f32, kCpu, 1);
  model.arena().own(0, 64);
  const AdamW optimizer(model.arena(), {});
  CHECK(test::error_of([&] { save_checkpoint(dir.path(), model, optimizer, {}, 0); }).find("part of the moments") !=
        std::string::npos);
  CHECK_THROWS_AS(model.arena().own(0, 128), Error);
}

TEST_CASE("an arena with split masters or bf16 gradients is not shared among ranks") {
  test::run_ranks(2, [](Communicator& comm) {
    for (const ArenaMemory memory : {ArenaMemory{.split_master = true}, ArenaMemory{.bf16_gradients = true}}) {
      ParamArena arena;
      arena.add({"w", {100}, normal_init(1)});
      arena.allocate(DType::bf16, kCpu, 1, memory);
      CHECK_THROWS_WITH_AS(DataParallel(comm, arena), doctest::Contains("one process"), Error);
    }
  });
}
