// Matrices in blocks of few bits: what rounding into them costs, and what stays exact.
#include <cmath>

#include "support.h"
#include "tensor/block_codes.h"
#include "tensor/block_quantize.h"

using namespace rw;

namespace {

BlockMatrix stored(const Tensor& values, BlockFormat format) {
  BlockMatrix m{.format = format, .rows = values.size(0), .columns = values.size(1)};
  m.allocate(kCpu);
  m.store_rows(0, values);
  return m;
}

Tensor loaded(const BlockMatrix& m) {
  const Tensor out = Tensor::empty({m.rows, m.columns});
  dequantize(m, out);
  return out;
}

}  // namespace

TEST_CASE("each value is the nearest of its block's codes") {
  const Tensor x = test::randn({5, 150}, 1, DType::f32);
  for (const BlockCode code : {BlockCode::int8, BlockCode::nf4}) {
    const Tensor y = loaded(stored(x, {code}));
    for (int64_t r = 0; r < 5; ++r) {
      for (int64_t c = 0; c < 150; ++c) {
        const int64_t begin = c / 64 * 64, end = std::min<int64_t>(150, begin + 64);
        float most = 0;
        for (int64_t i = begin; i < end; ++i) most = std::max(most, std::fabs(x.data<float>()[r * 150 + i]));
        const float value = x.data<float>()[r * 150 + c];
        float best = INFINITY;
        for (int k = 0; k < (code == BlockCode::nf4 ? 16 : 255); ++k) {
          const float point = code == BlockCode::nf4 ? most * kNf4[k] : most / 127 * static_cast<float>(k - 127);
          if (std::fabs(value - point) < std::fabs(value - best)) best = point;
        }
        CHECK(std::fabs(y.data<float>()[r * 150 + c] - value) <= std::fabs(best - value) + 1e-6f * most);
      }
    }
  }
}

TEST_CASE("values that are codes stay as they are, and a row of zeros stays zero") {
  const Tensor x = Tensor::zeros({2, 64});
  for (int i = 0; i < 16; ++i) x.data<float>()[i] = 3 * kNf4[i];
  CHECK(loaded(stored(x, {BlockCode::nf4})).to_vector() == x.to_vector());
  CHECK(loaded(stored(Tensor::zeros({3, 70}), {BlockCode::nf4, true})).to_vector() == std::vector<double>(210, 0.0));
}

TEST_CASE("scales in 8 bits cost little, and the memory is what is stated") {
  const Tensor x = test::randn({16, 4096}, 2, DType::f32);
  const BlockMatrix once = stored(x, {BlockCode::nf4}), twice = stored(x, {BlockCode::nf4, true});
  const double plain = test::relative_error(loaded(once), x), coarse = test::relative_error(loaded(twice), x);
  CHECK(coarse < plain * 1.05);
  CHECK(8.0 * static_cast<double>(once.bytes()) / (16 * 4096) == doctest::Approx(4.5));
  CHECK(8.0 * static_cast<double>(twice.bytes()) / (16 * 4096) == doctest::Approx(4.140625));
  CHECK(once.bytes() == once.codes.bytes() + once.scales.bytes());
  CHECK(twice.bytes() == twice.codes.bytes() + twice.scale_codes.bytes() + twice.scale_ranges.bytes());
}

TEST_CASE("rows are stored and read on their own") {
  const Tensor x = test::randn({6, 100}, 3, DType::f32);
  BlockMatrix m{.format = {BlockCode::int8, true}, .rows = 6, .columns = 100};
  m.allocate(kCpu);
  m.store_rows(4, x.slice(4, 6));
  m.store_rows(0, x.slice(0, 4));
  CHECK(loaded(m).to_vector() == loaded(stored(x, m.format)).to_vector());
  const Tensor two = Tensor::empty({2, 100});
  m.load_rows(3, two);
  CHECK(two.to_vector() == loaded(m).slice(3, 5).to_vector());
}

TEST_CASE("values that are not finite and rows outside the matrix are refused") {
  const Tensor x = Tensor::zeros({1, 64});
  x.data<float>()[3] = NAN;
  CHECK(test::error_of([&] { stored(x, {BlockCode::nf4}); }).find("column 3 is not finite") != std::string::npos);
  BlockMatrix m{.format = {}, .rows = 2, .columns = 64};
  CHECK(test::error_of([&] { m.store_rows(0, Tensor::zeros({1, 64})); }).find("no memory") != std::string::npos);
  m.allocate(kCpu);
  CHECK(test::error_of([&] { m.store_rows(2, Tensor::zeros({1, 64})); }).find("rows from 2") != std::string::npos);
}
