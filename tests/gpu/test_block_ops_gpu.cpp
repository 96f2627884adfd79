// The ops of blocks beyond LLaMA's on the GPU against the same ops on the CPU in f64: biases, LayerNorm, norms of q and
// k, GELU, soft caps, the loss with a bias and a soft cap, attention with a window and a soft cap.
#include "autograd/ops/activation.h"
#include "autograd/ops/attention.h"
#include "autograd/ops/elementwise.h"
#include "autograd/ops/loss.h"
#include "autograd/ops/matmul.h"
#include "autograd/ops/norm.h"
#include "autograd/ops/reduce.h"
#include "gpu.h"
#include "tensor/gemm.h"
#include "tensor/profile.h"

using namespace rw;
using test::check_op;
using test::Place;
using test::randn;
using Vars = std::vector<Var>;

namespace {

const std::vector<Shape> kRows = {{1, 1},     {1, 7},    {5, 129},    {3, 1000}, {700, 8},  {257, 288}, {64, 504},
                                  {100, 768}, {9, 1024}, {700, 2048}, {3, 4096}, {3, 8192}, {2, 8200},  {2, 9001}};
const std::vector<Shape> kShapes = {{1, 1}, {1, 7}, {5, 129}, {3, 1000}, {1, 8}, {70, 256}, {33, 2048}};

}  // namespace

TEST_CASE("LayerNorm on the GPU agrees with the CPU, with and without bias and residual") {
  if (!test::has_gpu()) return;
  for (const Shape& s : kRows) {
    const std::vector<Tensor> in = {randn(s, 1), randn({s[1]}, 2), randn({s[1]}, 3), randn(s, 4)};
    // With few columns and a small eps, dx is the difference of almost equal numbers: noise in any f32 formula.
    const double eps = s[1] < 8 ? 0.5 : 1e-5;
    check_op("layer_norm", {in[0], in[1], in[2]},
             [&](const Vars& x, Place) { return Vars{layer_norm(x[0], x[1], x[2], eps)}; });
    check_op("layer_norm without bias", {in[0], in[1]},
             [&](const Vars& x, Place) { return Vars{layer_norm(x[0], x[1], {}, eps)}; });
    check_op("residual_layer_norm, both outputs", in, [&](const Vars& x, Place) {
      const auto [h, y] = residual_layer_norm(x[0], x[3], x[1], x[2], eps);
      return Vars{h, y};
    });
    check_op("residual_layer_norm, y alone", in,
             [&](const Vars& x, Place) { return Vars{residual_layer_norm(x[0], x[3], x[1], x[2], eps).second}; });
  }
}

TEST_CASE("RMSNorm with a weight offset on the GPU agrees with the CPU") {
  if (!test::has_gpu()) return;
  for (const Shape& s : std::vector<Shape>{{5, 129}, {257, 288}, {9, 1024}, {3, 4096}, {2, 9001}}) {
    const std::vector<Tensor> in = {randn(s, 1), randn({s[1]}, 2), randn(s, 3)};
    const NormOptions gemma{.eps = 1e-6, .weight_offset = 1};
    check_op("rms_norm", {in[0], in[1]}, [&](const Vars& x, Place) { return Vars{rms_norm(x[0], x[1], gemma)}; });
    check_op("residual_rms_norm", in, [&](const Vars& x, Place) {
      const auto [h, y] = residual_rms_norm(x[0], x[2], x[1], gemma);
      return Vars{h, y};
    });
  }
}

TEST_CASE("qk_norm on the GPU agrees with the CPU, head by head and across heads, in place and not") {
  if (!test::has_gpu()) return;
  struct Case {
    int64_t batch, length, heads, kv_heads, dim;
  };
  for (const Case& c : std::vector<Case>{{1, 1, 1, 1, 8},
                                         {2, 37, 4, 2, 16},
                                         {1, 5, 6, 1, 20},
                                         {3, 50, 4, 4, 64},
                                         {1, 129, 8, 2, 128},
                                         {1, 20, 4, 1, 256},
                                         {1, 3, 2, 1, 7},
                                         {1, 9, 2, 1, 264},
                                         {1, 700, 16, 4, 24}}) {
    for (const bool across : {false, true}) {
      const QkNormOptions options{
          .n_heads = c.heads, .n_kv_heads = c.kv_heads, .eps = 1e-5, .weight_offset = 0.5, .across_heads = across};
      const Tensor qkv = randn({c.batch, c.length, c.heads + 2 * c.kv_heads, c.dim}, 1);
      const Tensor wq = randn({across ? c.heads * c.dim : c.dim}, 2),
                   wk = randn({across ? c.kv_heads * c.dim : c.dim}, 3);
      check_op("qk_norm", {qkv, wq, wk},
               [&](const Vars& x, Place) { return Vars{qk_norm(x[0], x[1], x[2], options)}; });
      QkNormOptions in_place = options;
      in_place.in_place = true;
      check_op(
          "qk_norm in place", {qkv, wq, wk},
          [&](const Vars& x, Place) {
            const NoGrad no_grad;
            return Vars{qk_norm(x[0], x[1], x[2], in_place)};
          },
          false);
      // A gradient that someone else holds, too, must not be overwritten.
      check_op("qk_norm, shared gradient", {qkv, wq, wk}, [&](const Vars& x, Place) {
        const Var y = qk_norm(x[0], x[1], x[2], options);
        return Vars{add(y, x[0])};
      });
    }
  }
}

