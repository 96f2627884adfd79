// lib/autograd/ops/attention_split_kv.cuh on the CPU, with emulated warps (emulated/cuda): what the GPU tests check, in
// builds and on machines without one.
#include <cmath>
#include <vector>

#include "autograd/ops/attention_shape.cuh"
#include "autograd/ops/attention_split_kv.cuh"
#include "support.h"

using namespace rw::cuda;
namespace split_kv = attn::split_kv;

namespace {

struct Problem {
  int rows, keys, head_dim, tokens;  // tokens of a split
  int unseen = 0;                    // keys at the end that row 0 does not see, row 1 one less, ...
  double std = 1;
  int window = 0;   // 0: none; else row r sees so many keys before its last one, that one included
  double cap = 0;   // soft cap of the scores
  int first = 0;    // token index of the first key
  int64_t row = 0;  // elements from a token to the next; 0: head_dim
};

template <class T>
std::vector<T> values(int64_t n, uint64_t seed, double std) {
  const rw::Tensor from = test::randn({n}, seed, rw::DType::f32, std);
  std::vector<T> to(static_cast<size_t>(n));
  for (int64_t i = 0; i < n; ++i) to[static_cast<size_t>(i)] = from_float<T>(from.data<float>()[i]);
  return to;
}

/// ‖O - f64's O‖ / ‖f64's O‖.
template <class T, int WIDE>
double error_of(const Problem& p) {
  constexpr int ROWS = split_kv::kRows<T, WIDE>;
  const int d = p.head_dim, splits = (p.keys + p.tokens - 1) / p.tokens;
  REQUIRE(p.rows <= ROWS);
  const int64_t stride = p.row > 0 ? p.row : d;
  const std::vector<T> q = values<T>(p.rows * d, 1, p.std), k = values<T>(p.keys * stride, 2, p.std),
                       v = values<T>(p.keys * stride, 3, 1);
  const float scale = 1.f / std::sqrt(static_cast<float>(d));
  const auto seen = [&](int row) { return std::min(p.keys, p.keys - p.unseen + row); };
  const auto begin = [&](int row) { return p.window > 0 ? std::max(0, seen(row) - p.window) : 0; };
  alignas(16) static float of_warp[split_kv::kWarpFloats<T, WIDE>];
  split_kv::OfWarps<ROWS> of;
  float weight[ROWS][split_kv::kMaxSplits];
  std::vector<float> partial(static_cast<size_t>(p.rows * splits * (d + 2)), NAN), o(q.size(), NAN);

  for (int s = 0; s < splits; ++s) {
    // Token 0 may lie before what there is: no key before `first` is read.
    const auto token0 = [&](const std::vector<T>& x) {
      return reinterpret_cast<const T*>(reinterpret_cast<uintptr_t>(x.data()) -
                                        static_cast<uintptr_t>(p.first * stride) * sizeof(T));
    };
    const split_kv::Keys<T> keys{
        token0(k), token0(v), stride, stride, p.first + s * p.tokens, p.first + std::min(p.keys, (s + 1) * p.tokens),
        d};
    emulated::run(split_kv::kThreads, [&] {
      split_kv::walk_keys<T, WIDE>(
          keys, split_kv::ScoreScale{scale * attn::kLog2e, static_cast<float>(p.cap) * attn::kLog2e},
          [&](int row, int column) {
            Vec<float, 8> x{};
            for (int i = 0; row < p.rows && column < d && i < 8; ++i)
              x.at[i] = to_float(q[static_cast<size_t>(row * d + column + i)]);
            return x;
          },
          [&](int row) {
            return split_kv::Range{p.first + begin(row), p.first + seen(row)};
          },
          of_warp, of);
      split_kv::combine_warps<WIDE>(
          of_warp, of, p.rows, d, [&](int row, int column, float2 value, float top, float sum) {
            split_kv::keep(partial.data() + row * splits * (d + 2), s, d, column, value, top, sum);
          });
    });
  }
  emulated::run(split_kv::kThreads, [&] {
    split_kv::combine_splits<split_kv::kThreads, 16>(
        partial.data(), p.rows, splits, splits, d, weight,
        [&](int row, int column, float2 value) {
          o[static_cast<size_t>(row * d + column)] = value.x;
          o[static_cast<size_t>(row * d + column + 1)] = value.y;
        },
        [](int, float, float) {});
  });

  double error = 0, norm = 0;
  for (int row = 0; row < p.rows; ++row) {
    std::vector<double> weights, want(static_cast<size_t>(d));
    double sum = 0, top = -INFINITY;
    for (int j = begin(row); j < seen(row); ++j) {
      double dot = 0;
      for (int e = 0; e < d; ++e)
        dot += static_cast<double>(to_float(q[static_cast<size_t>(row * d + e)])) *
               static_cast<double>(to_float(k[static_cast<size_t>(j * stride + e)]));
      dot *= static_cast<double>(scale);
      weights.push_back(p.cap > 0 ? p.cap * std::tanh(dot / p.cap) : dot);
      top = std::max(top, weights.back());
    }
    for (double& w : weights) sum += w = std::exp(w - top);
    for (int e = 0; e < d; ++e) {
      double x = 0;
      for (int j = begin(row); j < seen(row); ++j)
        x += weights[static_cast<size_t>(j - begin(row))] / sum *
             static_cast<double>(to_float(v[static_cast<size_t>(j * stride + e)]));
      const double difference = static_cast<double>(o[static_cast<size_t>(row * d + e)]) - x;
      error += std::isfinite(difference) ? difference * difference : INFINITY;
      norm += x * x;
    }
  }
  return std::sqrt(error / norm);
}

}  // namespace

