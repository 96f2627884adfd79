// Attention on the GPU against plain f64 loops on the host: lengths, heads, layouts, and logits of any size.
#include "attention_reference.h"
#include "tensor/profile.h"

using namespace test::attention;

// One test case per head dim: small enough for tools under which kernels run 100 times slower.

void check_odd_lengths(int64_t d) {
  for (const DType dtype : {DType::f32, DType::bf16})
    for (const int64_t t : {1, 7, 129}) check_case({2, 4, 2, t, t, d, true, 0}, dtype);
}
#define ODD_LENGTHS(d)                                                                     \
  TEST_CASE("GPU attention agrees with f64 for lengths that fill no tile, head dim " #d) { \
    if (!no_gpu()) check_odd_lengths(d);                                                   \
  }
ODD_LENGTHS(8)
ODD_LENGTHS(16)
ODD_LENGTHS(40)
ODD_LENGTHS(48)
ODD_LENGTHS(56)
ODD_LENGTHS(64)
ODD_LENGTHS(72)
ODD_LENGTHS(80)
ODD_LENGTHS(96)
ODD_LENGTHS(112)
ODD_LENGTHS(128)
ODD_LENGTHS(256)

TEST_CASE("GPU attention agrees with f64 at a thousand tokens, head dim 64") {
  if (no_gpu()) return;
  for (const DType dtype : {DType::f32, DType::bf16}) check_case({1, 2, 1, 1000, 1000, 64, true, 0}, dtype);
}

TEST_CASE("GPU attention agrees with f64 at a thousand tokens, head dim 128") {
  if (no_gpu()) return;
  for (const DType dtype : {DType::f32, DType::bf16}) check_case({1, 2, 2, 1000, 1000, 128, true, 0}, dtype);
}

// From here on tiles of Hopper's forward are 192 queries, below mostly 128.
TEST_CASE("GPU attention agrees with f64 beyond 512 queries") {
  if (no_gpu()) return;
  check_case({1, 2, 1, 530, 530, 48, true, 0}, DType::bf16);
  check_case({1, 2, 2, 530, 700, 64, true, 0}, DType::bf16);
  check_case({1, 2, 1, 580, 70, 64, false, 0}, DType::bf16);
}

TEST_CASE("GPU attention agrees with f64 with one kv head and with many") {
  if (no_gpu()) return;
  for (const DType dtype : {DType::f32, DType::bf16}) {
    check_case({1, 6, 1, 200, 200, 64, true, 0}, dtype);
    check_case({1, 6, 6, 200, 200, 48, true, 0}, dtype);
  }
}

void check_more_keys_than_queries(int64_t d) {
  for (const DType dtype : {DType::f32, DType::bf16}) {
    check_case({2, 2, 1, 1, 300, d, true, 0}, dtype);
    check_case({1, 2, 1, 65, 131, d, true, 0}, dtype);
    check_case({1, 2, 2, 190, 515, d, true, 0}, dtype);
  }
}
#define MORE_KEYS(d)                                                                 \
  TEST_CASE("GPU attention aligns the last query with the last key, head dim " #d) { \
    if (!no_gpu()) check_more_keys_than_queries(d);                                  \
  }
MORE_KEYS(48)
MORE_KEYS(64)
MORE_KEYS(96)
MORE_KEYS(128)

void check_few_queries(int64_t d) {
  for (const DType dtype : {DType::f32, DType::bf16}) {
    check_case({2, 4, 2, 1, 300, d, true, 0}, dtype, 1, {kSplitKv});
    check_case({1, 9, 1, 1, 1100, d, true, 0}, dtype, 1, {kSplitKv});  // more rows than a block takes
    check_case({1, 6, 2, 5, 777, d, true, 0}, dtype, 1, {kSplitKv});
    check_case({3, 2, 2, 33, 260, d, true, 0}, dtype, 1, {kSplitKv});
    check_case({1, 4, 2, 3, 333, d, false, 0}, dtype, 1, {kSplitKv});
  }
}
#define FEW_QUERIES(d)                                                                     \
  TEST_CASE("GPU attention of few queries over many keys agrees with f64, head dim " #d) { \
    if (!no_gpu()) check_few_queries(d);                                                   \
  }