TEST_CASE("activations and gated activations on the GPU agree with the CPU") {
  if (!test::has_gpu()) return;
  for (const Activation a : {Activation::silu, Activation::gelu, Activation::gelu_tanh}) {
    for (const Shape& s : kShapes) {
      check_op("activate", {randn(s, 1, DType::f64, 2)}, [=](const Vars& x, Place) { return Vars{activate(x[0], a)}; });
      check_op("gated_packed", {randn({s[0], 2 * s[1]}, 3, DType::f64, 2)},
               [=](const Vars& x, Place) { return Vars{gated_packed(x[0], a)}; });
    }
  }
}

TEST_CASE("activations on the GPU have the right limits and keep NaN") {
  if (!test::has_gpu()) return;
  for (const Activation a : {Activation::gelu, Activation::gelu_tanh}) {
    for (const DType dtype : {DType::f32, DType::bf16}) {
      const Tensor in = Tensor::from<double>({1e30, -1e30, 40, -40, NAN}).to(dtype);
      Tape tape;
      const TapeScope scope(tape);
      const Var x = Var::leaf(in.to(test::kGpu));
      const Var y = activate(x, a);
      tape.backward(y, Tensor::full({5}, 1.0, dtype, test::kGpu));
      const auto v = y.value().to_vector(), g = x.grad().to_vector(), want = in.to_vector();
      for (size_t i : {0, 2}) CHECK((v[i] == want[i] && g[i] == 1));
      for (size_t i : {1, 3}) CHECK((v[i] == 0 && g[i] == 0));
      CHECK((std::isnan(v[4]) && std::isnan(g[4])));
    }
  }
}

TEST_CASE("a bias below an activation gets the same bits, whether the activation's backward sums its rows or not") {
  if (!test::has_gpu()) return;
  for (const Activation a : {Activation::gelu, Activation::gelu_tanh}) {
    for (const auto& [m, n, k] : std::vector<std::array<int64_t, 3>>{{1, 1, 1}, {700, 264, 32}, {129, 65, 33}}) {
      for (const DType dtype : {DType::f32, DType::bf16}) {
        const auto bias_gradient = [&](bool apart) {
          Tape tape;
          const TapeScope scope(tape);
          const auto leaf = [&](const Shape& shape, uint64_t seed) {
            return Var::leaf(randn(shape, seed, DType::bf16).to(dtype).to(test::kGpu));
          };
          const Var x = leaf({m, k}, 1), w = leaf({n, k}, 2), b = leaf({n}, 3);
          Var up = linear(x, w, b);
          if (apart) up = reshape(up, {1, m, n});
          const Var y = activate(up, a);
          tape.backward(y, randn(y.shape(), 4, DType::bf16).to(dtype).to(test::kGpu));
          return b.grad();
        };
        CHECK(test::same_bits(bias_gradient(false), bias_gradient(true)));
      }
    }
  }
}

TEST_CASE("biases side by side get the same bits, whether the rows of their one gradient are summed once or twice") {
  if (!test::has_gpu()) return;
  for (const DType dtype : {DType::f32, DType::bf16}) {
    const auto gradients = [&](bool apart) {
      Tape tape;
      const TapeScope scope(tape);
      const auto leaf = [&](const Shape& shape, uint64_t seed) {
        return Var::leaf(randn(shape, seed, DType::bf16).to(dtype).to(test::kGpu));
      };
      const Var x = leaf({700, 32}, 1), b1 = leaf({264}, 2), b2 = leaf({264}, 3);
      const Var first = linear(x, leaf({264, 32}, 4), b1), second = linear(x, leaf({264, 32}, 5), b2);
      const Var y = apart ? add(reshape(first, {1, 700, 264}), reshape(second, {1, 700, 264})) : add(first, second);
      tape.backward(y, randn(y.shape(), 6, DType::bf16).to(dtype).to(test::kGpu));
      return std::array{b1.grad(), b2.grad()};
    };
    const auto once = gradients(false), twice = gradients(true);
    for (const size_t i : {0, 1}) CHECK(test::same_bits(once[i], twice[i]));
  }
}

TEST_CASE("soft_cap and linear with a bias on the GPU agree with the CPU") {
  if (!test::has_gpu()) return;
  for (const Shape& s : kShapes)
    check_op("soft_cap", {randn(s, 1, DType::f64, 3)}, [](const Vars& x, Place) { return Vars{soft_cap(x[0], 2.5)}; });
  for (const auto& [m, n, k] : std::vector<std::array<int64_t, 3>>{
           {1, 1, 1}, {7, 5, 3}, {129, 65, 33}, {64, 128, 256}, {1, 1000, 96}, {300, 8, 16}}) {
    check_op("linear with bias", {randn({m, k}, 1), randn({n, k}, 2), randn({n}, 3)},
             [](const Vars& x, Place) { return Vars{linear(x[0], x[1], x[2])}; });
  }
}

