// What adapters are made of on the GPU, against the CPU's: dropout masks, weights in blocks, the low-rank product.
#include "autograd/ops/dropout.h"
#include "autograd/ops/elementwise.h"
#include "autograd/ops/linear_blocks.h"
#include "autograd/ops/low_rank.h"
#include "gpu.h"

using namespace rw;
using test::kGpu;

TEST_CASE("dropout on the GPU draws the CPU's mask, wherever the rows begin") {
  if (!test::has_gpu()) return;
  for (const DType dtype : {DType::f32, DType::bf16}) {
    for (const auto& [rows, columns, first] :
         std::vector<std::array<int64_t, 3>>{{1, 1, 0}, {7, 5, 3}, {130, 257, 1000003}, {16, 4096, 1 << 20}}) {
      const Tensor x = test::randn({rows, columns}, 1, dtype);
      const Tensor words = Tensor::from(std::vector<int32_t>{9, 1, static_cast<int32_t>(first), 0});
      const Var want = dropout(Var(x), 0.3, {words, 0x123456789abcdef0u, 17, 2});
      const Var got = dropout(Var(x.to(kGpu)), 0.3, {words.to(kGpu), 0x123456789abcdef0u, 17, 2});
      CHECK(test::same_bits(got.value(), want.value()));
    }
  }
}

TEST_CASE("weights in blocks have the same values on the GPU, but for a rounding of double scales") {
  if (!test::has_gpu()) return;
  for (const BlockCode code : {BlockCode::int8, BlockCode::nf4}) {
    for (const bool twice : {false, true}) {
      for (const auto& [rows, columns] :
           std::vector<std::array<int64_t, 2>>{{1, 64}, {3, 70}, {40, 1000}, {9, 20000}}) {
        BlockMatrix there{.format = {code, twice}, .rows = rows, .columns = columns}, here = there;
        const Tensor x = test::randn({rows, columns}, 2, DType::f32);
        there.allocate(kGpu), here.allocate(kCpu);
        there.store_rows(0, x), here.store_rows(0, x);
        CHECK(test::same_bits(there.codes, here.codes));
        const Tensor want = Tensor::empty({rows, columns}), got = Tensor::empty({rows, columns}, DType::f32, kGpu);
        dequantize(here, want), dequantize(there, got);
        CHECK(test::relative_error(got.to(kCpu), want) < (twice ? 1e-6 : 1e-12));
      }
    }
  }
}

TEST_CASE("the low-rank product and that of a weight in blocks are the CPU's, forward and backward") {
  if (!test::has_gpu()) return;
  const std::vector<LowRankPart> parts{{0, 64}, {96, 32}};
  const Tensor y = test::randn({48, 128}, 1, DType::f32), x = test::randn({48, 64}, 2, DType::f32),
               a = test::randn({16, 64}, 3, DType::f32), b = test::randn({96, 8}, 4, DType::f32),
               dy = test::randn({48, 128}, 5, DType::f32);
  BlockMatrix weight{.format = {}, .rows = 128, .columns = 64};
  const auto run = [&](Device device) {
    BlockMatrix w = weight;
    w.allocate(device);
    w.store_rows(0, test::randn({128, 64}, 6, DType::f32));
    const Var vx = Var::leaf(x.to(device)), va = Var::leaf(a.to(device)), vb = Var::leaf(b.to(device));
    const Var out = add_low_rank(add(linear_blocks(vx, w), Var(y.to(device))), vx, va, vb, parts, 0.5);
    backward(out, dy.to(device));
    return std::vector<Tensor>{out.value().to(kCpu), vx.grad().to(kCpu), va.grad().to(kCpu), vb.grad().to(kCpu)};
  };
  const std::vector<Tensor> want = run(kCpu), got = run(kGpu), again = run(kGpu);
  for (size_t i = 0; i < want.size(); ++i) {
    CHECK(test::relative_error(got[i], want[i]) < 1e-5);
    CHECK(test::same_bits(got[i], again[i]));
  }
}
