// Every op, alone, gives the same bits with any number of threads: how a range is cut must not reach the numbers.
#include "autograd/ops/activation.h"
#include "autograd/ops/attention.h"
#include "autograd/ops/cast.h"
#include "autograd/ops/elementwise.h"
#include "autograd/ops/embedding.h"
#include "autograd/ops/loss.h"
#include "autograd/ops/matmul.h"
#include "autograd/ops/norm.h"
#include "autograd/ops/reduce.h"
#include "autograd/ops/rope.h"
#include "autograd/ops/swiglu.h"
#include "autograd/tape.h"
#include "support.h"
#include "tensor/gemm.h"
#include "tensor/threads.h"

using namespace rw;

namespace {

constexpr int kThreads[] = {2, 3, 5};

using Op = std::function<Var(const std::vector<Var>&)>;
using Numbers = std::vector<std::vector<double>>;

/// f with that many threads.
Numbers with_threads(int threads, const std::function<Numbers()>& f) {
  const int before = thread_count();
  set_thread_count(threads);
  const Numbers result = f();
  set_thread_count(before);
  return result;
}

void check_same_bits(const std::string& what, const std::function<Numbers()>& f) {
  INFO(what);
  const Numbers one = with_threads(1, f);
  for (int threads : kThreads) {
    const Numbers several = with_threads(threads, f);
    for (size_t i = 0; i < one.size(); ++i) {
      INFO(threads, " threads, result ", i);
      const bool same = one[i] == several[i];
      CHECK(same);
    }
  }
}

/// The value of `op` and the gradients of all its inputs, for a gradient of y that is not constant.
void check_op(const std::string& name, const std::vector<Shape>& shapes, const Op& op) {
  for (DType dtype : {DType::f32, DType::f64, DType::bf16}) {
    check_same_bits(name + " in " + cat(dtype), [&] {
      std::vector<Var> in;
      for (const Shape& shape : shapes) in.push_back(Var::leaf(test::randn(shape, in.size() + 1, dtype)));
      const Var y = op(in);
      backward(y, test::randn(y.shape(), 99, y.dtype()));
      Numbers numbers = {y.value().to_vector()};
      for (const Var& v : in) numbers.push_back(v.grad().to_vector());
      return numbers;
    });
  }
}

Tensor ids(int64_t n, int32_t below) {
  const Tensor t = Tensor::empty({n}, DType::i32);
  for (int64_t i = 0; i < n; ++i) t.data<int32_t>()[i] = static_cast<int32_t>(i * 7 % below);
  return t;
}

}  // namespace

TEST_CASE("norms do not depend on the number of threads") {
  for (int64_t columns : {16, 37}) {
    const Shape x = {67, columns}, w = {columns};
    check_op("rms_norm", {x, w}, [](const auto& in) { return rms_norm(in[0], in[1], 1e-5); });
    check_op("residual_rms_norm", {x, x, w}, [](const auto& in) {
      const auto [h, y] = residual_rms_norm(in[0], in[1], in[2], 1e-5);
      return add(h, y);
    });
    check_op("layer_norm", {x, w, w}, [](const auto& in) { return layer_norm(in[0], in[1], in[2], 1e-5); });
    check_op("qk_norm", {{3, 23, 4, columns}, w, w},
             [](const auto& in) { return qk_norm(in[0], in[1], in[2], {.n_heads = 2, .n_kv_heads = 1}); });
  }
}

TEST_CASE("attention does not depend on the number of threads") {
  for (int64_t dim : {16, 22}) {
    check_op("attention", {{2, 33, 4, dim}, {2, 33, 2, dim}, {2, 33, 2, dim}},
             [](const auto& in) { return attention(in[0], in[1], in[2]); });
    check_op("attention_packed", {{1, 131, 4, dim}}, [](const auto& in) { return attention_packed(in[0], 2, 1); });
    check_op("attention, window and soft cap", {{1, 131, 4, dim}},
             [](const auto& in) { return attention_packed(in[0], 2, 1, {.window = 19, .soft_cap = 2}); });
    check_op("attention, one query", {{3, 1, 8, dim}, {3, 517, 2, dim}, {3, 517, 2, dim}},
             [](const auto& in) { return attention(in[0], in[1], in[2]); });
  }
}

