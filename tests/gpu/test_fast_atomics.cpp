// Gradients that Tape::set_fast_atomics lets blocks add up as they come: as exact as those in a fixed order, which come
// back, bit for bit, when it is off again. Attention's are in test_attention_gpu.cpp, beside the other ways it has.
#include "autograd/ops/embedding.h"
#include "gpu.h"
#include "nn/adamw.h"
#include "nn/causal_lm.h"
#include "nn/train_step.h"
#include "tensor/random.h"

using namespace rw;
using test::Place;
using test::randn;
using test::run_op;
using Vars = std::vector<Var>;

namespace {

/// On for the thread's tape, on which TrainStep records.
struct FastAtomics {
  FastAtomics() { Tape::current().set_fast_atomics(true); }
  ~FastAtomics() { Tape::current().set_fast_atomics(false); }
};

/// The rule of test::check_op for every value of `op` by atomics; values before `first_free` must repeat bit for bit,
/// as must all of them in a fixed order, before and after.
void check_by_atomics(const std::string& name, const std::vector<Tensor>& inputs, size_t first_free,
                      const test::Op& op) {
  for (const DType dtype : {DType::f32, DType::bf16}) {
    std::vector<Tensor> rounded;
    for (const Tensor& t : inputs) rounded.push_back(t.to(dtype).to(DType::f64));
    const test::Result reference = run_op(op, rounded, {kCpu, DType::f64}), plain = run_op(op, rounded, {kCpu, dtype}),
                       before = run_op(op, rounded, {test::kGpu, dtype});
    const test::Result got = run_op(op, rounded, {test::kGpu, dtype, true}),
                       again = run_op(op, rounded, {test::kGpu, dtype, true});
    const test::Result after = run_op(op, rounded, {test::kGpu, dtype});
    for (size_t i = 0; i < got.values.size(); ++i) {
      const double error = test::relative_error(got.values[i], reference.values[i]);
      const double allowed = std::max(2 * test::relative_error(plain.values[i], reference.values[i]),
                                      test::rounding(got.values[i].dtype()));
      INFO(name << ", " << std::string(name_of(dtype)) << ", value " << i << ": error " << error << ", allowed "
                << allowed);
      CHECK(error <= allowed);
      if (i < first_free) CHECK(test::same_bits(got.values[i], again.values[i]));
      CHECK(test::same_bits(before.values[i], after.values[i]));
    }
  }
}

Tensor skewed_ids(int64_t n, int64_t vocab) {
  Random random(5, Purpose::test);
  std::vector<int32_t> ids(static_cast<size_t>(n));
  for (int32_t& id : ids)
    id = static_cast<int32_t>(random.below(random.below(2) ? std::min<int64_t>(vocab, 3) : vocab));
  return Tensor::from(ids);
}

/// Loss and gradient norm of a few steps of a small model with head dim `head_dim`, from the same start.
std::vector<double> train(int64_t head_dim) {
  ModelConfig c;
  c.vocab_size = 300, c.hidden_size = 4 * head_dim, c.intermediate_size = 128, c.num_hidden_layers = 2;
  c.num_attention_heads = 4, c.num_key_value_heads = 2;
  c.rope.max_position_embeddings = 256;
  CausalLm model(c, DType::bf16, test::kGpu, 3);
  AdamW optimizer(model.arena(), {});
  model.enable_grad();
  TrainStep step(model, optimizer);
  const Tensor ids = skewed_ids(512, 300).view({2, 256});
  std::vector<double> out;
  for (int i = 0; i < 6; ++i) {
    step.add({ids, ids, model.plain_positions(0, 256), {}, {}, 512});
    step.update(1e-3, 1.0);
    const StepResult r = step.result();
    out.push_back(r.loss);
    out.push_back(r.grad_norm);
  }
  return out;
}

}  // namespace

TEST_CASE("a tape's switch for atomics is off until it is set, and does nothing on the CPU") {
  CHECK_FALSE(Tape().fast_atomics());
  CHECK_FALSE(Tape::current().fast_atomics());
  const Tensor ids = skewed_ids(200, 9);
  const auto gradient = [&](bool fast) {
    const Var weight = Var::leaf(randn({9, 24}, 1, DType::f32));
    Tape tape;
    tape.set_fast_atomics(fast);
    const TapeScope scope(tape);
    const Var y = embedding(ids, weight);
    tape.backward({y}, {randn(y.shape(), 2, DType::f32)});
    return weight.grad();
  };
  CHECK(test::same_bits(gradient(false), gradient(true)));
}

TEST_CASE("the embedding's gradient by atomics agrees with the CPU for repeated and for skewed ids") {
  if (!test::has_gpu()) return;
  for (const auto& [n, vocab, columns] : std::vector<std::array<int64_t, 3>>{
           {1, 1, 1}, {7, 3, 7}, {33, 1, 16}, {129, 50, 129}, {1000, 4, 264}, {2500, 32000, 96}, {4000, 7, 1100}}) {
    const Tensor ids = skewed_ids(n, vocab);
    check_by_atomics("embedding", {randn({vocab, columns}, 1)}, 1,
                     [&](const Vars& x, const Place& p) { return Vars{embedding(p.put(ids), x[0])}; });
  }
}

TEST_CASE("by atomics an id outside the vocabulary gives no gradient, and what a buffer holds stays in the sum") {
  if (!test::has_gpu()) return;
  const Tensor ids = Tensor::from(std::vector<int32_t>{2, -1, 5, 1 << 30, 2});
  const Tensor buffer = Tensor::full({5, 8}, 3.0, DType::f32).to(test::kGpu);
  Tape tape;
  tape.set_fast_atomics(true);
  const TapeScope scope(tape);
  const Var weight = Var::leaf(Tensor::full({5, 8}, 1.0, DType::bf16).to(test::kGpu), buffer);
  const Var y = embedding(ids.to(test::kGpu), weight);
  tape.backward({y}, {Tensor::full(y.shape(), 1.0, DType::bf16).to(test::kGpu)});
  const auto grad = buffer.to_vector();
  for (size_t i = 0; i < grad.size(); ++i) CHECK(grad[i] == (i / 8 == 2 ? 5.0 : 3.0));
}

TEST_CASE("with the switch off two trainings are equal bit for bit; with it on they stay close to those") {
  if (!test::has_gpu()) return;
  for (const int64_t head_dim : {48, 64}) {
    CAPTURE(head_dim);
    const std::vector<double> first = train(head_dim), second = train(head_dim);
    std::vector<double> fast;
    {
      const FastAtomics on;
      fast = train(head_dim);
    }
    CHECK(first == second);
    CHECK(train(head_dim) == first);
    CHECK(test::relative_error(fast, first) < 0.02);
  }
}
