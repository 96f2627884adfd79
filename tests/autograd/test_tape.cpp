#include <cmath>

#include "autograd/kept_values.h"
#include "autograd/ops/attention.h"
#include "autograd/ops/cast.h"
#include "autograd/ops/elementwise.h"
#include "autograd/ops/embedding.h"
#include "autograd/ops/loss.h"
#include "autograd/ops/matmul.h"
#include "autograd/ops/norm.h"
#include "autograd/ops/reduce.h"
#include "autograd/ops/rope.h"
#include "autograd/recompute.h"
#include "support.h"
#include "tensor/allocator.h"
#include "tensor/threads.h"

using namespace rw;

TEST_CASE("gradients of a value used several times add up") {
  const Var x = Var::leaf(Tensor::from<double>({3.0}));
  backward(sum(add(mul(x, x), scale(x, 4))));  // x^2 + 4x
  CHECK(x.grad().item() == doctest::Approx(10));
}

TEST_CASE("two slots that were handed one gradient tensor do not write through each other") {
  const Var a = Var::leaf(Tensor::from<double>({1.0})), b = Var::leaf(Tensor::from<double>({2.0}));
  const Var c = add(a, b);             // hands one tensor to a and to b
  backward(sum(add(c, scale(a, 5))));  // a gets 5 more, b must not
  CHECK(a.grad().item() == 6);
  CHECK(b.grad().item() == 1);
}

TEST_CASE("a chain of a hundred thousand ops runs backward without recursion") {
  const Var x = Var::leaf(Tensor::from<double>({1.0}));
  Var y = x;
  for (int i = 0; i < 100000; ++i) y = scale(y, 1.00001);
  backward(sum(y));
  CHECK(x.grad().item() == doctest::Approx(std::pow(1.00001, 100000)));
  CHECK(Tape::current().size() == 0);
}

TEST_CASE("nothing is recorded inside NoGrad and constants need no gradient") {
  const Var x = Var::leaf(Tensor::from<double>({1.0}));
  {
    const NoGrad guard;
    CHECK_FALSE(scale(x, 2).requires_grad());
  }
  CHECK_FALSE(scale(Var(Tensor::from<double>({1.0})), 2).requires_grad());
  CHECK(Tape::current().size() == 0);
  CHECK(test::error_of([] { backward(Var(Tensor::from<double>({1.0}))); }) ==
        "[backward] the root needs no gradient: nothing was recorded for it");
}

TEST_CASE("an exception in the middle leaves the tape usable") {
  const Var x = Var::leaf(Tensor::from<double>({1.0, 2.0}));
  const Var y = scale(x, 2);
  CHECK(test::error_of([&] { backward(y); }).find("needs a seed") != std::string::npos);
  Tape::current().clear();
  backward(sum(scale(x, 3)));
  CHECK(x.grad().to_vector() == std::vector<double>{3, 3});
}

TEST_CASE("a gradient buffer given to a leaf is added to, in its own dtype") {
  const Tensor buffer = Tensor::full({2, 3}, 1.0);
  const Var w = Var::leaf(test::randn({2, 3}, 1, DType::bf16), buffer);
  const Tensor x = Tensor::full({4, 3}, 1.0, DType::bf16);
  backward(sum(cast(linear(x, w), DType::f32)));
  CHECK(buffer.to_vector() == std::vector<double>(6, 5.0));
}

TEST_CASE("a recompute region gives the same gradients from less memory") {
  const Tensor x0 = test::randn({64, 32}, 1);
  const Var w = Var::leaf(test::randn({32, 32}, 2));
  const RecomputedRegion region = [&](const std::vector<Var>& in, bool) {
    Var h = in[0];
    for (int i = 0; i < 6; ++i) h = tanh(linear(h, w));
    return std::vector<Var>{h};
  };
  const auto run = [&](bool recompute, int64_t& saved) {
    const Var x = Var::leaf(x0);
    w.clear_grad();
    const Var y = recompute ? rw::recompute(region, {x})[0] : region({x}, false)[0];
    saved = Tape::current().saved_bytes();
    backward(sum(y));
    return std::pair{x.grad().to_vector(), w.grad().to_vector()};
  };
  int64_t plain_bytes = 0, recompute_bytes = 0;
  const auto plain = run(false, plain_bytes), recomputed = run(true, recompute_bytes);
  CHECK(plain == recomputed);
  CHECK(recompute_bytes * 5 < plain_bytes);
}

