// Angles in f32 beside those of transformers' formulas in torch.
#include <cmath>

#include "rope/f32_angles.h"
#include "rope/kinds.h"
#include "support.h"

using namespace rw;

namespace {

RopeConfig config(RopeKind kind) {
  return {.head_dim = 16, .max_position_embeddings = 2048, .original_max_position_embeddings = 512, .kind = kind};
}

/// cos of the last of 1536 positions, in f32 and by rope_angles().
std::pair<std::vector<double>, std::vector<double>> last_row(const RopeConfig& c) {
  constexpr int64_t kTokens = 1536;
  Tensor positions = Tensor::empty({1, kTokens});
  for (int64_t t = 0; t < kTokens; ++t) positions.data<float>()[t] = static_cast<float>(t);
  const RopeTable table = make_rope_scaling(c)->table({.length = kTokens});
  const auto row = [&](const RopeAngles& a) {
    CHECK(a.cos.shape() == Shape{1, kTokens, 8});
    CHECK(a.scale == table.attention_scale);
    return a.cos.view({kTokens, 8}).slice(kTokens - 1, kTokens).to_vector();
  };
  return {row(f32_angles(c, positions, kCpu)),
          row(rope_angles(positions, table.inv_freq, table.attention_scale, DType::f32, kCpu))};
}

}  // namespace

// torch 2.15: cos of (1 / (ext * base ** (arange(0, 16, 2) / 16))) * 1535, all in float32.
TEST_CASE("angles in f32 are transformers', where those in f64 are not") {
  const LongRope longrope{
      .factor = 4, .short_factor = std::vector<double>(8, 1.0), .long_factor = {1, 1.07, 1.5, 2.25, 2.9, 3.3, 3.71, 4}};
  const std::vector<std::pair<RopeConfig, std::vector<double>>> cases = {
      {config(longrope),
       {-0.3259238, 0.301561385, -0.229510412, -0.914151073, 0.548621237, 0.0996920094, 0.915620923, 0.9926458}},
      {config(LinearRope{.factor = 3}),
       {-0.915954769, 0.0111855045, 0.620680928, -0.890498161, 0.393354446, -0.0472183265, 0.871929646, 0.986938417}},
      {config(DefaultRope{}),
       {-0.3259238, -0.033535663, -0.905584753, -0.153115422, -0.936612189, 0.141233638, 0.0357885957, 0.884483874}}};
  for (const auto& [c, want] : cases) {
    const auto [f32, f64] = last_row(c);
    double apart = 0;
    for (size_t i = 0; i < want.size(); ++i) {
      CHECK(std::abs(f32[i] - want[i]) < 2e-7);
      apart = std::max(apart, std::abs(f64[i] - want[i]));
    }
    CHECK(apart > 5e-6);
  }
}

TEST_CASE("angles in f32 are refused for recipes that transformers does not compute so") {
  const Tensor positions = Tensor::zeros({1, 4});
  CHECK(test::error_of([&] {
          f32_angles(config(YarnRope{.factor = 4}), positions, kCpu);
        }).find("are for default, linear and longrope, got yarn: freeze the model first") != std::string::npos);
  CHECK(test::error_of([&] {
          f32_angles(config(DefaultRope{}), Tensor::zeros({2, 4}), kCpu);
        }).find("[1, T]") != std::string::npos);
}