FEW_QUERIES(8)
FEW_QUERIES(48)
FEW_QUERIES(64)
FEW_QUERIES(96)
FEW_QUERIES(128)
FEW_QUERIES(200)
FEW_QUERIES(256)

TEST_CASE("GPU attention of few queries agrees with f64 where a block's keys are several steps of its warps") {
  if (no_gpu()) return;
  for (const DType dtype : {DType::f32, DType::bf16})  // so many heads that each has one split
    for (const int64_t d : {64, 128}) check_case({1, 600, 600, 1, 333, d, true, 0}, dtype, 1, {kSplitKv});
}

TEST_CASE("few queries over many keys take the kernel that splits the keys, more take another") {
  if (no_gpu()) return;
  const auto took_split_kv = [](int64_t queries, int64_t keys) {
    start_profile();
    const Gpu gpu({1, 8, 1, queries, keys, 64, true, 0.125}, DType::bf16, 1.0);
    int found = 0;
    for (const ProfileRecord& r : stop_profile().kernels) found += r.name.find("split-KV") != std::string::npos;
    return found;
  };
  CHECK(took_split_kv(1, 2048) == 2);  // the splits, and their sum
  CHECK(took_split_kv(8, 2048) == 2);
  CHECK(took_split_kv(9, 2048) == 0);
  CHECK(took_split_kv(1, 255) == 0);
}

void check_no_mask(int64_t d) {
  for (const DType dtype : {DType::f32, DType::bf16}) {
    check_case({1, 2, 2, 100, 100, d, false, 0}, dtype);
    check_case({1, 2, 1, 70, 193, d, false, 0}, dtype);
    check_case({1, 2, 1, 193, 70, d, false, 0}, dtype);
  }
}
#define NO_MASK(d)                                                                \
  TEST_CASE("GPU attention without a mask takes any two lengths, head dim " #d) { \
    if (!no_gpu()) check_no_mask(d);                                              \
  }
NO_MASK(16)
NO_MASK(48)
NO_MASK(64)
NO_MASK(128)
NO_MASK(256)

TEST_CASE("GPU attention stays right at huge logits") {
  if (no_gpu()) return;
  // Logits of about std^2: P is one-hot, and its gradient comes from the few rows where two keys are close.
  for (const int64_t d : {48, 64, 128}) check_case({1, 2, 1, 150, 150, d, true, 0}, DType::f32, 30);
}

TEST_CASE("GPU attention stays finite at huge logits") {
  if (no_gpu()) return;
  for (const DType dtype : {DType::f32, DType::bf16})
    for (const double std : {1e2, 1e4, 1e6})
      for (const int64_t d : {48, 64, 128})
        for (const Way& way : kWays) {
          const Gpu gpu(by(way, {1, 2, 1, 150, 150, d, true, 0.1}), dtype, std);
          const Values got = gpu.values();
          for (const std::vector<double>* x : {&got.o, &got.lse, &got.dq, &got.dk, &got.dv})
            for (const double value : *x) REQUIRE(std::isfinite(value));
        }
  for (const DType dtype : {DType::f32, DType::bf16})
    for (const double std : {1e2, 1e4, 1e6})
      for (const int64_t d : {64, 128}) {
        const Values got = Gpu({1, 2, 1, 3, 300, d, true, 0.1}, dtype, std).values();
        for (const std::vector<double>* x : {&got.o, &got.lse})
          for (const double value : *x) REQUIRE(std::isfinite(value));
      }
}

