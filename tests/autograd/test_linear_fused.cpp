// swiglu_mlp and linear_rope where no kernel makes two ops in one: the ops one after the other, and what they refuse.
#include "autograd/ops/elementwise.h"
#include "autograd/ops/linear_fused.h"
#include "autograd/ops/swiglu.h"
#include "autograd/tape.h"
#include "support.h"

using namespace rw;
using test::randn;

namespace {

bool same(const Tensor& a, const Tensor& b) { return a.shape() == b.shape() && a.to_vector() == b.to_vector(); }

RopeAngles angles_of(int64_t length, int64_t pairs) {
  std::vector<float> positions(static_cast<size_t>(length));
  for (size_t i = 0; i < positions.size(); ++i) positions[i] = static_cast<float>(3 * i);
  const Tensor frequencies = randn({pairs}, 9);
  return rope_angles(Tensor::from(positions, {1, length}), Var(frequencies), 1, DType::f64, kCpu);
}

}  // namespace

TEST_CASE("swiglu_mlp is two linear layers with SwiGLU between them, whichever of its inputs is trained") {
  const Tensor x = randn({2, 5, 8}, 1), up = randn({24, 8}, 2), down = randn({8, 12}, 3), seed = randn({2, 5, 8}, 4);
  for (int trained = 1; trained < 8; ++trained) {
    const auto leaves = [&] {
      const auto one = [&](int bit, const Tensor& t) { return trained & bit ? Var::leaf(t.clone()) : Var(t); };
      return std::vector<Var>{one(1, x), one(2, up), one(4, down)};
    };
    const std::vector<Var> a = leaves(), b = leaves();
    const Var y = swiglu_mlp(a[0], a[1], a[2]);
    backward(y, seed.clone());
    const Var z = linear(swiglu_packed(linear(b[0], b[1])), b[2]);
    backward(z, seed.clone());
    CHECK(same(y.value(), z.value()));
    for (size_t i = 0; i < 3; ++i) {
      if (a[i].requires_grad()) CHECK(same(a[i].grad(), b[i].grad()));
    }
  }
}

TEST_CASE("linear_rope is a linear layer and RoPE of its first heads") {
  const Var x = Var::leaf(randn({1, 7, 6}, 1)), w = Var::leaf(randn({24, 6}, 2));
  const RopeAngles angles = angles_of(7, 4);
  const Var y = linear_rope(x, w, 8, angles, {.heads = 2});
  const Var z = rope(reshape(linear(Var(x.value()), Var(w.value())), {1, 7, 3, 8}), angles, {.heads = 2});
  CHECK(same(y.value(), z.value()));
}

TEST_CASE("fused linear layers refuse what the ops refuse, by name") {
  const Var x(randn({1, 7, 6}, 1)), w(randn({24, 6}, 2));
  const RopeAngles angles = angles_of(7, 4);
  CHECK_THROWS_WITH_AS(linear_rope(x, w, 0, angles, {}), doctest::Contains("linear_rope"), Error);
  CHECK_THROWS_WITH_AS(linear_rope(x, w, 7, angles, {}), doctest::Contains("D = 7"), Error);
  CHECK_THROWS_WITH_AS(linear_rope(x, Var(randn({24, 5}, 3)), 8, angles, {}), doctest::Contains("x must have shape"),
                       Error);
  CHECK_THROWS_WITH_AS(linear_rope(x, w, 8, angles_of(6, 4), {}), doctest::Contains("angles are for"), Error);
  CHECK_THROWS_WITH_AS(swiglu_mlp(x, Var(randn({24, 5}, 3)), w), doctest::Contains("x must have shape"), Error);
  CHECK_THROWS_WITH_AS(swiglu_mlp(x, w, Var(randn({6, 11}, 3))), doctest::Contains("x must have shape"), Error);
  CHECK_THROWS_WITH_AS(rope(reshape(x, {1, 7, 1, 6}), angles_of(7, 3), {.turned = true}), doctest::Contains("in place"),
                       Error);
}
