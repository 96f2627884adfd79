// Attention on the GPU against plain f64 loops on the host.
//
// The rule: the error of a result, in norm, is at most twice that of the plain formula (the whole T x T matrix, every
// step rounded) in the same dtype.
#include <cmath>
#include <cstdio>
#include <cstring>
#include <vector>

#include "autograd/ops/attention_paths.h"
#include "autograd/ops/cuda_ops.h"
#include "gpu/gpu.h"
#include "support.h"
#include "tensor/cuda.h"
#include "tensor/profile.h"

using namespace rw;
using cuda::AttentionShape;
using cuda::HeadView;
using cuda::attn::Fusion;
using cuda::attn::Path;

namespace {

bool no_gpu() {
  if (cuda_device_count() > 0) return false;
  std::printf("no GPU (%s): GPU attention is not tested\n", cuda_device_name().c_str());
  return true;
}

const Device kGpu{DeviceType::cuda, 0};

/// q, o and their gradients [B,Tq,H,D]; k, v and theirs [B,Tk,K,D]; lse [B,H,Tq], all as f64.
struct Values {
  std::vector<double> o, lse, dq, dk, dv;
};
struct Inputs {
  std::vector<double> q, k, v, d_o;
};

/// The plain formula with every intermediate rounded to T, sums in T's accumulator type.
template <class T>
Values plain(const AttentionShape& s, const Inputs& in) {
  using A = Acc<T>;
  const auto rounded = [](A x) { return static_cast<A>(static_cast<T>(x)); };
  const int64_t d = s.head_dim, group = s.n_heads / s.n_kv_heads, tq = s.q_length, tk = s.k_length;
  Values r;
  r.o.assign(in.q.size(), 0);
  r.dq.assign(in.q.size(), 0);
  r.dk.assign(in.k.size(), 0);
  r.dv.assign(in.k.size(), 0);
  r.lse.assign(s.batch * s.n_heads * tq, 0);
  std::vector<A> dk(in.k.size(), A(0)), dv(in.k.size(), A(0));
  const A scale = static_cast<A>(s.scale);
  for (int64_t b = 0; b < s.batch; ++b)
    for (int64_t h = 0; h < s.n_heads; ++h)
      for (int64_t i = 0; i < tq; ++i) {
        const int64_t seen = s.causal ? std::min(tk, i + 1 + tk - tq) : tk, row = ((b * tq + i) * s.n_heads + h) * d;
        const int64_t begin = s.window > 0 ? std::max<int64_t>(0, i + 1 + tk - tq - s.window) : 0;
        const auto key = [&](int64_t j) { return ((b * tk + j) * s.n_kv_heads + h / group) * d; };
        std::vector<A> p(seen), dp(seen), slope(seen, A(1)), out(d, A(0)), dq(d, A(0));
        A top = -INFINITY, sum = 0, delta = 0;
        for (int64_t j = begin; j < seen; ++j) {
          A dot = 0;
          for (int64_t e = 0; e < d; ++e) dot += static_cast<A>(in.q[row + e]) * static_cast<A>(in.k[key(j) + e]);
          p[j] = rounded(dot * scale);
          if (s.soft_cap > 0) {
            const A t = rounded(std::tanh(p[j] / static_cast<A>(s.soft_cap)));
            p[j] = rounded(t * static_cast<A>(s.soft_cap));
            slope[j] = rounded(A(1) - t * t);
          }
          top = std::max(top, p[j]);
        }
        for (int64_t j = begin; j < seen; ++j) sum += p[j] = std::exp(p[j] - top);
        r.lse[(b * s.n_heads + h) * tq + i] = top + std::log(sum);
        for (int64_t j = begin; j < seen; ++j) {
          p[j] = rounded(p[j] / sum);
          A dot = 0;
          for (int64_t e = 0; e < d; ++e) {
            out[e] += p[j] * static_cast<A>(in.v[key(j) + e]);
            dot += static_cast<A>(in.d_o[row + e]) * static_cast<A>(in.v[key(j) + e]);
          }
          dp[j] = rounded(dot);
          delta += p[j] * dp[j];
        }
        for (int64_t j = begin; j < seen; ++j) {
          const A ds = rounded(p[j] * (dp[j] - delta) * slope[j] * scale);
          for (int64_t e = 0; e < d; ++e) {
            dq[e] += ds * static_cast<A>(in.k[key(j) + e]);
            dk[key(j) + e] += ds * static_cast<A>(in.q[row + e]);
            dv[key(j) + e] += p[j] * static_cast<A>(in.d_o[row + e]);
          }
        }
        for (int64_t e = 0; e < d; ++e) {
          r.o[row + e] = rounded(out[e]);
          r.dq[row + e] = rounded(dq[e]);
        }
      }
  for (size_t i = 0; i < dk.size(); ++i) {
    r.dk[i] = rounded(dk[i]);
    r.dv[i] = rounded(dv[i]);
  }
  return r;
}

double norm(const std::vector<double>& x) {
  double sum = 0;
  for (const double v : x) sum += v * v;
  return std::sqrt(sum);
}
/// ‖a - b‖, infinity where anything is not finite.
double distance(const std::vector<double>& a, const std::vector<double>& b) {
  if (a.size() != b.size()) return INFINITY;
  double sum = 0;
  for (size_t i = 0; i < a.size(); ++i) sum += std::isfinite(a[i]) ? (a[i] - b[i]) * (a[i] - b[i]) : INFINITY;
  return std::sqrt(sum);
}

HeadView whole(const Tensor& t) { return {&t, t.raw(), t.size(1) * t.size(2) * t.size(3), t.size(2) * t.size(3)}; }
HeadView part(const Tensor& t, int64_t first) {
  HeadView v = whole(t);
  v.data = static_cast<char*>(v.data) + first * t.size(3) * size_of(t.dtype());
  return v;
}

/// One problem on the GPU. Results start as NaN, so that an element nobody writes shows.
struct Gpu {
  AttentionShape s;
  Tensor q, k, v, d_o, o, lse, dq, dk, dv;

