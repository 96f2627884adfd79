// Linear layers in 8-bit products on the CPU.
#include "autograd/ops/detail/linear_fp8.h"
#include "autograd/ops/matmul.h"
#include "autograd/ops/norm.h"
#include "autograd/ops/swiglu.h"
#include "autograd/tape.h"
#include "support.h"
#include "tensor/gemm.h"
#include "tensor/quantize.h"

using namespace rw;

namespace {

constexpr int64_t kRows = 32, kIn = 48, kOut = 64;

struct Outcome {
  Tensor y, dx, dw;
};

Outcome run(const Tensor& x, const Tensor& w, const Tensor& dy, bool twice = false) {
  const Var vx = Var::leaf(x), vw = Var::leaf(w, twice ? Tensor::zeros(w.shape()) : Tensor());
  Var y;
  for (int i = 0; i < (twice ? 2 : 1); ++i) backward(y = linear_fp8(vx, vw), dy);
  return {y.value(), vx.grad(), vw.grad()};
}

/// What an 8-bit copy of x stands for, in f64.
Tensor rounded(const Tensor& x, DType format) {
  const Quantized q = quantize(x, absolute_max(x), format, Copies::rows);
  const Tensor wide = q.rows.to(DType::f64);
  for (int64_t i = 0; i < wide.numel(); ++i) wide.data<double>()[i] *= q.scale.item();
  return wide;
}

bool same(const Tensor& a, const Tensor& b) { return a.to_vector() == b.to_vector(); }

}  // namespace

TEST_CASE("an 8-bit linear layer and its gradients are the products of its rounded factors") {
  for (const DType dtype : {DType::f32, DType::bf16}) {
    const Tensor x = test::randn({kRows, kIn}, 1, dtype), w = test::randn({kOut, kIn}, 2, dtype, 0.1),
                 dy = test::randn({kRows, kOut}, 3, dtype);
    const Outcome got = run(x, w, dy);
    const Tensor x8 = rounded(x, DType::e4m3), w8 = rounded(w, DType::e4m3), g8 = rounded(dy, DType::e5m2);
    const Tensor y = Tensor::empty({kRows, kOut}, DType::f64), dx = Tensor::empty({kRows, kIn}, DType::f64),
                 dw = Tensor::empty({kOut, kIn}, DType::f64);
    gemm(x8, transposed(w8), y);
    gemm(g8, w8, dx);
    gemm(transposed(g8), x8, dw);
    const double allowed = dtype == DType::bf16 ? 0x1p-8 : 1e-6;
    CHECK(test::relative_error(got.y, y) < allowed);
    CHECK(test::relative_error(got.dx, dx) < allowed);
    CHECK(test::relative_error(got.dw, dw) < 1e-6);
    CHECK(got.dw.dtype() == DType::f32);
    const Outcome again = run(x, w, dy);
    CHECK(same(got.y, again.y));
    CHECK(same(got.dx, again.dx));
    CHECK(same(got.dw, again.dw));
  }
}

TEST_CASE("the gradients of an 8-bit linear layer add up in the weight's buffer") {
  const Tensor x = test::randn({kRows, kIn}, 1, DType::bf16), w = test::randn({kOut, kIn}, 2, DType::bf16),
               dy = test::randn({kRows, kOut}, 3, DType::bf16);
  const Tensor once = run(x, w, dy).dw, both = run(x, w, dy, true).dw;
  auto want = once.to_vector();
  for (double& v : want) v *= 2;
  CHECK(test::relative_error(both.to_vector(), want) < 1e-6);
}

TEST_CASE("an 8-bit linear layer keeps a byte of each input for backward, and nothing without gradients") {
  const Tensor x = test::randn({kRows, kIn}, 1, DType::bf16), w = test::randn({kOut, kIn}, 2, DType::bf16);
  const int64_t small = 64;  // scales and maxima
  {
    const Var y = linear_fp8(Var::leaf(x), Var::leaf(w));
    CHECK(Tape::current().saved_bytes() <= kRows * kIn + w.bytes() + small);
    Tape::current().clear();
  }
  const NoGrad off;
  linear_fp8(Var::leaf(x), Var::leaf(w));
  CHECK(Tape::current().size() == 0);
}

TEST_CASE("an 8-bit linear layer keeps nothing of an input that can be made again, and its gradients stay the same") {
  const Tensor x = test::randn({kRows, 2 * kIn}, 1, DType::bf16), w = test::randn({kOut, kIn}, 2, DType::bf16),
               norm = test::randn({kIn}, 3, DType::bf16), dy = test::randn({kRows, kOut}, 4, DType::bf16);
  const auto run_with = [&](bool feeds_fp8, int64_t& bytes) {
    const Var vx = Var::leaf(x), vw = Var::leaf(w), vn = Var::leaf(norm);
    const Var half = swiglu_packed(vx, {.feeds_fp8 = feeds_fp8});
    const Var y = linear_fp8(rms_norm(half, vn, {.feeds_fp8 = feeds_fp8}), vw, feeds_fp8);
    bytes = Tape::current().saved_bytes();
    backward(y, dy);
    return std::vector<Tensor>{y.value(), vx.grad(), vw.grad(), vn.grad()};
  };
  int64_t kept = 0, made_again = 0;
  const auto want = run_with(false, kept), got = run_with(true, made_again);
  for (size_t i = 0; i < want.size(); ++i) CHECK(same(got[i], want[i]));
  CHECK(made_again <= kept - kRows * kIn);
}

TEST_CASE("linear takes 8-bit products where asked to, and where their sizes pay") {
  CHECK(fp8_pays(4096, 4096, 4096));
  CHECK_FALSE(fp8_pays(4097, 4096, 4096));
  CHECK_FALSE(fp8_pays(0, 4096, 4096));
  CHECK_FALSE(fp8_pays(64, 64, 64));
  CHECK_FALSE(fp8_pays(65536, 768, 768));
  CHECK(fp8_pays(65536, 768, 2048));
  const Tensor x = test::randn({kRows, kIn}, 1, DType::bf16), w = test::randn({kOut, kIn}, 2, DType::bf16);
  CHECK(same(linear(x, w, {}, {.matmul = Matmul::fp8}).value(), linear(x, w).value()));  // too small to pay
  CHECK(test::error_of([&] { linear(x.to(DType::f64), w.to(DType::f64), {}, {.matmul = Matmul::fp8}); }) ==
        "[linear] 8-bit products are for bf16, got f64");
}
