// Rows of 2^20 tokens: the last of them are computed as the first are.
#include <cmath>

#include "autograd/ops/attention.h"
#include "autograd/ops/loss.h"
#include "autograd/ops/rope.h"
#include "autograd/tape.h"
#include "support.h"

using namespace rw;

namespace {
constexpr int64_t kLength = int64_t{1} << 20;
}

TEST_CASE("attention with a window over 2^20 tokens has the values and gradients of its last rows alone") {
  constexpr int64_t kWindow = 8, kTail = 200;
  const Tensor qkv = test::randn({1, kLength, 3, 2}, 1, DType::f32),
               d_o = test::randn({1, kLength, 1, 2}, 2, DType::f32);
  const Var whole = Var::leaf(qkv);
  const Var o = attention_packed(whole, 1, 1, {.window = kWindow});
  backward(o, d_o);
  const auto tail = [](const Tensor& t, int64_t count) {
    const int64_t n = t.numel() / kLength;
    return t.view({kLength, n}).slice(kLength - count, kLength);
  };
  // Rows whose windows, and whose keys' readers, lie in the tail.
  const Var part = Var::leaf(tail(qkv, kTail).clone().view({1, kTail, 3, 2}));
  const Var o_part = attention_packed(part, 1, 1, {.window = kWindow});
  backward(o_part, tail(d_o, kTail).clone().view({1, kTail, 1, 2}));
  const int64_t inside = kTail - kWindow;
  CHECK(test::relative_error(tail(o.value(), inside), o_part.value().view({kTail, 2}).slice(kWindow, kTail)) < 1e-5);
  CHECK(test::relative_error(tail(whole.grad(), inside), part.grad().view({kTail, 6}).slice(kWindow, kTail)) < 1e-5);
}

TEST_CASE("angles at position 2^20 - 1 are exact") {
  const Tensor positions = Tensor::empty({1, kLength});
  for (int64_t t = 0; t < kLength; ++t) positions.data<float>()[t] = static_cast<float>(t);
  const Tensor frequency = Tensor::full({1}, 0.7, DType::f64);
  const RopeAngles angles = rope_angles(positions, Var(frequency), 1, DType::f32, kCpu);
  for (const int64_t t : {int64_t{1}, kLength / 2, kLength - 1}) {
    CHECK(angles.cos.data<float>()[t] == doctest::Approx(std::cos(0.7 * static_cast<double>(t))).epsilon(1e-6));
    CHECK(angles.sin.data<float>()[t] == doctest::Approx(std::sin(0.7 * static_cast<double>(t))).epsilon(1e-6));
  }
}

TEST_CASE("the loss of 2^20 rows in several tiles is the sum of its tiles") {
  constexpr int64_t kVocab = 40;  // about ten tiles
  const Tensor x = test::randn({kLength, 2}, 3, DType::f32), w = test::randn({kVocab, 2}, 4, DType::f32);
  std::vector<int32_t> ids(static_cast<size_t>(kLength));
  for (size_t i = 0; i < ids.size(); ++i) ids[i] = static_cast<int32_t>(i % kVocab);
  const Tensor targets = Tensor::from(ids, {kLength});
  const Tensor each = token_nll(x, w, targets, {.reduction = Reduction::sum, .row_weights = {}, .bias = {}});
  double sum = 0;
  for (const double v : each.to_vector()) sum += v;
  const Var rows = Var::leaf(x);
  const Var loss = linear_cross_entropy(rows, Var(w), targets, Reduction::sum);
  CHECK(loss.item() == doctest::Approx(sum).epsilon(1e-6));
  backward(loss);
  // The last row by hand.
  const float* last = x.data<float>() + 2 * (kLength - 1);
  double total = 0, gradient = 0;
  for (int64_t v = 0; v < kVocab; ++v)
    total += std::exp(static_cast<double>(last[0] * w.data<float>()[2 * v] + last[1] * w.data<float>()[2 * v + 1]));
  for (int64_t v = 0; v < kVocab; ++v) {
    const double logit = last[0] * w.data<float>()[2 * v] + last[1] * w.data<float>()[2 * v + 1];
    gradient += (std::exp(logit) / total - (v == ids.back() ? 1 : 0)) * w.data<float>()[2 * v];
  }
  CHECK(rows.grad().data<float>()[2 * (kLength - 1)] == doctest::Approx(gradient).epsilon(1e-4));
}