TEST_CASE("GPU attention reads and writes packed qkv as it does separate tensors") {
  if (no_gpu()) return;
  const int64_t b = 2, t = 150, h = 4, kv = 2;
  for (const DType dtype : {DType::f32, DType::bf16})
    for (const int64_t d : {40, 48, 64, 96, 128}) {
      const AttentionShape s{b, h, kv, t, t, d, true, 0.125};
      const Tensor qkv = test::randn({b, t, h + 2 * kv, d}, 5, dtype), packed = qkv.to(kGpu);
      const auto heads = [&](const Tensor& from, int64_t first, int64_t count) {  // a copy of some heads
        Tensor to = Tensor::empty({b, t, count, d}, dtype);
        const int64_t bytes = size_of(dtype) * d;
        for (int64_t i = 0; i < b * t; ++i)
          std::memcpy(static_cast<char*>(to.raw()) + i * count * bytes,
                      static_cast<char*>(from.raw()) + (i * (h + 2 * kv) + first) * bytes,
                      static_cast<size_t>(count * bytes));
        return to;
      };
      Gpu apart(s, dtype, 1.0);
      apart.q = heads(qkv, 0, h).to(kGpu);
      apart.k = heads(qkv, h, kv).to(kGpu);
      apart.v = heads(qkv, h + kv, kv).to(kGpu);
      apart.run();

      const Tensor o = Tensor::full(apart.o.shape(), NAN, dtype, kGpu),
                   lse = Tensor::full(apart.lse.shape(), NAN, DType::f32, kGpu);
      const Tensor grad = Tensor::full(packed.shape(), NAN, dtype, kGpu);
      cuda::attention_forward(s, part(packed, 0), part(packed, h), part(packed, h + kv), whole(o), lse);
      cuda::attention_backward(s, part(packed, 0), part(packed, h), part(packed, h + kv), whole(o), lse,
                               whole(apart.d_o), part(grad, 0), part(grad, h), part(grad, h + kv));
      const Tensor host = grad.to(kCpu);
      CHECK(same_bits(o, apart.o));
      CHECK(same_bits(heads(host, 0, h), apart.dq));
      CHECK(same_bits(heads(host, h, kv), apart.dk));
      CHECK(same_bits(heads(host, h + kv, kv), apart.dv));
    }
}

// Kernels that pad the head dim would read or write the head beside theirs. Here that head is NaN before and after, and
// nobody else's result can cover what was written there.
void check_neighbours(const AttentionShape& shape, const Way& way) {
  const AttentionShape s = by(way, shape);
  const Gpu alone(s, DType::bf16, 1.0);
  const auto between = [&](const Tensor& x) {  // a head of NaN on either side
    const Tensor host = x.to(kCpu);
    const int64_t heads = x.size(2), bytes = s.head_dim * size_of(DType::bf16);
    Tensor to = Tensor::full({s.batch, x.size(1), heads + 2, s.head_dim}, NAN, DType::bf16);
    for (int64_t i = 0; i < s.batch * x.size(1); ++i)
      std::memcpy(static_cast<char*>(to.raw()) + (i * (heads + 2) + 1) * bytes,
                  static_cast<char*>(host.raw()) + i * heads * bytes, static_cast<size_t>(heads * bytes));
    return to.to(kGpu);
  };
  const auto empty = [&](const Tensor& x) {
    return Tensor::full({s.batch, x.size(1), x.size(2) + 2, s.head_dim}, NAN, DType::bf16).to(kGpu);
  };
  const Tensor q = between(alone.q), k = between(alone.k), v = between(alone.v), d_o = between(alone.d_o);
  const Tensor o = empty(alone.q), dq = empty(alone.q), dk = empty(alone.k), dv = empty(alone.k);
  const Tensor lse = Tensor::full(alone.lse.shape(), NAN, DType::f32, kGpu);
  cuda::attention_forward(s, part(q, 1), part(k, 1), part(v, 1), part(o, 1), lse);
  cuda::attention_backward(s, part(q, 1), part(k, 1), part(v, 1), part(o, 1), lse, part(d_o, 1), part(dq, 1),
                           part(dk, 1), part(dv, 1));
  CAPTURE(static_cast<int>(way.path));
  CAPTURE(static_cast<int>(way.fusion));
  CAPTURE(way.atomics);
  CAPTURE(s.q_length);
  CAPTURE(s.head_dim);
  CHECK(same_bits(o, between(alone.o)));
  if (!way.atomics) CHECK(same_bits(dq, between(alone.dq)));
  CHECK(same_bits(dk, between(alone.dk)));
  CHECK(same_bits(dv, between(alone.dv)));
}
TEST_CASE("GPU attention neither reads nor writes the heads beside its own") {
  if (no_gpu()) return;
  for (const int64_t d : {8, 40, 48, 64, 72, 120, 128}) {
    for (const Way& way : kWays) check_neighbours({1, 2, 1, 150, 150, d, true, 0.125}, way);
    check_neighbours({1, 2, 1, 3, 300, d, true, 0.125}, kSplitKv);
  }
}