  Gpu(const AttentionShape& shape, DType dtype, double std) : s(shape) {
    const Shape rows{s.batch, s.q_length, s.n_heads, s.head_dim}, keys{s.batch, s.k_length, s.n_kv_heads, s.head_dim};
    q = test::randn(rows, 1, dtype, std).to(kGpu);
    k = test::randn(keys, 2, dtype, std).to(kGpu);
    v = test::randn(keys, 3, dtype).to(kGpu);
    d_o = test::randn(rows, 4, dtype).to(kGpu);
    run();
  }
  void run() {
    for (Tensor* t : {&o, &dq}) *t = Tensor::full(q.shape(), NAN, q.dtype(), kGpu);
    for (Tensor* t : {&dk, &dv}) *t = Tensor::full(k.shape(), NAN, q.dtype(), kGpu);
    lse = Tensor::full({s.batch, s.n_heads, s.q_length}, NAN, DType::f32, kGpu);
    cuda::attention_forward(s, whole(q), whole(k), whole(v), whole(o), lse);
    cuda::attention_backward(s, whole(q), whole(k), whole(v), whole(o), lse, whole(d_o), whole(dq), whole(dk),
                             whole(dv));
  }
  Inputs inputs() const { return {q.to_vector(), k.to_vector(), v.to_vector(), d_o.to_vector()}; }
  Values values() const { return {o.to_vector(), lse.to_vector(), dq.to_vector(), dk.to_vector(), dv.to_vector()}; }
};

bool same_bits(const Tensor& a, const Tensor& b) {
  const Tensor x = a.to(kCpu), y = b.to(kCpu);
  return x.shape() == y.shape() && std::memcmp(x.raw(), y.raw(), static_cast<size_t>(x.bytes())) == 0;
}

/// At most twice the plain formula's error. Three things may be off by more: what both compute exactly (a gradient that
/// is 0) by the rounding of its terms; anything by f32's rounding; and P by that of the logsumexp, which the contract
/// keeps in f32.
struct Rule {
  double lse_rounding;  // 2^-23 max |lse|
  void check(const char* what, const std::vector<double>& got, const std::vector<double>& simple,
             const std::vector<double>& want) const {
    const double n = std::sqrt(static_cast<double>(want.size())), error = distance(got, want);
    const double allowed = 2 * distance(simple, want) + (2e-6 + lse_rounding) * norm(want) + (1e-5 + lse_rounding) * n;
    CHECK_MESSAGE(error <= allowed, what);
  }
};

/// One way of computing: a path, for the last whether its backward makes one pass, and whether dQ may be added up in
/// any order.
struct Way {
  Path path;
  Fusion fusion;
  bool atomics = false;
};
const std::vector<Way> kWays{{Path::general, Fusion::automatic},    {Path::general, Fusion::automatic, true},
                             {Path::mma, Fusion::automatic},        {Path::mma, Fusion::automatic, true},
                             {Path::sm90, Fusion::never},           {Path::sm90, Fusion::always},
                             {Path::sm90, Fusion::automatic, true}, {Path::sm90, Fusion::always, true}};

/// Few queries over many keys: the keys are split; the forward alone.
const Way kSplitKv{Path::split_kv, Fusion::automatic};

AttentionShape by(const Way& way, AttentionShape s) {
  s.paths = {.fastest = way.path, .fusion = way.fusion, .fast_atomics = way.atomics};
  return s;
}

void check_case(const AttentionShape& shape, DType dtype, double std = 1.0, const std::vector<Way>& ways = kWays) {
  AttentionShape s = shape;
  s.batch = test::repetitions(s.batch, 1);
  for (int64_t* length : {&s.q_length, &s.k_length}) *length = std::min(*length, test::repetitions(*length, 333));
  s.scale = 1 / std::sqrt(static_cast<double>(s.head_dim));
  Values want, simple;
  for (const Way& way : ways) {
    const Path path = way.path;
    if (dtype == DType::f32 && (path == Path::mma || path == Path::sm90)) break;
    Gpu gpu(by(way, s), dtype, std);
    if (want.o.empty()) {
      want = plain<double>(s, gpu.inputs());
      simple = dtype == DType::f32 ? plain<float>(s, gpu.inputs()) : plain<bf16>(s, gpu.inputs());
    }
    const Values got = gpu.values();
    CAPTURE(static_cast<int>(path));
    CAPTURE(static_cast<int>(way.fusion));
    CAPTURE(way.atomics);
    CAPTURE(s.batch);
    CAPTURE(s.n_heads);
    CAPTURE(s.n_kv_heads);
    CAPTURE(s.q_length);
    CAPTURE(s.k_length);
    CAPTURE(s.head_dim);
    CAPTURE(s.causal);
    CAPTURE(s.window);
    CAPTURE(s.soft_cap);
    Rule rule{0};
    for (const double x : want.lse) rule.lse_rounding = std::max(rule.lse_rounding, 0x1p-23 * std::abs(x));
    rule.check("o", got.o, simple.o, want.o);
    rule.check("lse", got.lse, simple.lse, want.lse);
    rule.check("dq", got.dq, simple.dq, want.dq);
    rule.check("dk", got.dk, simple.dk, want.dk);
    rule.check("dv", got.dv, simple.dv, want.dv);
    if (test::repetitions(2, 1) == 1) continue;
    const Gpu first = gpu;
    gpu.run();
    CHECK_MESSAGE((same_bits(first.o, gpu.o) && (way.atomics || same_bits(first.dq, gpu.dq)) &&
                   same_bits(first.dk, gpu.dk) && same_bits(first.dv, gpu.dv)),
                  "a second run gives other bits");
  }
}

}  // namespace

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
