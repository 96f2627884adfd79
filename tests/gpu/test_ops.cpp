// Every op on the GPU against the same op on the CPU in f64, through the public interface, forward and backward.
#include "autograd/ops/cast.h"
#include "autograd/ops/concat.h"
#include "autograd/ops/elementwise.h"
#include "autograd/ops/embedding.h"
#include "autograd/ops/loss.h"
#include "autograd/ops/matmul.h"
#include "autograd/ops/norm.h"
#include "autograd/ops/reduce.h"
#include "autograd/ops/rope.h"
#include "autograd/ops/swiglu.h"
#include "gpu.h"
#include "tensor/random.h"

using namespace rw;
using test::check_op;
using test::Place;
using test::randn;
using Vars = std::vector<Var>;

namespace {

const std::vector<Shape> kShapes = {{1, 1}, {1, 7}, {5, 129}, {3, 1000}, {1, 8}, {70, 256}, {33, 2048}};

Tensor ids_below(int64_t n, int64_t bound, uint64_t seed, bool skewed = false) {
  Random random(seed, Purpose::test);
  std::vector<int32_t> ids(static_cast<size_t>(n));
  for (int32_t& id : ids) {
    const int64_t range = skewed && random.below(2) ? std::min<int64_t>(bound, 3) : bound;
    id = static_cast<int32_t>(random.below(range));
  }
  return Tensor::from(ids);
}

/// Values away from zero, for log.
Tensor positive(Shape shape, uint64_t seed) {
  const Tensor t = randn(shape, seed);
  for (int64_t i = 0; i < t.numel(); ++i) t.data<double>()[i] = std::abs(t.data<double>()[i]) + 0.1;
  return t;
}

}  // namespace

TEST_CASE("elementwise ops on the GPU agree with the CPU for every shape") {
  if (!test::has_gpu()) return;
  for (const Shape& s : kShapes) {
    const std::vector<Tensor> two = {randn(s, 1), randn(s, 2)};
    check_op("add", two, [](const Vars& x, Place) { return Vars{add(x[0], x[1])}; });
    check_op("sub", two, [](const Vars& x, Place) { return Vars{sub(x[0], x[1])}; });
    check_op("mul", two, [](const Vars& x, Place) { return Vars{mul(x[0], x[1])}; });
    check_op("x used twice", two, [](const Vars& x, Place) { return Vars{add(mul(x[0], x[1]), x[0])}; });
    check_op("scale", {two[0]}, [](const Vars& x, Place) { return Vars{scale(x[0], -0.37)}; });
    check_op("exp", {two[0]}, [](const Vars& x, Place) { return Vars{exp(x[0])}; });
    check_op("log", {positive(s, 3)}, [](const Vars& x, Place) { return Vars{log(x[0])}; });
    check_op("tanh", {two[0]}, [](const Vars& x, Place) { return Vars{tanh(x[0])}; });
    check_op("silu", {two[0]}, [](const Vars& x, Place) { return Vars{silu(x[0])}; });
    check_op("add_bias", {two[0], randn({s[1]}, 4)}, [](const Vars& x, Place) { return Vars{add_bias(x[0], x[1])}; });
  }
  check_op("add_bias of many rows", {randn({3000, 40}, 1), randn({40}, 2)},
           [](const Vars& x, Place) { return Vars{add_bias(x[0], x[1])}; });
}

TEST_CASE("sums on the GPU agree with the CPU") {
  if (!test::has_gpu()) return;
  std::vector<Shape> shapes = kShapes;
  shapes.push_back({1, 300001});
  shapes.push_back({70000, 3});
  for (const Shape& s : shapes) {
    check_op("sum", {randn(s, 1)}, [](const Vars& x, Place) { return Vars{sum(x[0])}; });
    check_op("mean", {randn(s, 1)}, [](const Vars& x, Place) { return Vars{mean(x[0])}; });
    check_op("sum_last", {randn(s, 1)}, [](const Vars& x, Place) { return Vars{sum_last(x[0])}; });
  }
}