TEST_CASE("GPU attention without logsumexp gives the same output") {
  if (no_gpu()) return;
  for (const int64_t d : {48, 64, 128}) {
    const Gpu gpu({1, 2, 1, 100, 100, d, true, 0.125}, DType::bf16, 1.0);
    const Tensor o = Tensor::full(gpu.o.shape(), NAN, DType::bf16, kGpu);
    cuda::attention_forward(gpu.s, whole(gpu.q), whole(gpu.k), whole(gpu.v), whole(o), Tensor());
    CHECK(same_bits(o, gpu.o));
  }
}

// The one pass against two, at sizes that f64 loops on the host would take minutes for. Several rounds of key blocks,
// in both directions, more items than a card has multiprocessors, and lengths that fill no tile.
void check_one_pass(const AttentionShape& shape) {
  const auto values = [&](Fusion fusion, bool atomics) {
    return Gpu(by({Path::sm90, fusion, atomics}, shape), DType::bf16, 1.0).values();
  };
  CAPTURE(shape.head_dim);
  CAPTURE(shape.q_length);
  CAPTURE(shape.k_length);
  const Values two = values(Fusion::never, false), one = values(Fusion::always, false),
               again = values(Fusion::always, false), any = values(Fusion::always, true);
  for (const auto part : {&Values::dq, &Values::dk, &Values::dv}) {
    CHECK(one.*part == again.*part);
    CHECK(distance(one.*part, two.*part) <= 5e-3 * norm(two.*part));  // both round to bf16
    CHECK(distance(any.*part, two.*part) <= 5e-3 * norm(two.*part));
  }
  CHECK(one.dk == any.dk);  // only dQ is added up in any order
  CHECK(one.dv == any.dv);
}
#define ONE_PASS(d)                                                                                    \
  TEST_CASE("GPU attention's backward in one pass repeats itself and agrees with two, head dim " #d) { \
    if (no_gpu()) return;                                                                              \
    const double scale = 1 / std::sqrt(static_cast<double>(d));                                        \
    const int64_t t = test::repetitions(2305, 300);                                                    \
    check_one_pass({1, 32, 8, t, t, d, true, scale});                                                  \
    check_one_pass({2, 3, 3, t, t, d, true, scale});                                                   \
    check_one_pass({1, 40, 40, t / 2 + 60, t / 2 + 60, d, true, scale});                               \
    check_one_pass({1, 4, 2, t / 3, 2 * t, d, true, scale});                                           \
    check_one_pass({1, 4, 2, t, t - 77, d, false, scale});                                             \
  }
ONE_PASS(64)
ONE_PASS(96)
ONE_PASS(128)

TEST_CASE("the backward makes one pass from 2048 queries on, where there is no window") {
  if (no_gpu()) return;
  const auto passes = [&](int64_t length, int64_t d, int64_t window) {
    AttentionShape s{1, 2, 1, length, length, d, true, 0.125};
    s.window = window;
    start_profile();
    const Gpu gpu(s, DType::bf16, 1.0);
    int found = 0;
    for (const ProfileRecord& r : stop_profile().kernels) found += r.name.find("dk, dv (sm_90)") != std::string::npos;
    return found ? 2 : 1;
  };
  if (passes(300, 128, 0) != 2) return;  // another card's path
  for (const int64_t d : {64, 128}) {
    CHECK(passes(2047, d, 0) == 2);
    CHECK(passes(2048, d, 0) == 1);
    CHECK(passes(2048, d, 100) == 2);
  }
}
