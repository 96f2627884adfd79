// Products of rows with a few vectors: what decoding on the CPU reads its weights by.
#include <span>

#include "at_the_end.h"
#include "support.h"
#include "tensor/dtype.h"
#include "tensor/random.h"
#include "tensor/row_dots.h"

using namespace rw;

namespace {

struct Case {
  int64_t k, rows, count, stride;
  std::vector<float> w, x, scales;
  std::vector<uint16_t> half;
  std::vector<int8_t> codes;
  int64_t blocks() const { return (k + 63) / 64; }
};

Case make(int64_t k, int64_t rows, int64_t count) {
  Case c{.k = k, .rows = rows, .count = count, .stride = k, .w = {}, .x = {}, .scales = {}, .half = {}, .codes = {}};
  Random random(1, Purpose::test, static_cast<uint64_t>(k));
  for (int64_t i = 0; i < rows * k; ++i) {
    c.w.push_back(static_cast<float>(random.normal()));
    c.half.push_back(bf16(c.w.back()).bits);
    c.codes.push_back(static_cast<int8_t>(random.below(255) - 127));
  }
  for (int64_t i = 0; i < count * c.stride; ++i) c.x.push_back(static_cast<float>(random.normal()));
  for (int64_t i = 0; i < rows * c.blocks(); ++i) c.scales.push_back(static_cast<float>(random.uniform()) + 0.5f);
  return c;
}

/// A kind of weights: its products, and its numbers.
struct Kind {
  std::function<void(const cpu::RowDots&, int64_t row, int64_t rows, const cpu::Vectors&, float*)> run;
  std::function<double(int64_t row, int64_t j)> weight;
};

}  // namespace

TEST_CASE("rows of every width times a few vectors are their sums, and a vector's bits do not depend on the others") {
  for (const int64_t k : {1, 3, 4, 15, 16, 17, 31, 63, 64, 65, 80, 100, 128, 129, 191, 288, 300}) {
    const Case c = make(k, 5, 7);
    const test::AtTheEnd w(c.w), x(c.x), scales(c.scales);
    const test::AtTheEnd half(c.half);
    const test::AtTheEnd codes(c.codes);
    const auto at = [&](int64_t r, int64_t j) { return static_cast<size_t>(r * k + j); };
    const std::vector<Kind> kinds{
        {[&](const auto& d, int64_t r, int64_t n, const auto& v, float* y) { d.f32(w.data() + r * k, k, n, v, y); },
         [&](int64_t r, int64_t j) { return c.w[at(r, j)]; }},
        {[&](const auto& d, int64_t r, int64_t n, const auto& v, float* y) { d.bf16(half.data() + r * k, k, n, v, y); },
         [&](int64_t r, int64_t j) { return static_cast<float>(bf16(c.w[at(r, j)])); }},
        {[&](const auto& d, int64_t r, int64_t n, const auto& v, float* y) {
           d.int8(codes.data() + r * k, scales.data() + r * c.blocks(), k, n, v, y);
         },
         [&](int64_t r, int64_t j) {
           return static_cast<double>(c.codes[at(r, j)]) * c.scales[static_cast<size_t>(r * c.blocks() + j / 64)];
         }}};
    const cpu::RowDots* all[3];
    const int levels = cpu::every_row_dots(all);
    for (const cpu::RowDots* dots : std::span(all, static_cast<size_t>(levels))) {
      for (const Kind& kind : kinds) {
        std::vector<float> y(static_cast<size_t>(c.rows * c.count));
        kind.run(*dots, 0, c.rows, {x.data(), k, c.count}, y.data());
        for (int64_t r = 0; r < c.rows; ++r) {
          for (int64_t s = 0; s < c.count; ++s) {
            double sum = 0, size = 0;
            for (int64_t j = 0; j < k; ++j) {
              const double term = kind.weight(r, j) * c.x[at(s, j)];
              sum += term;
              size += std::abs(term);
            }
            CAPTURE(k);
            const float got = y[static_cast<size_t>(r * c.count + s)];
            CHECK(std::abs(got - sum) <= size * 1e-6);
            float alone = 0;
            kind.run(*dots, r, 1, {x.data() + s * k, k, 1}, &alone);
            CHECK(std::bit_cast<uint32_t>(alone) == std::bit_cast<uint32_t>(got));
          }
        }
      }
    }
  }
}