TEST_CASE("losses do not depend on the number of threads") {
  const Tensor targets = ids(29, 53);
  check_op("cross_entropy", {{29, 53}}, [&](const auto& in) { return cross_entropy(in[0], targets); });
  check_op("linear_cross_entropy", {{29, 41}, {53, 41}},
           [&](const auto& in) { return linear_cross_entropy(in[0], in[1], targets); });
  check_op("linear_cross_entropy, bias and soft cap", {{29, 41}, {53, 41}, {53}}, [&](const auto& in) {
    return linear_cross_entropy(in[0], in[1], targets, LossOptions{.bias = in[2], .soft_cap = 3});
  });
  check_op("linear_cross_entropy, weighted", {{29, 41}, {53, 41}}, [&](const auto& in) {
    return linear_cross_entropy(in[0], in[1], targets, Reduction::sum, test::randn({29}, 7, DType::f32));
  });
}

TEST_CASE("products do not depend on the number of threads") {
  const int64_t sizes[][3] = {{67, 45, 131}, {131, 67, 45},  {45, 131, 67},  {9, 300, 64},   {300, 9, 64},
                              {3, 301, 77},  {301, 2, 1029}, {1, 517, 1029}, {33, 77, 2053}, {256, 192, 320}};
  for (const auto& [m, n, k] : sizes) {
    check_op(cat("linear ", m, " ", n, " ", k), {{m, k}, {n, k}}, [](const auto& in) { return linear(in[0], in[1]); });
    check_op(cat("linear with bias ", m, " ", n, " ", k), {{m, k}, {n, k}, {n}},
             [](const auto& in) { return linear(in[0], in[1], in[2]); });
    check_op(cat("matmul ", m, " ", n, " ", k), {{m, k}, {k, n}}, [](const auto& in) { return matmul(in[0], in[1]); });
  }
}

TEST_CASE("elementwise ops do not depend on the number of threads") {
  const Shape x = {3, 32771};
  using Unary = Var (*)(const Var&);
  for (const Unary f : {Unary(exp), Unary(tanh), Unary(silu)}) {
    check_op("unary", {x}, [&](const auto& in) { return f(in[0]); });
  }
  check_op("log", {x}, [](const auto& in) { return log(mul(in[0], in[0])); });
  check_op("add, sub, scale", {x, x}, [](const auto& in) { return sub(add(in[0], in[1]), scale(in[1], 0.3)); });
  check_op("add_bias", {{1031, 37}, {37}}, [](const auto& in) { return add_bias(in[0], in[1]); });
  check_op("scale_tokens", {{2, 301, 37}},
           [](const auto& in) { return scale_tokens(in[0], test::randn({301}, 7, DType::f32)); });
  check_op("swiglu", {{67, 37}, {67, 37}}, [](const auto& in) { return swiglu(in[0], in[1]); });
  check_op("swiglu_packed", {{67, 74}}, [](const auto& in) { return swiglu_packed(in[0]); });
  check_op("gelu", {x}, [](const auto& in) { return activate(in[0], Activation::gelu); });
  check_op("gated_packed", {{67, 74}}, [](const auto& in) { return gated_packed(in[0], Activation::gelu_tanh); });
  check_op("soft_cap", {x}, [](const auto& in) { return soft_cap(in[0], 1.5); });
  check_op("cast", {x}, [](const auto& in) { return cast(in[0], DType::f32); });
  check_op("sum", {x}, [](const auto& in) { return add(sum(in[0]), mean(in[0])); });
}

TEST_CASE("embeddings and RoPE do not depend on the number of threads") {
  check_op("embedding", {{53, 83}}, [](const auto& in) { return embedding(ids(1031, 53), in[0]); });
  for (RopeLayout layout : {RopeLayout::half, RopeLayout::interleaved}) {
    check_op("rope", {{3, 67, 3, 26}, {11}}, [&](const auto& in) {
      const Tensor positions = test::randn({3, 67}, 7, DType::f32, 100.0);
      return rope(in[0], rope_angles(positions, cast(in[1], DType::f64), 1.1, in[0].dtype(), kCpu), {.layout = layout});
    });
  }
}