TEST_CASE("what a region gives in backward is read by nobody, so its last product may be left out") {
  const Tensor x0 = test::randn({64, 32}, 1), dy = test::randn({64, 24}, 4);
  const Var w = Var::leaf(test::randn({32, 32}, 2)), last = Var::leaf(test::randn({24, 32}, 3));
  std::vector<bool> calls;
  const auto run = [&](bool leave_out) {
    calls.clear();
    const Var x = Var::leaf(x0);
    w.clear_grad(), last.clear_grad();
    const Var y = rw::recompute(
        [&](const std::vector<Var>& in, bool unread) {
          calls.push_back(unread);
          return std::vector<Var>{linear(tanh(linear(in[0], w)), last, {}, {.unread = leave_out && unread})};
        },
        {x})[0];
    backward(y, dy);
    return std::vector{y.value().to_vector(), x.grad().to_vector(), w.grad().to_vector(), last.grad().to_vector()};
  };
  const auto want = run(false), got = run(true);
  CHECK(calls == std::vector<bool>{false, true});
  CHECK(got == want);
}

TEST_CASE("attention that a region keeps is not computed again, and its gradients are the same bits") {
  const Shape shape{1, 40, 2, 8};
  const auto run = [&](bool recomputed, bool keep, std::vector<const void*>& outputs) {
    const Var q = Var::leaf(test::randn(shape, 1)), k = Var::leaf(test::randn(shape, 2)),
              v = Var::leaf(test::randn(shape, 3));
    const RecomputedRegion region = [&](const std::vector<Var>& in, bool) {
      // A region within keeps nothing of its own, and takes nothing of the outer one's.
      const Var inner = recompute(
          [](const std::vector<Var>& x, bool) { return std::vector<Var>{attention(x[0], x[0], x[0])}; }, {in[0]})[0];
      const Var o = attention(inner, in[1], in[2]);
      outputs.push_back(o.value().raw());
      return std::vector<Var>{tanh(o)};
    };
    const Var y = recomputed ? recompute(region, {q, k, v}, nullptr, keep)[0] : region({q, k, v}, false)[0];
    backward(y, test::randn(shape, 4));
    return std::vector{y.value().to_vector(), q.grad().to_vector(), k.grad().to_vector(), v.grad().to_vector()};
  };
  std::vector<const void*> plain, again, kept;
  const auto want = run(false, false, plain);
  CHECK(run(true, false, again) == want);
  CHECK(run(true, true, kept) == want);
  REQUIRE(kept.size() == 2);
  CHECK(kept[0] == kept[1]);  // the same memory
  bool second = false;
  const Var z = recompute(
      [&](const std::vector<Var>& in, bool) {
        return std::vector<Var>{std::exchange(second, true) ? tanh(in[0]) : attention(in[0], in[0], in[0])};
      },
      {Var::leaf(test::randn(shape, 1))}, nullptr, true)[0];
  CHECK_THROWS_WITH_AS(backward(z, test::randn(shape, 4)), doctest::Contains("takes 0 of the 2"), Error);
  Tape::current().clear();
  KeptValues none;
  const KeptValuesScope scope(&none, KeptValues::Pass::second);
  const Var x(test::randn(shape, 5));
  CHECK_THROWS_WITH_AS(attention(x, x, x), doctest::Contains("first pass kept"), Error);
}

TEST_CASE("a region's results and their gradients live only as long as its backward pass needs them") {
  constexpr int64_t kRows = 4096, kBytes = kRows * 32 * 8;
  const Var w = Var::leaf(test::randn({32, 32}, 2));
  const Var x = Var::leaf(test::randn({kRows, 32}, 1));
  int64_t live = 0;
  const Var y = rw::recompute(
      [&](const std::vector<Var>& in, bool unread) {
        const Var begin = reshape(in[0], {kRows, 32});
        if (unread) Tape::current().when_reached([&] { live = memory_stats().live_bytes; });
        return std::vector<Var>{linear(tanh(linear(begin, w)), w)};
      },
      {x})[0];
  Tensor dy = test::randn({kRows, 32}, 4);
  const int64_t before = memory_stats().live_bytes;
  Tape::current().backward({y}, [&] {
    std::vector<Tensor> seeds;
    seeds.push_back(std::move(dy));
    return seeds;
  }());
  CHECK(live - before < kBytes / 2);  // the gradient of x's copy took the place of dy
}

