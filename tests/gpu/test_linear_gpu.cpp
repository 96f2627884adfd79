// Linear layers with SwiGLU or RoPE in the product's epilogue: the bits of the product and the op one after the other,
// and the same ops on the CPU in f64. Sizes are large enough that the kernels are chosen.
#include <algorithm>

#include "autograd/ops/cuda_ops.h"
#include "autograd/ops/elementwise.h"
#include "autograd/ops/linear_fused.h"
#include "autograd/ops/swiglu.h"
#include "gpu.h"
#include "tensor/profile.h"

using namespace rw;
using test::kGpu;
using test::Place;
using test::randn;
using Vars = std::vector<Var>;

namespace {

/// How many kernels `work` puts on the stream whose names begin so.
template <class F>
int64_t kernels_called(const std::string& prefix, const F& work) {
  start_profile();
  work();
  const Profile p = stop_profile();
  return std::count_if(p.kernels.begin(), p.kernels.end(),
                       [&](const ProfileRecord& k) { return k.name.starts_with(prefix); });
}

void check_same(const std::string& what, const test::Op& fused, const test::Op& apart, const std::vector<Tensor>& in) {
  const test::Result a = test::run_op(fused, in, {kGpu, DType::bf16}), b = test::run_op(apart, in, {kGpu, DType::bf16});
  REQUIRE(a.values.size() == b.values.size());
  for (size_t i = 0; i < a.values.size(); ++i) {
    INFO(what << ", value " << i);
    CHECK(test::same_bits(a.values[i], b.values[i]));
  }
}

Tensor small(const Shape& shape, uint64_t seed, double size) {
  Tensor t = randn(shape, seed);
  for (int64_t i = 0; i < t.numel(); ++i) t.data<double>()[i] *= size;
  return t;
}

RopeAngles angles_of(int64_t batch, int64_t length, int64_t pairs, Place place) {
  const Tensor positions = Tensor::empty({batch, length});
  for (int64_t i = 0; i < positions.numel(); ++i) positions.data<float>()[i] = static_cast<float>(i * 7 % 3001);
  std::vector<double> f(static_cast<size_t>(pairs));
  for (int64_t i = 0; i < pairs; ++i)
    f[static_cast<size_t>(i)] = std::pow(10000.0, -static_cast<double>(i) / static_cast<double>(pairs));
  const Tensor frequencies = Tensor::from(f);
  return rope_angles(positions.to(place.device), Var(frequencies.to(place.device)), 1.25, place.dtype, place.device);
}

}  // namespace

TEST_CASE("SwiGLU between two layers in the products' epilogues has the bits of the ops one after the other") {
  if (!test::has_gpu()) return;
  struct Case {
    int64_t rows, c, f;
  };
  for (const Case& s : std::vector<Case>{
           {8500, 512, 576}, {16901, 72, 320}, {33800, 128, 128}, {7001, 1528, 640}, {2048, 2048, 5632}}) {
    const std::vector<Tensor> in = {randn({1, s.rows, s.c}, 1), small({2 * s.f, s.c}, 2, 0.1),
                                    small({s.c, s.f}, 3, 0.1)};
    for (const bool recompute : {false, true}) {
      const LinearOptions options{.recompute_input = recompute};
      const test::Op fused = [&](const Vars& v, Place) { return Vars{swiglu_mlp(v[0], v[1], v[2], options)}; };
      const test::Op apart = [](const Vars& v, Place) { return Vars{linear(swiglu_packed(linear(v[0], v[1])), v[2])}; };
      check_same(cat(s.rows, " rows, ", s.c, " to ", s.f), fused, apart, in);
      if (cuda::linear_fuses(s.rows, s.f, s.c))
        CHECK(kernels_called("gemm + swiglu", [&] { test::run_op(fused, in, {kGpu, DType::bf16}); }) == 2);
    }
    const NoGrad no_grad;
    Vars v;
    for (const Tensor& t : in) v.emplace_back(t.to(DType::bf16).to(kGpu));
    CHECK(
        test::same_bits(swiglu_mlp(v[0], v[1], v[2]).value(), linear(swiglu_packed(linear(v[0], v[1])), v[2]).value()));
  }
}

