// Attention with a window or a soft cap on the GPU, against plain f64 loops on the host.
#include <array>

#include "attention_reference.h"

using namespace test::attention;

// One test case per head dim: small enough for tools under which kernels run 100 times slower.

/// The ways that take a window or a soft cap; Hopper's kernels pass a call with a soft cap on.
const std::vector<Way> kWindowWays{{Path::general, Fusion::automatic},
                                   {Path::general, Fusion::automatic, true},
                                   {Path::mma, Fusion::automatic},
                                   {Path::mma, Fusion::automatic, true},
                                   {Path::sm90, Fusion::automatic}};

void check_windows(int64_t d) {
  for (const DType dtype : {DType::f32, DType::bf16}) {
    for (const int64_t window : {1, 30, 64, 129}) {
      AttentionShape s{2, 4, 2, 300, 300, d, true, 0};
      s.window = window;
      check_case(s, dtype, 1, kWindowWays);
      s.batch = 1, s.q_length = 70, s.k_length = 400;  // keys that no query sees
      check_case(s, dtype, 1, kWindowWays);
    }
  }
}
void check_soft_caps(int64_t d) {
  for (const DType dtype : {DType::f32, DType::bf16}) {
    for (const double cap : {0.5, 30.0}) {
      for (const int64_t window : {0, 50}) {
        AttentionShape s{1, 4, 2, 190, 190, d, true, 0};
        s.window = window, s.soft_cap = cap;
        check_case(s, dtype, 2, kWindowWays);
      }
      AttentionShape s{1, 2, 1, 70, 193, d, false, 0};
      s.soft_cap = cap;
      check_case(s, dtype, 2, kWindowWays);
    }
  }
}
void check_split_kv_windows(int64_t d) {
  for (const DType dtype : {DType::f32, DType::bf16}) {
    for (const auto& [queries, keys, window] :
         std::vector<std::array<int64_t, 3>>{{1, 3000, 2000}, {1, 700, 256}, {5, 900, 300}, {3, 600, 0}}) {
      for (const double cap : {0.0, 2.0}) {
        AttentionShape s{2, 6, 2, queries, keys, d, true, 0};
        s.window = window, s.soft_cap = cap;
        check_case(s, dtype, 1, {kSplitKv});
      }
    }
  }
}
#define WINDOWS(d)                                                                        \
  TEST_CASE("GPU attention with a window agrees with f64, head dim " #d) {                \
    if (!no_gpu()) check_windows(d);                                                      \
  }                                                                                       \
  TEST_CASE("GPU attention with a soft cap agrees with f64, head dim " #d) {              \
    if (!no_gpu()) check_soft_caps(d);                                                    \
  }                                                                                       \
  TEST_CASE("GPU attention of few queries with a window agrees with f64, head dim " #d) { \
    if (!no_gpu()) check_split_kv_windows(d);                                             \
  }
WINDOWS(16)
WINDOWS(40)
WINDOWS(64)
WINDOWS(96)
WINDOWS(128)
WINDOWS(256)

TEST_CASE("the attention kernels of a short window skip the tiles outside of it") {
  if (no_gpu()) return;
  // By the number of tiles, not by time: a NaN in the first key's value would reach every query whose tile reads it.
  AttentionShape s{1, 1, 1, 2000, 2000, 64, true, 0.125};
  s.window = 100;
  for (const Path path : {Path::general, Path::mma}) {
    Gpu gpu(by({path, Fusion::automatic}, s), DType::bf16, 1.0);
    const Tensor first = gpu.v.to(kCpu);
    for (int64_t i = 0; i < 64; ++i) first.data<bf16>()[i] = NAN;
    gpu.v = first.to(kGpu);
    gpu.run();
    const std::vector<double> o = gpu.o.to_vector();
    int64_t last = 0;  // query whose output is NaN
    for (int64_t i = 0; i < 2000; ++i)
      if (std::isnan(o[static_cast<size_t>(i * 64)])) last = i;
    CHECK(last >= 99);
    CHECK(last < 99 + 128 + 64);
  }
}