TEST_CASE("RMSNorm on the GPU agrees with the CPU, with and without the residual") {
  if (!test::has_gpu()) return;
  for (const Shape& s : std::vector<Shape>{{1, 1},
                                           {1, 7},
                                           {5, 129},
                                           {3, 1000},
                                           {700, 8},
                                           {257, 288},
                                           {64, 504},
                                           {100, 768},
                                           {9, 1024},
                                           {700, 2048},
                                           {3, 4096},
                                           {3, 8192},
                                           {2, 8200},
                                           {2, 9001}}) {
    const std::vector<Tensor> in = {randn(s, 1), randn({s[1]}, 2), randn(s, 3)};
    // With one column and a small eps, dx is the difference of two almost equal numbers: noise in any f32 formula.
    const double eps = s[1] == 1 ? 0.5 : 1e-5;
    check_op("rms_norm", {in[0], in[1]}, [&](const Vars& x, Place) { return Vars{rms_norm(x[0], x[1], eps)}; });
    check_op("residual_rms_norm, both outputs", in, [&](const Vars& x, Place) {
      const auto [h, y] = residual_rms_norm(x[0], x[2], x[1], eps);
      return Vars{h, y};
    });
    check_op("residual_rms_norm, y alone", in,
             [&](const Vars& x, Place) { return Vars{residual_rms_norm(x[0], x[2], x[1], eps).second}; });
  }
}

TEST_CASE("a weight gradient buffer that already holds something is added to") {
  if (!test::has_gpu()) return;
  const Tensor x = randn({40, 96}, 1, DType::bf16), w = randn({96}, 2, DType::bf16);
  const auto run = [&](Device device, DType dtype, DType buffer_type) {
    Tape tape;
    const TapeScope scope(tape);
    const Tensor buffer = Tensor::full({96}, 3.0, buffer_type).to(device);
    const Var weight = Var::leaf(w.to(dtype).to(device), buffer);
    tape.backward(sum(rms_norm(Var(x.to(dtype).to(device)), weight, 1e-5)));
    return buffer;
  };
  CHECK(test::relative_error(run(test::kGpu, DType::bf16, DType::f32), run(kCpu, DType::f64, DType::f64)) < 1e-5);
}

TEST_CASE("a bf16 gradient buffer gets the rounded f32 gradient of every op that has weights") {
  if (!test::has_gpu()) return;
  const int64_t rows = 300, columns = 96, wide = 160;
  const Tensor x = randn({rows, columns}, 1, DType::bf16).to(test::kGpu);
  Random random(3, Purpose::test);
  std::vector<int32_t> drawn;
  for (int64_t i = 0; i < rows; ++i) drawn.push_back(static_cast<int32_t>(random.below(20)));
  const Tensor ids = Tensor::from(drawn).to(test::kGpu);
  const auto gradient = [&](const Shape& shape, DType type, const std::function<Var(const Var&)>& op) {
    Tape tape;
    const TapeScope scope(tape);
    const Tensor buffer = Tensor::zeros(shape, type, test::kGpu);
    const Var y = op(Var::leaf(randn(shape, 2, DType::bf16).to(test::kGpu), buffer));
    tape.backward(y, randn(y.shape(), 4, DType::bf16).to(y.dtype()).to(test::kGpu));
    return buffer;
  };
  const auto compare = [&](const char* name, const Shape& shape, const std::function<Var(const Var&)>& op) {
    CAPTURE(name);
    CHECK(test::relative_error(gradient(shape, DType::bf16, op), gradient(shape, DType::f32, op)) <
          0x1p-7);  // the loss rounds twice
  };
  compare("rms_norm", {columns}, [&](const Var& w) { return rms_norm(Var(x), w, 1e-5); });
  compare("linear", {wide, columns}, [&](const Var& w) { return linear(Var(x), w); });
  compare("embedding", {wide, columns}, [&](const Var& w) { return embedding(ids, w); });
  compare("linear_cross_entropy", {wide, columns},
          [&](const Var& w) { return linear_cross_entropy(Var(x), w, ids, Reduction::sum); });
  // More rows of logits than live at once: their parts are added up in f32.
  const int64_t many = test::repetitions(9000, 0);
  if (many == 0) return;
  const Tensor long_x = randn({many, 64}, 5, DType::bf16).to(test::kGpu),
               long_ids = Tensor::full({many}, 7, DType::i32, test::kGpu);
  const auto op = [&](const Var& w) { return linear_cross_entropy(Var(long_x), w, long_ids, Reduction::sum); };
  const Shape shape{32000, 64};
  CHECK(test::same_bits(gradient(shape, DType::bf16, op), gradient(shape, DType::f32, op).to(DType::bf16)));
}

