// 8-bit floats, copies of matrices in them and their products on the CPU: the specification of the GPU's.
#include <fstream>
#include <sstream>

#include "support.h"
#include "tensor/gemm.h"
#include "tensor/quantize.h"

using namespace rw;

TEST_CASE("8-bit floats round as torch's do, and saturate where torch's are clamped first") {
  std::ifstream in(test::data_dir() + "/float8_torch.txt");
  REQUIRE(in.good());
  int64_t lines = 0;
  for (std::string line; std::getline(in, line);) {
    if (line[0] == '#') continue;
    uint32_t u = 0, a = 0, b = 0;
    std::istringstream(line) >> std::hex >> u >> a >> b;
    float value = 0;
    std::memcpy(&value, &u, 4);
    INFO("value " << value);
    CHECK(int{e4m3(value).bits} == static_cast<int>(a));
    CHECK(int{e5m2(value).bits} == static_cast<int>(b));
    ++lines;
  }
  CHECK(lines > 200);
}

TEST_CASE("every 8-bit float but NaN survives a conversion to f32 and back") {
  for (int bits = 0; bits < 256; ++bits) {
    e4m3 a;
    e5m2 b;
    a.bits = b.bits = static_cast<uint8_t>(bits);
    const bool a_nan = (bits & 0x7f) == 0x7f, b_nan = (bits & 0x7f) > 0x7c, b_infinite = (bits & 0x7f) == 0x7c;
    CHECK(std::isnan(static_cast<float>(a)) == a_nan);
    CHECK(std::isnan(static_cast<float>(b)) == b_nan);
    if (!a_nan) CHECK(int{e4m3(static_cast<float>(a)).bits} == bits);
    if (b_infinite) CHECK(std::isinf(static_cast<float>(b)));
    else if (!b_nan) CHECK(int{e5m2(static_cast<float>(b)).bits} == bits);
  }
}

TEST_CASE("the largest value of a matrix becomes the largest of the format, and its transpose has the same bytes") {
  for (const DType dtype : {DType::f32, DType::bf16}) {
    const Tensor x = test::randn({48, 32}, 1, dtype, 3.0);
    double most = 0;
    for (const double v : x.to_vector()) most = std::max(most, std::abs(v));
    for (const DType format : {DType::e4m3, DType::e5m2}) {
      const Quantized q = quantize(x, absolute_max(x), format, Copies::both);
      const double scale = q.scale.item(), largest = format == DType::e4m3 ? 448 : 57344;
      CHECK(scale == doctest::Approx(most / largest));
      const auto rows = q.rows.to_vector(), columns = q.columns.to_vector(), want = x.to_vector();
      double top = 0;
      for (int64_t r = 0; r < 48; ++r) {
        for (int64_t c = 0; c < 32; ++c) {
          const double got = rows[size_t(r * 32 + c)], exact = want[size_t(r * 32 + c)];
          CHECK(columns[size_t(c * 48 + r)] == got);
          CHECK(std::abs(got * scale - exact) <=
                std::abs(exact) * (format == DType::e4m3 ? 0x1p-4 : 0x1p-3) + scale / 64);
          top = std::max(top, std::abs(got));
        }
      }
      CHECK(top == largest);
    }
  }
}

TEST_CASE("NaN does not count for a matrix's largest value and stays NaN; zeros stay zeros") {
  const Tensor x = Tensor::from<float>({1.f, NAN, -2.f, 0.f}, {2, 2});
  const Quantized q = quantize(x, absolute_max(x), DType::e4m3, Copies::rows);
  CHECK(q.scale.item() == doctest::Approx(2.0 / 448));
  const auto got = q.rows.to_vector();
  CHECK(got[0] == 224);
  CHECK(std::isnan(got[1]));
  CHECK(got[2] == -448);
  const Tensor zeros = Tensor::zeros({2, 2});
  const Quantized z = quantize(zeros, absolute_max(zeros), DType::e5m2, Copies::rows);
  CHECK(z.rows.to_vector() == std::vector<double>(4, 0.0));
  CHECK(std::isfinite(z.scale.item()));
}

TEST_CASE("an 8-bit product is the f32 product of what its factors stand for") {
  const Tensor x = test::randn({16, 32}, 1, DType::f32), w = test::randn({48, 32}, 2, DType::f32);
  const Quantized qx = quantize(x, absolute_max(x), DType::e5m2, Copies::rows);
  const Quantized qw = quantize(w, absolute_max(w), DType::e4m3, Copies::rows);
  const Tensor got = Tensor::full({16, 48}, 1.0), want = Tensor::full({16, 48}, 1.0);
  gemm({qx.rows, Trans::no, qx.scale}, {qw.rows, Trans::yes, qw.scale}, got, {.beta = 1});
  Tensor wide_x = qx.rows.to(DType::f32), wide_w = qw.rows.to(DType::f32);
  for (int64_t i = 0; i < wide_x.numel(); ++i) wide_x.data<float>()[i] *= static_cast<float>(qx.scale.item());
  for (int64_t i = 0; i < wide_w.numel(); ++i) wide_w.data<float>()[i] *= static_cast<float>(qw.scale.item());
  gemm(wide_x, transposed(wide_w), want, {.beta = 1});
  CHECK(test::relative_error(got, want) < 1e-6);
  CHECK(test::error_of([&] {
          gemm({qx.rows, Trans::no, qx.scale}, {qw.rows, Trans::yes}, got);
        }) == "[gemm] 8-bit factors need a scale each");
  CHECK(test::error_of([&] { gemm(x, {qw.rows, Trans::yes, qw.scale}, got); }) == "[gemm] A has dtype f32, B e4m3");
}

TEST_CASE("a product's bias is added to every row") {
  for (const DType dtype : {DType::f64, DType::f32, DType::bf16}) {
    const Tensor a = test::randn({3, 5}, 1, dtype), b = test::randn({7, 5}, 2, dtype),
                 bias = test::randn({7}, 3, dtype);
    const Tensor plain = Tensor::empty({3, 7}, dtype), got = Tensor::empty({3, 7}, dtype);
    gemm(a, transposed(b), plain);
    gemm(a, transposed(b), got, {.bias = bias});
    auto want = plain.to_vector();
    for (size_t i = 0; i < want.size(); ++i) want[i] += bias.to_vector()[i % 7];
    CHECK(test::relative_error(got.to_vector(), want) < (dtype == DType::bf16 ? 0x1p-7 : 1e-6));
  }
}
