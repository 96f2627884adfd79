// Products of rows with a few vectors: what decoding on the CPU reads its weights by.
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
  cpu::Vectors vectors(int64_t from = 0, int64_t n = -1) const {
    return {x.data() + from * stride, stride, n < 0 ? count : n};
  }
};

Case make(int64_t k, int64_t rows, int64_t count) {
  Case c{
      .k = k, .rows = rows, .count = count, .stride = k + 3, .w = {}, .x = {}, .scales = {}, .half = {}, .codes = {}};
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

using Run = std::function<void(const cpu::RowDots&, int64_t row, int64_t rows, const cpu::Vectors&, float*)>;
/// Every kind of weight, and one of its numbers.
std::vector<std::pair<Run, std::function<double(int64_t r, int64_t j)>>> kinds(const Case& c) {
  return {
      {[&](const auto& d, int64_t r, int64_t n, const auto& x, float* y) { d.f32(c.w.data() + r * c.k, c.k, n, x, y); },
       [&](int64_t r, int64_t j) { return c.w[static_cast<size_t>(r * c.k + j)]; }},
      {[&](const auto& d, int64_t r, int64_t n, const auto& x, float* y) {
         d.bf16(c.half.data() + r * c.k, c.k, n, x, y);
       },
       [&](int64_t r, int64_t j) { return static_cast<float>(bf16(c.w[static_cast<size_t>(r * c.k + j)])); }},
      {[&](const auto& d, int64_t r, int64_t n, const auto& x, float* y) {
         d.int8(c.codes.data() + r * c.k, c.scales.data() + r * c.blocks(), c.k, n, x, y);
       },
       [&](int64_t r, int64_t j) {
         return static_cast<double>(c.codes[static_cast<size_t>(r * c.k + j)]) *
                c.scales[static_cast<size_t>(r * c.blocks() + j / 64)];
       }},
  };
}

}  // namespace

TEST_CASE("rows of every width times a few vectors are their sums, and a vector's bits do not depend on the others") {
  for (const int64_t k : {1, 3, 4, 15, 16, 17, 31, 63, 64, 65, 80, 100, 128, 129, 191, 288, 300}) {
    const Case c = make(k, 5, 7);
    for (const cpu::RowDots* dots : {&cpu::row_dots(), &cpu::build::row_dots}) {
      for (const auto& [run, weight] : kinds(c)) {
        std::vector<float> y(static_cast<size_t>(c.rows * c.count));
        run(*dots, 0, c.rows, c.vectors(), y.data());
        for (int64_t r = 0; r < c.rows; ++r) {
          for (int64_t s = 0; s < c.count; ++s) {
            double sum = 0, size = 0;
            for (int64_t j = 0; j < k; ++j) {
              const double term = weight(r, j) * c.x[static_cast<size_t>(s * c.stride + j)];
              sum += term;
              size += std::abs(term);
            }
            CAPTURE(k);
            const float got = y[static_cast<size_t>(r * c.count + s)];
            CHECK(std::abs(got - sum) <= size * 1e-6);
            float alone = 0;
            run(*dots, r, 1, c.vectors(s, 1), &alone);
            CHECK(std::bit_cast<uint32_t>(alone) == std::bit_cast<uint32_t>(got));
          }
        }
      }
    }
  }
}