TEST_CASE("SwiGLU on the GPU agrees with the CPU, separate and packed") {
  if (!test::has_gpu()) return;
  for (const Shape& s : kShapes) {
    check_op("swiglu", {randn(s, 1, DType::f64, 3), randn(s, 2)},
             [](const Vars& x, Place) { return Vars{swiglu(x[0], x[1])}; });
    check_op("swiglu_packed", {randn({s[0], 2 * s[1]}, 3)},
             [](const Vars& x, Place) { return Vars{swiglu_packed(x[0])}; });
  }
}

TEST_CASE("embedding on the GPU agrees with the CPU for repeated ids, and sums them in a fixed order") {
  if (!test::has_gpu()) return;
  struct Case {
    int64_t n, vocab, columns;
    bool skewed;
  };
  for (const Case& c : std::vector<Case>{{1, 1, 1, false},
                                         {7, 3, 7, false},
                                         {32, 32, 8, false},
                                         {33, 1, 16, false},
                                         {129, 50, 129, true},
                                         {1000, 4, 264, false},
                                         {2500, 32000, 96, true},
                                         {64, 1, 1100, false},
                                         {4000, 7, 1100, true}}) {
    for (const Shape& shape : std::vector<Shape>{{c.n}, {c.n, 1}}) {
      const Tensor ids = ids_below(c.n, c.vocab, 5, c.skewed).view(shape);
      check_op("embedding", {randn({c.vocab, c.columns}, 1)},
               [&](const Vars& x, const Place& p) { return Vars{embedding(p.put(ids), x[0])}; });
    }
  }
}

TEST_CASE("an id outside the vocabulary gives zeros on the GPU and no gradient") {
  if (!test::has_gpu()) return;
  const Tensor ids = Tensor::from(std::vector<int32_t>{2, -1, 5, 1 << 30, 2});
  Tape tape;
  const TapeScope scope(tape);
  const Var weight = Var::leaf(Tensor::full({5, 8}, 1.0).to(test::kGpu));
  const Var y = embedding(ids.to(test::kGpu), weight);
  const auto values = y.value().to_vector();
  for (size_t i = 0; i < values.size(); ++i) CHECK(values[i] == (i / 8 == 0 || i / 8 == 4 ? 1.0 : 0.0));
  tape.backward(sum(y));
  const auto grad = weight.grad().to_vector();
  for (size_t i = 0; i < grad.size(); ++i) CHECK(grad[i] == (i / 8 == 2 ? 2.0 : 0.0));
}

namespace {

struct RopeCase {
  int64_t batch, length, heads, dim, pairs;
  RopeOptions options;
  bool per_sample_positions = true, per_sample_freq = false;
};

void check_rope(const RopeCase& c) {
  const Tensor positions = Tensor::empty({c.per_sample_positions ? c.batch : 1, c.length});
  Random random(3, Purpose::test);
  for (int64_t i = 0; i < positions.numel(); ++i)
    positions.data<float>()[i] = static_cast<float>(random.below(100000)) + 0.25f;
  const Tensor freq = Tensor::empty(c.per_sample_freq ? Shape{c.batch, c.pairs} : Shape{c.pairs}, DType::f64);
  for (int64_t i = 0; i < freq.numel(); ++i)
    freq.data<double>()[i] =
        static_cast<float>(std::pow(10000.0, -double(i % c.pairs) / double(c.pairs)) * (1 + 0.01 * double(i)));
  std::vector<Var> frequencies;  // of each run; the rule needs their gradients too
  const auto op = [&](const Vars& x, const Place& p) {
    const Var inv_freq = Var::leaf(freq);
    frequencies.push_back(inv_freq);
    return Vars{rope(x[0], rope_angles(positions, inv_freq, 1.2, p.dtype, p.device), c.options)};
  };
  if (c.options.in_place) {
    check_op("rope in place", {randn({c.batch, c.length, c.heads, c.dim}, 1)}, [&](const Vars& x, const Place& p) {
      return op({scale(x[0], 1.0)}, p);  // not the leaf itself: its bytes are reused
    });
  } else {
    check_op("rope", {randn({c.batch, c.length, c.heads, c.dim}, 1)}, op);
  }
  for (size_t i = 0; i + 3 < frequencies.size(); i += 4) {  // reference, plain, GPU, GPU again
    const double error = test::relative_error(frequencies[i + 2].grad(), frequencies[i].grad());
    const double plain = test::relative_error(frequencies[i + 1].grad(), frequencies[i].grad());
    INFO("inv_freq gradient, run " << i / 4 << ": error " << error << ", plain " << plain);
    CHECK(error <= std::max(2 * plain, 0x1p-21));
    CHECK(test::same_bits(frequencies[i + 2].grad(), frequencies[i + 3].grad()));
  }
}

}  // namespace

