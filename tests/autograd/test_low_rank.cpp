// What adapters are made of: the low-rank product, dropout drawn by a key, products with weights in blocks, and
// functions of rows in tiles.
#include <cmath>

#include "autograd/gradcheck.h"
#include "autograd/ops/dropout.h"
#include "autograd/ops/elementwise.h"
#include "autograd/ops/linear_blocks.h"
#include "autograd/ops/low_rank.h"
#include "autograd/ops/matmul.h"
#include "autograd/ops/reduce.h"
#include "autograd/recompute.h"
#include "support.h"
#include "tensor/gemm.h"

using namespace rw;

namespace {

Tensor key_words(uint32_t draw, uint32_t row) {
  return Tensor::from(std::vector<int32_t>{static_cast<int32_t>(draw), 0, static_cast<int32_t>(row), 0});
}

/// W [n,k] f64 of what the blocks stand for.
Tensor values_of(const BlockMatrix& m) {
  const Tensor w = Tensor::empty({m.rows, m.columns}, DType::f64);
  dequantize(m, w);
  return w;
}

BlockMatrix blocks_of(const Tensor& values, BlockFormat format) {
  BlockMatrix m{.format = format, .rows = values.size(0), .columns = values.size(1)};
  m.allocate(kCpu);
  m.store_rows(0, values.to(DType::f32));
  return m;
}

}  // namespace

TEST_CASE("a low-rank product adds scale b a x in the columns of its parts") {
  // Parts of 3 and 2 columns among 7, rank 2.
  const std::vector<LowRankPart> parts{{1, 3}, {5, 2}};
  const Tensor x = test::randn({4, 6}, 1), a = test::randn({4, 6}, 2), b = test::randn({5, 2}, 3),
               y = test::randn({4, 7}, 4);
  const Tensor got = add_low_rank(Var(y.clone()), Var(x), Var(a), Var(b), parts, 0.75).value();
  for (int64_t r = 0; r < 4; ++r) {
    for (int64_t c = 0; c < 7; ++c) {
      double want = y.data<double>()[r * 7 + c];
      const int part = c >= 1 && c < 4 ? 0 : c >= 5 ? 1 : -1;
      const int64_t row = part == 0 ? c - 1 : 3 + c - 5;
      for (int64_t j = 0; part >= 0 && j < 2; ++j) {
        double h = 0;
        for (int64_t k = 0; k < 6; ++k) h += a.data<double>()[(2 * part + j) * 6 + k] * x.data<double>()[r * 6 + k];
        want += 0.75 * b.data<double>()[row * 2 + j] * h;
      }
      CHECK(got.data<double>()[r * 7 + c] == doctest::Approx(want).epsilon(1e-12));
    }
  }
}

TEST_CASE("gradients of the low-rank product are those of finite differences") {
  for (const bool whole : {false, true}) {
    const std::vector<LowRankPart> parts =
        whole ? std::vector<LowRankPart>{{0, 5}} : std::vector<LowRankPart>{{0, 2}, {3, 2}};
    const int64_t count = static_cast<int64_t>(parts.size()), rows = whole ? 5 : 4;
    const auto f = [&](const std::vector<Var>& in) {
      return std::vector<Var>{add_low_rank(scale(in[0], 1), in[1], in[2], in[3], parts, 1.5)};
    };
    const GradcheckReport r = gradcheck(
        f, {test::randn({3, 5}, 1), test::randn({3, 4}, 2), test::randn({2 * count, 4}, 3), test::randn({rows, 2}, 4)});
    CAPTURE(r.where);
    CHECK(r.worst < 1e-8);
  }
}

TEST_CASE("shapes that do not fit a low-rank product are refused by name") {
  const auto with = [](Shape a, Shape b, std::vector<LowRankPart> parts) {
    return test::error_of([&] {
      add_low_rank(Var(Tensor::zeros({2, 4})), Var(Tensor::zeros({2, 3})), Var(Tensor::zeros(a)), Var(Tensor::zeros(b)),
                   parts, 1);
    });
  };
  CHECK(with({2, 5}, {4, 2}, {{0, 4}}).find("x has shape") != std::string::npos);
  CHECK(with({3, 3}, {4, 2}, {{0, 4}}).find("a must have shape [2, K]") != std::string::npos);
  CHECK(with({2, 3}, {3, 2}, {{0, 4}}).find("b must have shape [4, 2]") != std::string::npos);
  CHECK(with({2, 3}, {4, 2}, {{1, 4}}).find("columns [1, 5) of 4") != std::string::npos);
}