TEST_CASE("in-place RoPE equals the copy, forward and backward") {
  const Tensor x = test::randn({2, 5, 4, 8}, 1), positions = Tensor::from<float>({0, 1, 2, 3, 9}, {1, 5});
  const RopeAngles angles = rope_angles(positions, Var(test::randn({4}, 2)), 1.1, DType::f64, kCpu);
  const auto run = [&](bool in_place) {
    const Var leaf = Var::leaf(x.clone());
    const Var y = rope(scale(leaf, 1), angles, {.heads = 3, .in_place = in_place});
    const std::vector<double> value = y.value().to_vector();
    backward(sum(mul(y, y)));
    return std::pair{value, leaf.grad().to_vector()};
  };
  CHECK(run(false) == run(true));
}

TEST_CASE("shifting all positions leaves attention scores and the sum of angle gradients unchanged") {
  const Tensor q0 = test::randn({1, 6, 2, 8}, 1), k0 = test::randn({1, 6, 2, 8}, 2), v0 = test::randn({1, 6, 2, 8}, 3);
  const Tensor inv = test::randn({4}, 4);
  const auto run = [&](float shift) {
    Tensor p = Tensor::empty({1, 6});
    for (int i = 0; i < 6; ++i) p.data<float>()[i] = 1.5f * static_cast<float>(i) + shift;
    const RopeAngles angles = rope_angles(p, Var(inv), 1, DType::f64, kCpu);
    return attention(rope(q0, angles), rope(k0, angles), v0).value();
  };
  CHECK(test::relative_error(run(0), run(1000)) < 1e-10);
}

TEST_CASE("results do not depend on the number of threads or on the run") {
  const Tensor x = test::randn({2, 33, 6, 16}, 1, DType::f32);
  const int before = thread_count();
  const auto run = [&](int threads) {
    set_thread_count(threads);
    const Var leaf = Var::leaf(x);
    const Var w = Var::leaf(test::randn({16}, 2, DType::f32));
    backward(sum(rms_norm(attention_packed(leaf, 4, 1), w, 1e-5)));
    return std::pair{leaf.grad().to_vector(), w.grad().to_vector()};
  };
  const auto one = run(1), again = run(1), three = run(3);
  set_thread_count(before);
  CHECK(one == again);
  CHECK(one == three);
}

TEST_CASE("attention at huge logits stays finite") {
  const Var q = Var::leaf(test::randn({1, 9, 2, 4}, 1, DType::f32, 1e4));
  const Var y = attention(q, q, q);
  backward(sum(y));
  CHECK_FALSE(has_nonfinite(y.value()));
  CHECK_FALSE(has_nonfinite(q.grad()));
}

TEST_CASE("ops refuse what does not fit and say what they expected") {
  const Tensor x = Tensor::zeros({2, 48, 4, 8});
  CHECK(test::error_of([&] { rope_angles(Tensor::zeros({48}), Tensor::zeros({4}), 1, DType::f32, kCpu); }) ==
        "[rope] positions must be f32 [B, T], got [48]");
  CHECK(test::error_of([&] {
          rope(x, rope_angles(Tensor::zeros({2, 47}), Tensor::zeros({4}), 1, DType::f32, kCpu));
        }) == "[rope] angles are for [B, T] = [2, 47], x has [2, 48]");
  CHECK(test::error_of([&] {
          linear(Tensor::zeros({2, 3}), Tensor::zeros({5, 4}));
        }) == "[linear] x must have shape [..., 4], got [2, 3]");
  CHECK(test::error_of([&] {
          attention(x, Tensor::zeros({2, 48, 3, 8}), Tensor::zeros({2, 48, 3, 8}));
        }) == "[attention] 4 heads are not a multiple of 3 kv heads");
  CHECK(test::error_of([&] {
          embedding(Tensor::from<int32_t>({0, 7}), Tensor::zeros({7, 2}));
        }) == "[embedding] token id 7 at index 1 is outside the vocabulary [0, 7)");
  CHECK(test::error_of([&] {
          cross_entropy(Tensor::zeros({1, 4}), Tensor::from<int32_t>({-1}));
        }) == "[cross_entropy] target -1 at row 0 is outside the vocabulary [0, 4)");
  CHECK(test::error_of([&] { add(Tensor::zeros({2}), Tensor::zeros({2}, DType::f64)); }) ==
        "[add] a has dtype f32 but b has f64");
}
