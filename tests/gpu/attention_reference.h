// Attention in plain f64 loops on the host, and the rule by which the GPU's results are right.
//
// The rule: the error of a result, in norm, is at most twice that of the plain formula (the whole T x T matrix, every
// step rounded) in the same dtype.
#pragma once
#include <cmath>
#include <cstdio>
#include <cstring>
#include <vector>

#include "autograd/ops/attention_paths.h"
#include "autograd/ops/cuda_ops.h"
#include "gpu/gpu.h"
#include "support.h"
#include "tensor/cuda.h"

namespace test::attention {

using namespace rw;
using cuda::AttentionShape;
using cuda::HeadView;
using cuda::attn::Fusion;
using cuda::attn::Path;
using test::kGpu;
using test::same_bits;

inline bool no_gpu() {
  if (cuda_device_count() > 0) return false;
  std::printf("no GPU (%s): GPU attention is not tested\n", cuda_device_name().c_str());
  return true;
}

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

inline double norm(const std::vector<double>& x) {
  double sum = 0;
  for (const double v : x) sum += v * v;
  return std::sqrt(sum);
}
/// ‖a - b‖, infinity where anything is not finite.
inline double distance(const std::vector<double>& a, const std::vector<double>& b) {
  if (a.size() != b.size()) return INFINITY;
  double sum = 0;
  for (size_t i = 0; i < a.size(); ++i) sum += std::isfinite(a[i]) ? (a[i] - b[i]) * (a[i] - b[i]) : INFINITY;
  return std::sqrt(sum);
}

inline HeadView whole(const Tensor& t) {
  return {&t, t.raw(), t.size(1) * t.size(2) * t.size(3), t.size(2) * t.size(3)};
}
inline HeadView part(const Tensor& t, int64_t first) {
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

/// At most twice the plain formula's error. Three things may be off by more: what both compute exactly
/// (a gradient that is 0) by the rounding of its terms; anything by f32's rounding; and P by that of
/// the logsumexp, which the contract keeps in f32.
struct Rule {
  double lse_rounding;  // 2^-23 max |lse|
  void check(const char* what, const std::vector<double>& got, const std::vector<double>& simple,
             const std::vector<double>& want) const {
    const double n = std::sqrt(static_cast<double>(want.size())), error = distance(got, want);
    const double allowed = 2 * distance(simple, want) + (2e-6 + lse_rounding) * norm(want) + (1e-5 + lse_rounding) * n;
    CHECK_MESSAGE(error <= allowed, what);
  }
};

/// One way of computing: a path, for Hopper's whether its backward makes one pass, and
/// whether dQ may be added up in any order.
struct Way {
  Path path;
  Fusion fusion;
  bool atomics = false;
};
inline const std::vector<Way> kWays{{Path::general, Fusion::automatic},    {Path::general, Fusion::automatic, true},
                                    {Path::mma, Fusion::automatic},        {Path::mma, Fusion::automatic, true},
                                    {Path::sm90, Fusion::never},           {Path::sm90, Fusion::always},
                                    {Path::sm90, Fusion::automatic, true}, {Path::sm90, Fusion::always, true}};

/// The kernel that splits the keys: the forward alone.
inline const Way kSplitKv{Path::split_kv, Fusion::automatic};

inline AttentionShape by(const Way& way, AttentionShape s) {
  s.paths = {.fastest = way.path, .fusion = way.fusion, .fast_atomics = way.atomics};
  return s;
}

inline void check_case(const AttentionShape& shape, DType dtype, double std = 1.0,
                       const std::vector<Way>& ways = kWays) {
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

}  // namespace test::attention