TEST_CASE("dropout leaves out its share, keeps the mean, and draws the same mask for the same key") {
  const Tensor x = Tensor::full({400, 50}, 1.0);
  const DropoutKey key{key_words(7, 0), 3, 11};
  const Tensor y = dropout(Var(x), 0.25, key).value();
  double sum = 0;
  int64_t zeros = 0;
  for (int64_t i = 0; i < y.numel(); ++i) {
    const float v = y.data<float>()[i];
    CHECK((v == 0 || v == doctest::Approx(4.0 / 3)));
    sum += v, zeros += v == 0;
  }
  // 20000 draws: three standard deviations of the share are 0.0092.
  CHECK(std::fabs(static_cast<double>(zeros) / 20000 - 0.25) < 0.0092);
  CHECK(std::fabs(sum / 20000 - 1) < 0.0092 * 4 / 3);
  CHECK(dropout(Var(x), 0.25, key).value().to_vector() == y.to_vector());
  for (const DropoutKey& other :
       {DropoutKey{key_words(8, 0), 3, 11}, DropoutKey{key_words(7, 0), 4, 11}, DropoutKey{key_words(7, 0), 3, 12}})
    CHECK(dropout(Var(x), 0.25, other).value().to_vector() != y.to_vector());
}

TEST_CASE("rows of a dropout mask depend on their number among all rows alone") {
  const Tensor x = Tensor::full({30, 7}, 1.0);
  const Tensor all = dropout(Var(x), 0.5, {key_words(1, 0), 9, 2}).value();
  const Tensor by_key = dropout(Var(x.slice(11, 30)), 0.5, {key_words(1, 11), 9, 2}).value();
  const Tensor by_row = dropout(Var(x.slice(11, 30)), 0.5, {key_words(1, 4), 9, 2, 7}).value();
  CHECK(by_key.to_vector() == all.slice(11, 30).to_vector());
  CHECK(by_row.to_vector() == all.slice(11, 30).to_vector());
}

TEST_CASE("the gradient of dropout passes through the same mask") {
  const Tensor words = key_words(3, 0);
  const auto f = [&](const std::vector<Var>& in) { return std::vector<Var>{dropout(in[0], 0.4, {words, 5, 1})}; };
  CHECK(gradcheck(f, {test::randn({6, 5}, 1)}).worst < 1e-8);
  CHECK(test::error_of([&] {
          dropout(Var(Tensor::zeros({2, 2})), 1, {words, 5, 1});
        }).find("below 1") != std::string::npos);
}

TEST_CASE("a product with a weight in blocks is that with the values they stand for, forward and backward") {
  for (const BlockCode code : {BlockCode::int8, BlockCode::nf4}) {
    for (const bool twice : {false, true}) {
      const BlockMatrix m = blocks_of(test::randn({9, 130}, 5), {code, twice});
      const Tensor w = values_of(m), x = test::randn({4, 130}, 6), bias = test::randn({9}, 7);
      const Tensor want = linear(Var(x), Var(w), Var(bias)).value();
      CHECK(test::relative_error(linear_blocks(Var(x), m, Var(bias)).value(), want) < 1e-13);
      const auto f = [&](const std::vector<Var>& in) { return std::vector<Var>{linear_blocks(in[0], m, in[1])}; };
      CHECK(gradcheck(f, {test::randn({2, 130}, 8), bias}).worst < 1e-7);
      // In f32 and bf16 against the f64 product of the same values.
      CHECK(test::relative_error(linear_blocks(Var(x.to(DType::f32)), m).value().to(DType::f64),
                                 linear(Var(x), Var(w)).value()) < 1e-5);
      CHECK(test::relative_error(linear_blocks(Var(x.to(DType::bf16)), m).value().to(DType::f64),
                                 linear(Var(x), Var(w)).value()) < 2e-2);
    }
  }
}

TEST_CASE("a function of rows in tiles has the values and gradients of the whole") {
  const auto mlp = [](const Var& x, const Var& up, const Var& down) { return linear(silu(linear(x, up)), down); };
  const Tensor x = test::randn({2, 11, 6}, 1), up = test::randn({10, 6}, 2), down = test::randn({6, 10}, 3);
  const Tensor dy = test::randn({2, 11, 6}, 4);
  const auto run = [&](int64_t tile) {
    const Var vx = Var::leaf(x), vu = Var::leaf(up), vd = Var::leaf(down);
    int64_t rows = 0;
    const Var y = tile == 0 ? mlp(vx, vu, vd)
                            : by_tiles(
                                  [&](const Var& part, int64_t first, bool) {
                                    CHECK(first % tile == 0);
                                    rows = std::max(rows, part.size(0));
                                    return mlp(part, vu, vd);
                                  },
                                  vx, x.size(-1), tile);
    backward(y, dy);
    CHECK(rows <= tile);
    return std::vector<Tensor>{y.value(), vx.grad(), vu.grad(), vd.grad()};
  };
  const auto want = run(0);
  for (const int64_t tile : {1, 4, 11, 22, 100}) {
    const auto got = run(tile);
    for (size_t i = 0; i < want.size(); ++i) CHECK(test::relative_error(got[i], want[i]) < 1e-13);
  }
  CHECK(test::error_of([&] {
          by_tiles([](const Var& v, int64_t, bool) { return v; }, Var(x), 6, 0);
        }).find("at least 1") != std::string::npos);
}