TEST_CASE("on emulated tensor cores attention with the keys split agrees with f64") {
  const double bound = 4e-3;  // P is rounded to bf16
  CHECK(error_of<b16, 64>({.rows = 1, .keys = 5, .head_dim = 64, .tokens = 128}) < bound);
  CHECK(error_of<b16, 64>({.rows = 8, .keys = 700, .head_dim = 64, .tokens = 704}) < bound);  // six steps of a warp
  CHECK(error_of<b16, 64>({.rows = 8, .keys = 700, .head_dim = 64, .tokens = 336, .std = 3}) < bound);
  CHECK(error_of<b16, 64>({.rows = 3, .keys = 400, .head_dim = 48, .tokens = 144, .unseen = 2}) < bound);
  CHECK(error_of<b16, 64>({.rows = 2, .keys = 640, .head_dim = 8, .tokens = 32}) < bound);  // 20 splits
  CHECK(error_of<b16, 64>({.rows = 2, .keys = 400, .head_dim = 64, .tokens = 128, .unseen = 200}) < bound);
  CHECK(error_of<b16, 128>({.rows = 5, .keys = 600, .head_dim = 128, .tokens = 400}) < bound);
  CHECK(error_of<b16, 128>({.rows = 2, .keys = 300, .head_dim = 96, .tokens = 304}) < bound);
}

TEST_CASE("without tensor cores attention with the keys split agrees with f64") {
  CHECK(error_of<float, 64>({.rows = 4, .keys = 500, .head_dim = 64, .tokens = 512}) < 2e-6);
  CHECK(error_of<float, 128>({.rows = 3, .keys = 300, .head_dim = 80, .tokens = 128, .unseen = 2}) < 2e-6);
  CHECK(error_of<float, 256>({.rows = 2, .keys = 300, .head_dim = 200, .tokens = 160}) < 2e-6);
  CHECK(error_of<b16, 256>({.rows = 2, .keys = 300, .head_dim = 256, .tokens = 304}) < 2e-6);  // f32 throughout
}

TEST_CASE("with the keys split a window and a soft cap agree with f64") {
  CHECK(error_of<b16, 64>({.rows = 8, .keys = 700, .head_dim = 64, .tokens = 336, .std = 3, .window = 150}) < 4e-3);
  CHECK(error_of<b16, 64>({.rows = 3, .keys = 400, .head_dim = 48, .tokens = 144, .unseen = 2, .window = 1}) < 4e-3);
  CHECK(error_of<b16, 128>({.rows = 5, .keys = 600, .head_dim = 128, .tokens = 400, .std = 3, .cap = 2}) < 4e-3);
  CHECK(error_of<float, 256>({.rows = 2, .keys = 300, .head_dim = 200, .tokens = 160, .window = 40, .cap = 1}) < 2e-6);
}

TEST_CASE("keys from token 2^20 - 300 on, 2^32 elements into their rows, are those that are read") {
  constexpr int kFirst = (1 << 20) - 300;
  CHECK(error_of<b16, 64>({.rows = 8, .keys = 300, .head_dim = 64, .tokens = 160, .first = kFirst, .row = 4096}) <
        4e-3);
  CHECK(error_of<float, 64>(
            {.rows = 4, .keys = 300, .head_dim = 64, .tokens = 160, .window = 40, .first = kFirst, .row = 4096}) <
        2e-6);
}

TEST_CASE("what queries and keys see is the same as in 64 bits, up to 2^20 and at the most tokens there may be") {
  for (const int64_t length : {int64_t{1} << 20, (int64_t{1} << 30) - 1}) {
    for (const int64_t window : {int64_t{0}, int64_t{1}, int64_t{4096}, length - 1}) {
      for (const int64_t queries : {int64_t{1}, length / 2, length}) {
        rw::cuda::AttentionShape wide{};
        wide.batch = 1, wide.n_heads = wide.n_kv_heads = 1, wide.head_dim = 64;
        wide.q_length = queries, wide.k_length = length, wide.causal = true, wide.window = window, wide.scale = 1;
        const attn::Shape s(wide);
        const int64_t offset = length - queries;
        for (const int64_t q : {int64_t{0}, queries / 2, queries - 1}) {
          const int64_t first = window > 0 ? std::max<int64_t>(0, q + offset + 1 - window) : 0, last = q + offset;
          CHECK(s.first_key(static_cast<int>(q)) == first);
          CHECK(s.keys_until(static_cast<int>(q) + 1) == last + 1);
          for (const int64_t key : {first - 1, first, last, last + 1}) {
            if (key < 0) continue;
            CHECK(s.hidden(static_cast<int>(q), static_cast<int>(key)) == (key < first || key > last));
          }
        }
        for (const int64_t key : {int64_t{0}, length / 2, length - 1}) {
          CHECK(s.first_query(static_cast<int>(key)) == std::max<int64_t>(0, key - offset));
          const int64_t until = window > 0 ? std::min(queries, key + window - offset) : queries;
          CHECK(s.queries_until(static_cast<int>(key) + 1) == until);
        }
      }
    }
  }
}
