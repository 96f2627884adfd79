// Self-Extend and Dual Chunk Attention in a model: plain attention where one set holds all pairs, the formula of a
// distance for every pair otherwise, and the refusals.
#include <doctest/doctest.h>

#include <cmath>

#include "autograd/ops/attention_sets.h"
#include "autograd/tape.h"
#include "nn/causal_lm.h"
#include "rope/kinds.h"
#include "support.h"

using namespace rw;

namespace {

ModelConfig small(RopeKind kind) {
  ModelConfig c;
  c.vocab_size = 50, c.hidden_size = 32, c.intermediate_size = 48, c.num_hidden_layers = 2;
  c.num_attention_heads = 4, c.num_key_value_heads = 2;
  c.rope.max_position_embeddings = 32;
  c.rope.kind = std::move(kind);
  return c;
}

Tensor ids(int64_t count) {
  std::vector<int32_t> out;
  for (int64_t i = 0; i < count; ++i) out.push_back(static_cast<int32_t>((i * i * 7 + 3 * i) % 50));
  return Tensor::from(out, {1, count});
}

std::vector<double> hidden(const CausalLm& model, int64_t count) {
  const NoGrad no_grad;
  return model.forward(ids(count), model.angles(model.plain_positions(0, count), {})).value().to_vector();
}

}  // namespace

TEST_CASE("A neighbour window, a group of one or a chunk that holds the whole text is plain attention, bit for bit") {
  for (const DType dtype : {DType::f32, DType::f64}) {
    const CausalLm plain(small(DefaultRope{}), dtype, kCpu, 3);
    const std::vector<double> want = hidden(plain, 30);
    for (const RopeKind& kind : {RopeKind(SelfExtendRope{.group = 4, .neighbours = 30}),
                                 RopeKind(SelfExtendRope{.group = 1, .neighbours = 3}), RopeKind(DcaRope{.chunk = 30})})
      CHECK(hidden(CausalLm(small(kind), dtype, kCpu, 3), 30) == want);
    CHECK(hidden(CausalLm(small(SelfExtendRope{.group = 4, .neighbours = 8}), dtype, kCpu, 3), 30) != want);
    CHECK(hidden(CausalLm(small(DcaRope{.chunk = 8}), dtype, kCpu, 3), 30) != want);
  }
}

TEST_CASE("attention_sets equals softmax over the scores of every pair at its own set, and attention with one set") {
  const int64_t keys = 13, queries = 9, heads = 4, kv_heads = 2, dim = 6;
  Random random(1, Purpose::test);
  const auto draw = [&](const Shape& shape) {
    const Tensor t = Tensor::empty(shape, DType::f64);
    for (int64_t i = 0; i < t.numel(); ++i) t.data<double>()[i] = random.normal();
    return t;
  };
  const std::vector<Tensor> q = {draw({2, queries, heads, dim}), draw({2, queries, heads, dim})},
                            k = {draw({2, keys, kv_heads, dim}), draw({2, keys, kv_heads, dim})};
  const Tensor v = draw({2, keys, kv_heads, dim});
  const auto ranges = [](int64_t m, std::vector<KeyRange>& out) {
    const int64_t first = std::max<int64_t>(0, m - 3);
    out = {{1, 0, first}, {0, first, m + 1}};
  };
  const std::vector<double> got = attention_sets(q, k, v, ranges).to_vector();
  for (int64_t b = 0; b < 2; ++b) {
    for (int64_t t = 0; t < queries; ++t) {
      for (int64_t h = 0; h < heads; ++h) {
        const int64_t m = keys - queries + t, kv = h / 2;
        std::vector<double> p;
        double total = 0;
        for (int64_t n = 0; n <= m; ++n) {
          const size_t set = m - n <= 3 ? 0 : 1;
          double score = 0;
          for (int64_t d = 0; d < dim; ++d)
            score += q[set].data<double>()[((b * queries + t) * heads + h) * dim + d] *
                     k[set].data<double>()[((b * keys + n) * kv_heads + kv) * dim + d];
          p.push_back(std::exp(score / std::sqrt(6.0)));
          total += p.back();
        }
        for (int64_t d = 0; d < dim; ++d) {
          double want = 0;
          for (int64_t n = 0; n <= m; ++n)
            want += p[static_cast<size_t>(n)] / total * v.data<double>()[((b * keys + n) * kv_heads + kv) * dim + d];
          CHECK(got[static_cast<size_t>(((b * queries + t) * heads + h) * dim + d)] == doctest::Approx(want));
        }
      }
    }
  }
  const auto all = [](int64_t m, std::vector<KeyRange>& out) { out = {{0, 0, m + 1}}; };
  const Tensor one = attention_sets(std::span(q).first(1), std::span(k).first(1), v, all);
  const NoGrad no_grad;
  CHECK(test::relative_error(one.to_vector(), attention(q[0], k[0], v).value().to_vector()) < 1e-12);
  const auto gap = [](int64_t m, std::vector<KeyRange>& out) { out = {{0, 1, m + 1}}; };
  CHECK(test::error_of([&] { attention_sets(q, k, v, gap); }).find("without gaps") != std::string::npos);
}

TEST_CASE("Training under Self-Extend or Dual Chunk Attention is refused by name") {
  const CausalLm model(small(DcaRope{.chunk = 8}), DType::f32, kCpu, 3);
  CHECK(test::error_of([&] {
          model.forward(ids(20), model.angles(model.plain_positions(0, 20), {}));
        }).find("Self-Extend and Dual Chunk Attention are for inference") != std::string::npos);
}