TEST_CASE("RoPE on the GPU agrees with the CPU, in x and in the frequencies") {
  if (!test::has_gpu()) return;
  for (const RopeLayout layout : {RopeLayout::half, RopeLayout::interleaved}) {
    for (const int64_t dim : {16, 48, 64, 96, 128, 256}) check_rope({2, 37, 5, dim, dim / 2, {layout}});
    check_rope({1, 1, 1, 2, 1, {layout}});
    check_rope({1, 7, 1, 6, 3, {layout}});
    check_rope({3, 129, 4, 64, 32, {layout}, true, true});   // per-sample frequencies
    check_rope({3, 20, 4, 64, 32, {layout}, false, false});  // shared positions
    check_rope({2, 20, 4, 64, 32, {layout}, false, true});
    check_rope({2, 20, 4, 64, 16, {layout}});  // partial rotary
    check_rope({2, 20, 4, 20, 7, {layout}});
    check_rope({2, 20, 8, 64, 32, {layout, 6}});  // packed q, k, v: v is copied
    check_rope({2, 20, 8, 64, 16, {layout, 6}});
    check_rope({2, 20, 8, 64, 32, {layout, 6, true}});
    check_rope({2, 20, 3, 10, 5, {layout, 2, true}});
    check_rope({1, 3000, 12, 64, 32, {layout}});
  }
}

TEST_CASE("cross-entropy on the GPU agrees with the CPU for every reduction") {
  if (!test::has_gpu()) return;
  for (const auto& [rows, vocab] : std::vector<std::pair<int64_t, int64_t>>{{1, 1},
                                                                            {1, 7},
                                                                            {5, 129},
                                                                            {400, 1000},
                                                                            {3, 4096},
                                                                            {9, 32000},
                                                                            {3, 50257},
                                                                            {3, 50304},
                                                                            {2, 65536},
                                                                            {2, 128256},
                                                                            {700, 512}}) {
    const Tensor targets = ids_below(rows, vocab, 6);
    if (rows > 2) targets.data<int32_t>()[1] = kIgnoreIndex;
    for (const Reduction reduction : {Reduction::none, Reduction::sum, Reduction::mean}) {
      check_op("cross_entropy of " + std::to_string(vocab), {randn({rows, vocab}, 1, DType::f64, 4)},
               [&](const Vars& x, const Place& p) { return Vars{cross_entropy(x[0], p.put(targets), reduction)}; });
    }
  }
}

TEST_CASE("cross-entropy on the GPU stays finite at huge logits") {
  if (!test::has_gpu()) return;
  for (const DType dtype : {DType::f32, DType::bf16}) {
    for (const int64_t vocab : {40, 7, 70001}) {
      for (const double huge : {1e4, 1e30, 3e38}) {
        const Tensor logits = Tensor::full({2, vocab}, -huge, DType::f32);
        logits.data<float>()[3] = static_cast<float>(huge);
        logits.data<float>()[vocab + 5] = static_cast<float>(huge);
        const Tensor targets = Tensor::from(std::vector<int32_t>{3, 0});
        Tape tape;
        const TapeScope scope(tape);
        const Var x = Var::leaf(logits.to(dtype).to(test::kGpu));
        const Var nll = cross_entropy(x, targets.to(test::kGpu), Reduction::none);
        tape.backward(nll, Tensor::full({2}, 1.0).to(test::kGpu));
        CHECK(nll.value().to_vector()[0] == 0.0);
        CHECK_FALSE(has_nonfinite(x.grad()));
        CHECK(x.grad().to_vector()[static_cast<size_t>(vocab)] == -1.0);
        CHECK(x.grad().to_vector()[static_cast<size_t>(vocab) + 5] == 1.0);
      }
    }
  }
}

