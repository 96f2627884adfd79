// 8-bit copies, products and linear layers on the GPU against the CPU's, which are their specification.
#include "autograd/ops/detail/linear_fp8.h"
#include "autograd/ops/matmul.h"
#include "autograd/ops/norm.h"
#include "autograd/ops/swiglu.h"
#include "gpu.h"
#include "tensor/gemm.h"
#include "tensor/quantize.h"

using namespace rw;
using test::kGpu;

namespace {

bool has_fp8() {
  if (!test::has_gpu()) return false;
  if (cuda::has_fp8_products()) return true;
  std::printf("SKIPPED: this GPU has no 8-bit products\n");
  return false;
}

}  // namespace

TEST_CASE("8-bit copies on the GPU have the bits of the CPU's, rows, columns and scale") {
  if (!test::has_gpu()) return;
  for (const auto& [rows, columns] :
       std::vector<std::array<int64_t, 2>>{{16, 16}, {128, 128}, {144, 272}, {1024, 48}, {16, 4096}, {2048, 1504}}) {
    for (const double std : {1e-6, 1.0, 1e4}) {
      for (const DType format : {DType::e4m3, DType::e5m2}) {
        const Tensor x = test::randn({rows, columns}, 1, DType::bf16, std), gx = x.to(kGpu);
        for (const Copies copies : {Copies::rows, Copies::columns, Copies::both}) {
          const Quantized want = quantize(x, absolute_max(x), format, copies);
          const Quantized got = quantize(gx, absolute_max(gx), format, copies);
          CHECK(test::same_bits(got.scale, want.scale));
          if (want.rows.defined()) CHECK(test::same_bits(got.rows, want.rows));
          if (want.columns.defined()) CHECK(test::same_bits(got.columns, want.columns));
        }
      }
    }
  }
  const Tensor x = test::randn({32, 32}, 1, DType::bf16);  // NaN and infinity
  x.data<bf16>()[5] = bf16(NAN);
  const Quantized nan = quantize(x.to(kGpu), absolute_max(x.to(kGpu)), DType::e4m3, Copies::both);
  CHECK(test::same_bits(nan.rows, quantize(x, absolute_max(x), DType::e4m3, Copies::rows).rows));
  x.data<bf16>()[7] = bf16(-INFINITY);
  CHECK(has_nonfinite(quantize(x.to(kGpu), absolute_max(x.to(kGpu)), DType::e4m3, Copies::rows).rows.to(kCpu)));
}

TEST_CASE("8-bit products on the GPU agree with f64 and repeat bit for bit, also with fast accumulation") {
  if (!has_fp8()) return;
  for (const auto& [m, n, k] : std::vector<std::array<int64_t, 3>>{{64, 48, 32}, {272, 528, 1024}, {2048, 512, 4096}}) {
    for (const DType format : {DType::e4m3, DType::e5m2}) {
      const Tensor a = test::randn({m, k}, 1, DType::bf16), b = test::randn({n, k}, 2, DType::bf16);
      const Quantized qa = quantize(a, absolute_max(a), format, Copies::rows),
                      qb = quantize(b, absolute_max(b), DType::e4m3, Copies::rows);
      const Tensor want = Tensor::empty({m, n}, DType::f64);
      gemm(qa.rows.to(DType::f64), transposed(qb.rows.to(DType::f64)), want);
      for (int64_t i = 0; i < want.numel(); ++i) want.data<double>()[i] *= qa.scale.item() * qb.scale.item();
      for (const DType out : {DType::bf16, DType::f32}) {
        for (const bool fast : {false, true}) {
          const auto run = [&] {
            const Tensor c = Tensor::full({m, n}, NAN, out, kGpu);
            gemm({qa.rows.to(kGpu), Trans::no, qa.scale.to(kGpu)}, {qb.rows.to(kGpu), Trans::yes, qb.scale.to(kGpu)}, c,
                 {.fast_accumulation = fast});
            return c;
          };
          const Tensor got = run();
          const double error = test::relative_error(got, want);
          INFO(m << " x " << n << " x " << k << ", fast " << fast << ": " << error);
          // The tensor cores keep some 14 bits of a partial sum, of 128 products at a time or, if fast, of all.
          CHECK(error < (out == DType::bf16 ? 0x1p-8 : 0.0) + (fast ? 8e-3 : 6e-4));
          CHECK(test::same_bits(got, run()));
        }
      }
    }
  }
}

TEST_CASE("an 8-bit linear layer on the GPU agrees with the CPU's, forward and backward, with and without a buffer") {
  if (!has_fp8()) return;
  for (const auto& [rows, n, k] : std::vector<std::array<int64_t, 3>>{{64, 96, 128}, {512, 1024, 768}}) {
    const Tensor x = test::randn({rows, k}, 1, DType::bf16), w = test::randn({n, k}, 2, DType::bf16, 0.05),
                 dy = test::randn({rows, n}, 3, DType::bf16, 1e-3);
    for (const DType buffer : {DType::f32, DType::bf16}) {
      const auto run = [&](Device device) {
        const Var vx = Var::leaf(x.to(device)), vw = Var::leaf(w.to(device), Tensor::full({n, k}, 0.5, buffer, device));
        const Var y = linear_fp8(vx, vw);
        backward(y, dy.to(device));
        return std::vector<Tensor>{y.value(), vx.grad(), vw.grad()};
      };
      const auto want = run(kCpu), got = run(kGpu), again = run(kGpu);
      for (size_t i = 0; i < want.size(); ++i) {
        INFO("value " << i);
        CHECK(test::relative_error(got[i], want[i]) < 4e-3 + 0x1p-8);
        CHECK(test::same_bits(got[i], again[i]));
      }
    }
  }
}

TEST_CASE("norms and SwiGLU on the GPU find the largest values of what they make, forward and backward") {
  if (!test::has_gpu()) return;
  const auto top = [](const Tensor& x) {
    double most = 0;
    for (const double v : x.to_vector()) most = std::max(most, std::abs(v));
    return most;
  };
  const auto check_op = [&](const std::function<Var(const Var&)>& op, const Tensor& x) {
    const Var leaf = Var::leaf(x.to(kGpu));
    leaf.slot()->wants_largest = true;
    const Var y = op(leaf);
    REQUIRE(y.largest().defined());
    CHECK(top(y.largest()) == top(y.value()));
    backward(y, test::randn(y.shape(), 5, DType::bf16, 3.0).to(kGpu));
    REQUIRE(leaf.slot()->largest.defined());
    CHECK(top(leaf.slot()->largest) == top(leaf.grad()));
  };
  for (const int64_t columns : {64, 768, 2048, 4096, 100, 37}) {
    const Tensor x = test::randn({97, columns}, 1, DType::bf16, 2.0), r = test::randn({97, columns}, 2, DType::bf16);
    const Tensor w = test::randn({columns}, 3, DType::bf16).to(kGpu), residual = r.to(kGpu);
    INFO(columns << " columns");
    check_op([&](const Var& v) { return rms_norm(v, w, {.feeds_fp8 = true}); }, x);
    check_op([&](const Var& v) { return residual_rms_norm(v, residual, w, {.feeds_fp8 = true}).second; }, x);
    if (columns % 2 == 0) check_op([](const Var& v) { return swiglu_packed(v, {.feeds_fp8 = true}); }, x);
  }
}