TEST_CASE("a layer with RoPE in its epilogue has the bits of the ops one after the other") {
  if (!test::has_gpu()) return;
  struct Case {
    int64_t batch, length, c, heads, rotated, dim;
    bool shared;  // one row of angles for all samples
  };
  for (const Case& s : std::vector<Case>{{17, 500, 512, 9, 6, 64, true},
                                         {17, 500, 136, 10, 10, 64, false},
                                         {3, 2850, 256, 5, 3, 128, false},
                                         {2, 2100, 1528, 9, 8, 128, true},
                                         {2, 2048, 2048, 40, 36, 64, true}}) {
    const std::vector<Tensor> in = {randn({s.batch, s.length, s.c}, 1), small({s.heads * s.dim, s.c}, 2, 0.1)};
    const RopeOptions rotation{.heads = s.rotated, .in_place = true};
    const auto angles = [&](Place place) { return angles_of(s.shared ? 1 : s.batch, s.length, s.dim / 2, place); };
    const test::Op fused = [&](const Vars& v, Place place) {
      return Vars{linear_rope(v[0], v[1], s.dim, angles(place), rotation)};
    };
    const test::Op apart = [&](const Vars& v, Place place) {
      return Vars{rope(reshape(linear(v[0], v[1]), {s.batch, s.length, s.heads, s.dim}), angles(place), rotation)};
    };
    check_same(cat(s.heads, " heads of ", s.dim), fused, apart, in);
    if (cuda::linear_fuses(s.batch * s.length, s.heads * s.dim, s.c))
      CHECK(kernels_called("gemm + rope", [&] { test::run_op(fused, in, {kGpu, DType::bf16}); }) == 1);
  }
}

TEST_CASE("fused linear layers agree with the CPU in f64") {
  if (!test::has_gpu()) return;
  const std::string card = cuda_device_name(0);  // where the kernels must be chosen, or all of this tests nothing
  if (card.find("H100") != std::string::npos || card.find("H200") != std::string::npos) {
    CHECK(cuda::linear_fuses(13600, 320, 64));
    CHECK(cuda::linear_fuses(2048, 5632, 2048));
    CHECK(cuda::linear_fuses(4096, 2560, 2048));
    CHECK_FALSE(cuda::linear_fuses(4096, 5632, 2056));
  }
  test::check_op("swiglu_mlp", {randn({1, 13600, 64}, 1), small({640, 64}, 2, 0.2), small({64, 320}, 3, 0.2)},
                 [](const Vars& v, Place) { return Vars{swiglu_mlp(v[0], v[1], v[2])}; });
  test::check_op("linear_rope", {randn({27, 500, 64}, 1), small({320, 64}, 2, 0.2)}, [](const Vars& v, Place place) {
    return Vars{linear_rope(v[0], v[1], 64, angles_of(1, 500, 32, place), {.heads = 3})};
  });
}

TEST_CASE("what the fused kernels do not take goes the plain way: other layouts, partial rotation, f32, few rows") {
  if (!test::has_gpu()) return;
  const auto count = [](int64_t rows, RopeLayout layout, int64_t pairs, DType dtype) {
    const Place place{kGpu, dtype};
    const NoGrad no_grad;
    const Var x(randn({1, rows, 128}, 1).to(dtype).to(kGpu)), w(randn({576, 128}, 2).to(dtype).to(kGpu));
    const RopeAngles angles = angles_of(1, rows, pairs, place);
    return kernels_called("gemm + rope", [&] { linear_rope(x, w, 64, angles, {.layout = layout}); });
  };
  CHECK(count(8500, RopeLayout::half, 32, DType::bf16) == (cuda::linear_fuses(8500, 576, 128) ? 1 : 0));
  CHECK(count(8500, RopeLayout::interleaved, 32, DType::bf16) == 0);
  CHECK(count(8500, RopeLayout::half, 16, DType::bf16) == 0);
  CHECK(count(8500, RopeLayout::half, 32, DType::f32) == 0);
  CHECK(count(100, RopeLayout::half, 32, DType::bf16) == 0);
}