TEST_CASE("SwiGLU, silu and RMSNorm on the GPU stay finite at huge inputs") {
  if (!test::has_gpu()) return;
  const Tensor x = Tensor::from(std::vector<float>{-1e30f, -1e4f, -89.f, -88.f, 0.f, 88.f, 89.f, 1e4f}, {1, 8});
  for (const DType dtype : {DType::f32, DType::bf16}) {
    Tape tape;
    const TapeScope scope(tape);
    const Var gate = Var::leaf(x.to(dtype).to(test::kGpu)),
              up = Var::leaf(Tensor::full({1, 8}, 2.0, dtype).to(test::kGpu));
    const Var weight = Var::leaf(Tensor::full({8}, 1.0, dtype).to(test::kGpu));
    const Var y = swiglu(gate, up), z = silu(gate), n = rms_norm(scale(gate, 1e-15), weight, 1e-5);
    CHECK_FALSE(has_nonfinite(y.value()));
    CHECK_FALSE(has_nonfinite(z.value()));
    CHECK_FALSE(has_nonfinite(n.value()));
    const Tensor ones = Tensor::full({1, 8}, 1.0, dtype).to(test::kGpu);
    tape.backward({y, z, n}, {ones, ones, ones});
    CHECK_FALSE(has_nonfinite(gate.grad()));
    CHECK_FALSE(has_nonfinite(up.grad()));
    CHECK_FALSE(has_nonfinite(weight.grad()));
  }
}

TEST_CASE("matrix products and linear + cross-entropy on the GPU agree with the CPU") {
  if (!test::has_gpu()) return;
  for (const auto& [m, n, k] : std::vector<std::array<int64_t, 3>>{
           {1, 1, 1}, {7, 5, 3}, {129, 65, 33}, {64, 128, 256}, {1, 1000, 96}, {1, 300, 7}}) {
    check_op("matmul", {randn({m, k}, 1), randn({k, n}, 2)},
             [](const Vars& x, Place) { return Vars{matmul(x[0], x[1])}; });
    check_op("linear", {randn({m, k}, 1), randn({n, k}, 2)},
             [](const Vars& x, Place) { return Vars{linear(x[0], x[1])}; });
  }
  const Tensor targets = ids_below(50, 333, 6);
  targets.data<int32_t>()[4] = kIgnoreIndex;
  for (const Reduction reduction : {Reduction::sum, Reduction::mean}) {
    check_op("linear_cross_entropy", {randn({50, 24}, 1), randn({333, 24}, 2)}, [&](const Vars& x, const Place& p) {
      return Vars{linear_cross_entropy(x[0], x[1], p.put(targets), reduction)};
    });
  }
}

TEST_CASE("concat, narrow, row lookup and cast on the GPU agree with the CPU") {
  if (!test::has_gpu()) return;
  const Tensor index = ids_below(9, 6, 7);
  for (const int64_t width : {1, 7, 8, 40}) {
    const std::vector<Tensor> in = {randn({6, 3, width}, 1), randn({6, 2, width}, 2)};
    check_op("concat", in, [](const Vars& x, Place) { return Vars{concat({x[0], x[1]}, 1)}; });
    check_op("narrow", {in[0]}, [](const Vars& x, Place) { return Vars{narrow(x[0], 1, 1, 3)}; });
    check_op("narrow of the last dimension", {in[0]},
             [&](const Vars& x, Place) { return Vars{narrow(x[0], 2, width / 2, width)}; });
    check_op("index_rows", {in[0]},
             [&](const Vars& x, const Place& p) { return Vars{index_rows(x[0], p.put(index))}; });
    check_op("cast", {in[0]}, [](const Vars& x, Place) {
      return Vars{cast(x[0], x[0].dtype() == DType::bf16 ? DType::f32 : x[0].dtype())};
    });
  }
}