TEST_CASE("a product on the GPU is rounded to bf16 once, after its bias was added") {
  if (!test::has_gpu()) return;
  const std::vector<std::array<int64_t, 3>> sizes = {
      {2, 5, 24},     {2, 8, 24},     {50, 7, 24},    {50, 8, 24},     {50, 333, 24}, {50, 1000, 24},
      {50, 1024, 24}, {50, 8, 33},    {50, 1024, 33}, {300, 8, 16},    {300, 33, 8},  {300, 100, 16},
      {129, 65, 33},  {64, 128, 256}, {512, 512, 64}, {50, 32000, 24}, {2, 1000, 96}};
  for (const auto& [m, n, k] : sizes) {
    const std::vector<double> x = randn({k}, 1, DType::bf16).to_vector(), w = randn({n, k}, 2, DType::bf16).to_vector();
    std::vector<double> rows;  // [m,k], all equal
    for (int64_t i = 0; i < m; ++i) rows.insert(rows.end(), x.begin(), x.end());
    std::vector<double> product(static_cast<size_t>(n), 0.0), minus;
    for (size_t i = 0; i < product.size(); ++i) {
      for (size_t j = 0; j < x.size(); ++j) product[i] += x[j] * w[i * x.size() + j];
      minus.push_back(-product[i]);
    }
    // The bias takes all of the product away but what its own rounding leaves: nothing is left of a rounded product.
    const Tensor bias = Tensor::from(minus).to(DType::bf16);
    const std::vector<double> rounded = bias.to_vector();
    const Tensor y = Tensor::empty({m, n}, DType::bf16, test::kGpu);
    const Tensor a = Tensor::from(rows).view({m, k}).to(DType::bf16).to(test::kGpu),
                 b = Tensor::from(w).view({n, k}).to(DType::bf16).to(test::kGpu);
    gemm(a, transposed(b), y, {.bias = bias.to(test::kGpu)});
    const std::vector<double> got = y.to_vector();
    double worst = 0;
    for (size_t i = 0; i < got.size(); ++i) {
      const size_t column = i % product.size();
      const double want = product[column] + rounded[column];
      worst = std::max(worst, (std::fabs(got[i] - want) - std::fabs(want) * 0x1p-8) / (1 + std::fabs(product[column])));
    }
    INFO("m " << m << ", n " << n << ", k " << k << ": error beyond a rounding, in units of the product: " << worst);
    CHECK(worst <= static_cast<double>(k) * 0x1p-22);
  }
}

TEST_CASE("the loss with a bias and a soft cap on the GPU agrees with the CPU") {
  if (!test::has_gpu()) return;
  for (const int64_t vocab : {7, 333, 1000, 32000}) {
    std::vector<int32_t> drawn;
    for (int32_t i = 0; i < 50; ++i) drawn.push_back(i == 4 ? kIgnoreIndex : i * 37 % static_cast<int32_t>(vocab));
    const Tensor targets = Tensor::from(drawn), weights = randn({50}, 7, DType::f32);
    for (const double cap : {0.0, 2.5}) {
      const std::vector<Tensor> in = {randn({50, 24}, 1), randn({vocab, 24}, 2), randn({vocab}, 3)};
      check_op("linear_cross_entropy, bias " + std::to_string(cap), in, [&](const Vars& x, const Place& p) {
        return Vars{linear_cross_entropy(x[0], x[1], p.put(targets), LossOptions{.bias = x[2], .soft_cap = cap})};
      });
      check_op("linear_cross_entropy, row weights", in, [&](const Vars& x, const Place& p) {
        const LossOptions options{
            .reduction = Reduction::sum, .row_weights = p.put(weights), .bias = x[2], .soft_cap = cap};
        return Vars{linear_cross_entropy(x[0], x[1], p.put(targets), options)};
      });
      check_op(
          "token_nll", in,
          [&](const Vars& x, const Place& p) {
            return Vars{token_nll(x[0].value(), x[1].value(), p.put(targets),
                                  LossOptions{.bias = x[2].detach(), .soft_cap = cap})};
          },
          false);
    }
  }
}

TEST_CASE("attention with a window and a soft cap on the GPU agrees with the CPU through the public interface") {
  if (!test::has_gpu()) return;
  for (const int64_t dim : {20, 64}) {
    for (const AttentionOptions& options : {AttentionOptions{.window = 33}, AttentionOptions{.soft_cap = 2},
                                            AttentionOptions{.window = 100, .soft_cap = 1.5}}) {
      check_op("attention_packed", {randn({2, 150, 6, dim}, 1)},
               [&](const Vars& x, Place) { return Vars{attention_packed(x[0], 4, 1, options)}; });
    }
  }
}
