// Attention on the CPU: blocks of scores by matrix products, the recorded op, and the choice between CPU and GPU.
#include "autograd/ops/attention.h"

#include <algorithm>
#include <cmath>
#include <limits>
#include <vector>

#include "autograd/kept_values.h"
#include "autograd/ops/cuda_ops.h"
#include "autograd/tape.h"
#include "tensor/cpu_levels.h"
#include "tensor/gemm.h"
#include "tensor/math.h"
#include "tensor/parallel_for.h"

namespace rw {
namespace {

using cuda::AttentionShape;
using cuda::HeadView;

// Blocks of scores that stay in a core's L2 cache: 64 x 512 values.
constexpr int64_t kQueryBlock = 64, kKeyBlock = 512;

template <class T>
struct Heads {
  T* data;
  int64_t batch, row, head_dim;
  explicit Heads(const HeadView& v, int64_t d)
      : data(static_cast<T*>(v.data)), batch(v.batch), row(v.row), head_dim(d) {}
  T* at(int64_t b, int64_t t, int64_t h) const { return data + b * batch + t * row + h * head_dim; }
  /// The rows of head h from token t on, as a factor.
  cpu::Factor<T> rows(int64_t b, int64_t t, int64_t h) const { return {at(b, t, h), row}; }
};

/// How many keys query i sees.
int64_t visible(const AttentionShape& s, int64_t query) {
  return s.causal ? std::min(s.k_length, query + 1 + s.k_length - s.q_length) : s.k_length;
}

/// The first key that query i sees.
int64_t first_visible(const AttentionShape& s, int64_t query) {
  return s.window > 0 ? std::max<int64_t>(0, query + 1 + s.k_length - s.q_length - s.window) : 0;
}

/// scores[c] = cap tanh(scores[c] / cap)
template <class T>
[[gnu::always_inline]] inline void cap_scores(T* scores, int64_t n, T cap) {
  const T inverse = T(1) / cap;
#pragma omp simd
  for (int64_t c = 0; c < n; ++c) scores[c] = cap * fast_tanh(scores[c] * inverse);
}

/// out [rows, width] = scale A [rows, D] B [width, D]^T
template <class T>
cpu::Product<T> scores_of(const AttentionShape& s, int64_t rows, int64_t width, cpu::Factor<T> a, cpu::Factor<T> b,
                          T* out, double scale) {
  b.trans = Trans::yes;
  return {.m = rows,
          .n = width,
          .k = s.head_dim,
          .a = a,
          .b = b,
          .c = out,
          .c_stride = width,
          .alpha = static_cast<T>(scale)};
}

/// One block of queries of one head: O and logsumexp by the online softmax over blocks of keys.
template <class T>
RW_CPU_LEVELS void forward_block(const AttentionShape& s, const Heads<T>& q, const Heads<T>& k, const Heads<T>& v,
                                 const Heads<T>& o, T* lse, int64_t b, int64_t h, int64_t begin,
                                 std::vector<T>& scores) {
  const int64_t end = std::min(begin + kQueryBlock, s.q_length), rows = end - begin, d = s.head_dim;
  const int64_t kv = h / (s.n_heads / s.n_kv_heads), keys = visible(s, end - 1);
  const int64_t first = first_visible(s, begin);  // every row sees a key of the first block: 64 rows, 512 keys
  std::vector<T> maximum(static_cast<size_t>(rows), -std::numeric_limits<T>::infinity()),
      total(static_cast<size_t>(rows), T(0));
  for (int64_t j = first; j < keys; j += kKeyBlock) {
    const int64_t width = std::min(kKeyBlock, keys - j);
    T* block = scores.data();  // [rows, width]
    cpu::gemm(scores_of(s, rows, width, q.rows(b, begin, h), k.rows(b, j, kv), block, s.scale));
    for (int64_t r = 0; r < rows; ++r) {
      T* row = block + r * width;
      const int64_t seen = std::clamp<int64_t>(visible(s, begin + r) - j, 0, width);
      const int64_t from = std::clamp<int64_t>(first_visible(s, begin + r) - j, 0, seen);
      if (s.soft_cap > 0) cap_scores(row + from, seen - from, static_cast<T>(s.soft_cap));
      T& m = maximum[static_cast<size_t>(r)];
      T top = m;
#pragma omp simd reduction(max : top)
      for (int64_t c = from; c < seen; ++c) top = row[c] > top ? row[c] : top;
      T sum = 0;
#pragma omp simd reduction(+ : sum)
      for (int64_t c = from; c < seen; ++c) {
        row[c] = fast_exp(row[c] - top);
        sum += row[c];
      }
      std::fill(row, row + from, T(0));
      std::fill(row + seen, row + width, T(0));
      const T shrink = j == first ? T(0) : fast_exp(m - top);
      total[static_cast<size_t>(r)] = total[static_cast<size_t>(r)] * shrink + sum;
      m = top;
      if (j > first && shrink != T(1)) {
        T* out = o.at(b, begin + r, h);
        for (int64_t c = 0; c < d; ++c) out[c] *= shrink;
      }
    }
    cpu::gemm(cpu::Product<T>{.m = rows,
                              .n = d,
                              .k = width,
                              .a = {block, width},
                              .b = v.rows(b, j, kv),
                              .c = o.at(b, begin, h),
                              .c_stride = o.row,
                              .beta = j == first ? T(0) : T(1)});
  }
  for (int64_t r = 0; r < rows; ++r) {
    const T sum = total[static_cast<size_t>(r)];
    T* out = o.at(b, begin + r, h);
    for (int64_t c = 0; c < d; ++c) out[c] /= sum;
    lse[(b * s.n_heads + h) * s.q_length + begin + r] = maximum[static_cast<size_t>(r)] + std::log(sum);
  }
}

/// One query of one head: two passes over the keys it sees. For decoding, where a matrix product has nothing to reuse.
template <class T>
RW_CPU_LEVELS void forward_row(const AttentionShape& s, const Heads<T>& q, const Heads<T>& k, const Heads<T>& v,
                               const Heads<T>& o, T* lse, int64_t b, int64_t h, int64_t query, std::vector<T>& scores) {
  const int64_t kv = h / (s.n_heads / s.n_kv_heads), first = first_visible(s, query), d = s.head_dim;
  const int64_t keys = visible(s, query) - first;
  scores.resize(static_cast<size_t>(std::max(keys, kQueryBlock * kKeyBlock)));
  const T *x = q.at(b, query, h), *key = k.at(b, first, kv), *value = v.at(b, first, kv);
  T top = -std::numeric_limits<T>::infinity();
  for (int64_t j = 0; j < keys; ++j) {
    T dot = 0;
#pragma omp simd reduction(+ : dot)
    for (int64_t i = 0; i < d; ++i) dot += x[i] * key[j * k.row + i];
    scores[static_cast<size_t>(j)] = dot * static_cast<T>(s.scale);
    top = std::max(top, scores[static_cast<size_t>(j)]);
  }
  if (s.soft_cap > 0) {
    const T cap = static_cast<T>(s.soft_cap);
    cap_scores(scores.data(), keys, cap);
    top = cap * fast_tanh(top * (T(1) / cap));
  }
  T* out = o.at(b, query, h);
  std::fill_n(out, d, T(0));
  T sum = 0;
  for (int64_t j = 0; j < keys; ++j) {
    const T p = fast_exp(scores[static_cast<size_t>(j)] - top);
    sum += p;
#pragma omp simd
    for (int64_t i = 0; i < d; ++i) out[i] += p * value[j * v.row + i];
  }
  for (int64_t i = 0; i < d; ++i) out[i] /= sum;
  lse[(b * s.n_heads + h) * s.q_length + query] = top + std::log(sum);
}

template <class T>
void forward_cpu(const AttentionShape& s, const HeadView& qv, const HeadView& kv, const HeadView& vv,
                 const HeadView& ov, T* lse) {
  const Heads<T> q(qv, s.head_dim), k(kv, s.head_dim), v(vv, s.head_dim), o(ov, s.head_dim);
  const int64_t blocks = (s.q_length + kQueryBlock - 1) / kQueryBlock;
  const auto one_block = [&](int64_t item) {
    thread_local std::vector<T> scores;
    scores.resize(static_cast<size_t>(kQueryBlock * kKeyBlock));
    // Late blocks see the most keys: start with them, so that threads finish together.
    if (s.q_length == 1) return forward_row(s, q, k, v, o, lse, item / s.n_heads, item % s.n_heads, 0, scores);
    const int64_t block = blocks - 1 - item / (s.batch * s.n_heads), head = item % (s.batch * s.n_heads);
    forward_block(s, q, k, v, o, lse, head / s.n_heads, head % s.n_heads, block * kQueryBlock, scores);
  };
  const int64_t items = s.batch * s.n_heads * blocks;
  if (items * s.k_length * s.head_dim < 1 << 16) {  // a short decode step: starting threads would cost more
    for (int64_t i = 0; i < items; ++i) one_block(i);
  } else {
    parallel_items(items, one_block);
  }
}

/// With a soft cap, for one row: scores become P, and d (dP on entry) becomes dS / dscores,
///   t = tanh(s / cap), P = exp(cap t - lse), dS = P (dP - delta) (1 - t^2) scale
template <class T>
[[gnu::always_inline]] inline void capped_gradient(T* scores, T* d, int64_t n, T lse, T delta, T scale, T cap) {
  const T inverse = T(1) / cap;
#pragma omp simd
  for (int64_t c = 0; c < n; ++c) {
    const T t = fast_tanh(scores[c] * inverse);
    scores[c] = fast_exp(cap * t - lse);
    d[c] = scores[c] * (d[c] - delta) * (T(1) - t * t) * scale;
  }
}

/// All queries that read one kv head, one block of keys after another for each block of queries:
///   P = exp(S - lse), dV += P^T dO, dS = P (dO V^T - delta) scale, dQ += dS K, dK += dS^T Q,  delta = rowsum(dO O)
template <class T>
RW_CPU_LEVELS void backward_head(const AttentionShape& s, const Heads<T>& q, const Heads<T>& k, const Heads<T>& v,
                                 const Heads<T>& o, const T* lse, const Heads<T>& d_o, const Heads<T>& dq,
                                 const Heads<T>& dk, const Heads<T>& dv, int64_t b, int64_t kv) {
  const int64_t d = s.head_dim, group = s.n_heads / s.n_kv_heads;
  thread_local std::vector<T> p_block, ds_block, delta;
  p_block.resize(static_cast<size_t>(kQueryBlock * kKeyBlock));
  ds_block.resize(static_cast<size_t>(kQueryBlock * kKeyBlock));
  delta.resize(static_cast<size_t>(kQueryBlock));
  for (int64_t t = 0; t < s.k_length; ++t) {
    std::fill_n(dk.at(b, t, kv), d, T(0));
    std::fill_n(dv.at(b, t, kv), d, T(0));
  }
  for (int64_t h = kv * group; h < (kv + 1) * group; ++h) {
    for (int64_t begin = 0; begin < s.q_length; begin += kQueryBlock) {
      const int64_t end = std::min(begin + kQueryBlock, s.q_length), rows = end - begin, keys = visible(s, end - 1);
      const int64_t first = first_visible(s, begin);
      for (int64_t r = 0; r < rows; ++r) {
        const T *a = d_o.at(b, begin + r, h), *c = o.at(b, begin + r, h);
        T dot = 0;
        for (int64_t i = 0; i < d; ++i) dot += a[i] * c[i];
        delta[static_cast<size_t>(r)] = dot;
      }
      for (int64_t j = first; j < keys; j += kKeyBlock) {
        const int64_t width = std::min(kKeyBlock, keys - j);
        T *p = p_block.data(), *ds = ds_block.data();
        cpu::gemm(scores_of(s, rows, width, q.rows(b, begin, h), k.rows(b, j, kv), p, s.scale));
        cpu::gemm(scores_of(s, rows, width, d_o.rows(b, begin, h), v.rows(b, j, kv), ds, 1));
        for (int64_t r = 0; r < rows; ++r) {
          T *pr = p + r * width, *sr = ds + r * width;
          const int64_t seen = std::clamp<int64_t>(visible(s, begin + r) - j, 0, width);
          const int64_t from = std::clamp<int64_t>(first_visible(s, begin + r) - j, 0, seen);
          const T norm = lse[(b * s.n_heads + h) * s.q_length + begin + r], dot = delta[static_cast<size_t>(r)];
          const T factor = static_cast<T>(s.scale);
          if (s.soft_cap > 0) {
            capped_gradient(pr + from, sr + from, seen - from, norm, dot, factor, static_cast<T>(s.soft_cap));
          } else {
#pragma omp simd
            for (int64_t c = from; c < seen; ++c) {
              pr[c] = fast_exp(pr[c] - norm);
              sr[c] = pr[c] * (sr[c] - dot) * factor;
            }
          }
          std::fill(pr, pr + from, T(0));
          std::fill(sr, sr + from, T(0));
          std::fill(pr + seen, pr + width, T(0));
          std::fill(sr + seen, sr + width, T(0));
        }
        cpu::Product<T> product{.m = width,
                                .n = d,
                                .k = rows,
                                .a = {p, width, Trans::yes},
                                .b = d_o.rows(b, begin, h),
                                .c = dv.at(b, j, kv),
                                .c_stride = dv.row,
                                .beta = T(1)};
        cpu::gemm(product);  // dV += P^T dO
        product.a.data = ds, product.b = q.rows(b, begin, h), product.c = dk.at(b, j, kv), product.c_stride = dk.row;
        cpu::gemm(product);  // dK += dS^T Q
        cpu::gemm(cpu::Product<T>{.m = rows,
                                  .n = d,
                                  .k = width,
                                  .a = {ds, width},
                                  .b = k.rows(b, j, kv),
                                  .c = dq.at(b, begin, h),
                                  .c_stride = dq.row,
                                  .beta = j == first ? T(0) : T(1)});
      }
    }
  }
}

template <class T>
void backward_cpu(const AttentionShape& s, const HeadView& q, const HeadView& k, const HeadView& v, const HeadView& o,
                  const T* lse, const HeadView& d_o, const HeadView& dq, const HeadView& dk, const HeadView& dv) {
  const auto heads = [&](const HeadView& view) { return Heads<T>(view, s.head_dim); };
  parallel_items(s.batch * s.n_kv_heads, [&](int64_t item) {
    backward_head<T>(s, heads(q), heads(k), heads(v), heads(o), lse, heads(d_o), heads(dq), heads(dk), heads(dv),
                     item / s.n_kv_heads, item % s.n_kv_heads);
  });
}

HeadView whole(const Tensor& t) {
  const int64_t row = t.size(2) * t.size(3);
  return {.owner = &t, .data = t.raw(), .batch = t.size(1) * row, .row = row};
}

/// The heads [first, ...) of a packed tensor.
HeadView part(const Tensor& t, int64_t first) {
  HeadView view = whole(t);
  view.data = static_cast<char*>(view.data) + first * t.size(3) * size_of(t.dtype());
  return view;
}

/// Views of q, k, v in separate tensors or in one packed tensor.
struct Inputs {
  std::vector<Tensor> tensors;  // {q, k, v} or {qkv}
  int64_t n_heads, n_kv_heads;
  HeadView q() const { return whole(tensors[0]); }
  HeadView k() const { return tensors.size() == 1 ? part(tensors[0], n_heads) : whole(tensors[1]); }
  HeadView v() const { return tensors.size() == 1 ? part(tensors[0], n_heads + n_kv_heads) : whole(tensors[2]); }
  Inputs to(DType dtype) const {
    Inputs r = *this;
    for (Tensor& t : r.tensors) t = t.to(dtype);
    return r;
  }
  Inputs like() const {
    Inputs r = *this;
    for (Tensor& t : r.tensors) t = Tensor::empty_like(t);
    return r;
  }
};

void forward(const AttentionShape& s, const Inputs& in, const Tensor& o, const Tensor& lse) {
  if (o.is_cuda()) return cuda::attention_forward(s, in.q(), in.k(), in.v(), whole(o), lse);
  if (o.dtype() == DType::bf16) {  // bf16 on the CPU computes in f32
    const Tensor o32 = Tensor::empty(o.shape());
    forward(s, in.to(DType::f32), o32, lse);
    return o.copy_from(o32);
  }
  if (o.dtype() == DType::f64) return forward_cpu<double>(s, in.q(), in.k(), in.v(), whole(o), lse.data<double>());
  forward_cpu<float>(s, in.q(), in.k(), in.v(), whole(o), lse.data<float>());
}

void backward_all(const AttentionShape& s, const Inputs& in, const Tensor& o, const Tensor& lse, const Tensor& d_o,
                  const Inputs& d) {
  if (o.is_cuda())
    return cuda::attention_backward(s, in.q(), in.k(), in.v(), whole(o), lse, whole(d_o), d.q(), d.k(), d.v());
  if (o.dtype() == DType::bf16) {
    const Inputs d32 = d.to(DType::f32);
    backward_all(s, in.to(DType::f32), o.to(DType::f32), lse, d_o.to(DType::f32), d32);
    for (size_t i = 0; i < d.tensors.size(); ++i) d.tensors[i].copy_from(d32.tensors[i]);
    return;
  }
  if (o.dtype() == DType::f64) {
    backward_cpu<double>(s, in.q(), in.k(), in.v(), whole(o), lse.data<double>(), whole(d_o), d.q(), d.k(), d.v());
  } else {
    backward_cpu<float>(s, in.q(), in.k(), in.v(), whole(o), lse.data<float>(), whole(d_o), d.q(), d.k(), d.v());
  }
}

struct AttentionNode : Node {  // saved: q, k, v (or qkv), o, lse
  AttentionShape shape{};
  const char* name() const override { return saved.size() == 3 ? "attention_packed" : "attention"; }
  void backward() override {
    const Inputs in{{saved.begin(), saved.end() - 2}, shape.n_heads, shape.n_kv_heads};
    const Inputs d = in.like();
    shape.paths.fast_atomics = fast_atomics();
    backward_all(shape, in, saved[saved.size() - 2], saved.back(), grad_out(), d);
    for (size_t i = 0; i < d.tensors.size(); ++i) add_grad(i, d.tensors[i]);
  }
};

/// Sets what the options say.
void apply(const char* op, const AttentionOptions& options, AttentionShape& s) {
  check(options.window >= 0, op, "window must be 0 (none) or positive, got ", options.window);
  check(options.window == 0 || options.causal, op, "a window needs causal attention");
  check(options.soft_cap >= 0 && std::isfinite(options.soft_cap), op, "soft_cap must be 0 (none) or positive, got ",
        options.soft_cap);
  s.causal = options.causal;
  s.scale = options.scale != 0 ? options.scale : 1.0 / std::sqrt(static_cast<double>(s.head_dim));
  s.window = options.window < s.k_length ? options.window : 0;  // one that holds all keys is none
  s.soft_cap = options.soft_cap;
}

/// O [B,Tq,H,D] and logsumexp [B,H,Tq]: computed, or what a recomputed region has kept of them.
std::pair<Tensor, Tensor> output(const AttentionShape& s, const Inputs& in) {
  const Tensor& first = in.tensors[0];
  const Shape shape{s.batch, s.q_length, s.n_heads, s.head_dim}, statistics{s.batch, s.n_heads, s.q_length};
  KeptValues* kept = KeptValues::current();
  if (kept && kept->pass() == KeptValues::Pass::second) {
    const Tensor o = kept->take(), lse = kept->take();
    check_shape("attention", "the output that was kept", o, shape);
    check_shape("attention", "the logsumexp that was kept", lse, statistics);
    return {o, lse};
  }
  const Tensor o = Tensor::empty(shape, first.dtype(), first.device());
  const Tensor lse = Tensor::empty(statistics, first.dtype() == DType::f64 ? DType::f64 : DType::f32, first.device());
  if (o.numel() > 0) forward(s, in, o, lse);
  if (kept) {
    kept->put(o);
    kept->put(lse);
  }
  return {o, lse};
}

Var run(AttentionShape s, const std::vector<Var>& vars, const AttentionOptions& options) {
  apply("attention", options, s);
  check(!s.causal || s.q_length <= s.k_length, "attention", "causal attention of ", s.q_length, " queries over ",
        s.k_length, " keys");
  check(s.k_length > 0 || s.q_length == 0, "attention", "there are no keys");
  Inputs in{{}, s.n_heads, s.n_kv_heads};
  bool recorded = false;
  for (const Var& v : vars) {
    in.tensors.push_back(v.value());
    recorded |= records(v);
  }
  const auto [o, lse] = output(s, in);
  Var out(o);
  if (recorded) {
    out.set_recomputation([o] { return o; });  // kept for backward
    auto node = std::make_unique<AttentionNode>();
    node->shape = s;
    node->saved = in.tensors;
    node->saved.push_back(o);
    node->saved.push_back(lse);
    Tape::current().record(std::move(node), vars, {&out});
  }
  return out;
}

}  // namespace

Var attention(const Var& q, const Var& k, const Var& v, const AttentionOptions& options) {
  check(q.rank() == 4, "attention", "q must have shape [B, Tq, H, D], got ", q.shape());
  check(k.rank() == 4 && k.size(0) == q.size(0) && k.size(3) == q.size(3), "attention", "k must have shape [",
        q.size(0), ", Tk, K, ", q.size(3), "], got ", k.shape());
  check_shape("attention", "v", v.value(), k.shape());
  check_same("attention", "q", q.value(), "k", k.value());
  check_same("attention", "q", q.value(), "v", v.value());
  check(k.size(2) > 0 && q.size(2) % k.size(2) == 0, "attention", q.size(2), " heads are not a multiple of ", k.size(2),
        " kv heads");
  const AttentionShape s{.batch = q.size(0),
                         .n_heads = q.size(2),
                         .n_kv_heads = k.size(2),
                         .q_length = q.size(1),
                         .k_length = k.size(1),
                         .head_dim = q.size(3),
                         .causal = true,
                         .scale = 0};
  return run(s, {q, k, v}, options);
}

Var attention_packed(const Var& qkv, int64_t n_heads, int64_t n_kv_heads, const AttentionOptions& options) {
  check(qkv.rank() == 4 && qkv.size(2) == n_heads + 2 * n_kv_heads, "attention_packed", "qkv must have shape [B, T, ",
        n_heads + 2 * n_kv_heads, ", D], got ", qkv.shape());
  check(n_kv_heads > 0 && n_heads % n_kv_heads == 0, "attention_packed", n_heads, " heads are not a multiple of ",
        n_kv_heads, " kv heads");
  const AttentionShape s{.batch = qkv.size(0),
                         .n_heads = n_heads,
                         .n_kv_heads = n_kv_heads,
                         .q_length = qkv.size(1),
                         .k_length = qkv.size(1),
                         .head_dim = qkv.size(3),
                         .causal = true,
                         .scale = 0};
  return run(s, {qkv}, options);
}

Tensor attention_cached(const Tensor& qkv, int64_t n_heads, const Tensor& k_cache, const Tensor& v_cache,
                        int64_t length, const AttentionOptions& options) {
  const char* op = "attention_cached";
  check(k_cache.rank() == 4 && qkv.rank() == 4 && qkv.size(2) == n_heads + 2 * k_cache.size(2), op,
        "qkv must have shape [B, T, H + 2K, D], got ", qkv.shape(), " for a cache of ", k_cache.shape());
  check(length >= qkv.size(1) && length <= k_cache.size(1), op, length, " tokens in a cache of ", k_cache.size(1));
  check_same(op, "qkv", qkv, "k_cache", k_cache);
  if (!qkv.is_cuda() && qkv.dtype() == DType::bf16) {
    return attention_cached(qkv.to(DType::f32), n_heads, k_cache.to(DType::f32), v_cache.to(DType::f32), length,
                            options)
        .to(DType::bf16);
  }
  AttentionShape s{.batch = qkv.size(0),
                   .n_heads = n_heads,
                   .n_kv_heads = k_cache.size(2),
                   .q_length = qkv.size(1),
                   .k_length = length,
                   .head_dim = qkv.size(3),
                   .causal = true,
                   .scale = 0};
  apply(op, options, s);
  const Tensor o = Tensor::empty({s.batch, s.q_length, s.n_heads, s.head_dim}, qkv.dtype(), qkv.device());
  const Tensor lse = Tensor::empty({s.batch, s.n_heads, s.q_length},
                                   qkv.dtype() == DType::f64 ? DType::f64 : DType::f32, qkv.device());
  const HeadView q = whole(qkv), k = whole(k_cache), v = whole(v_cache);
  if (qkv.is_cuda()) {
    cuda::attention_forward(s, q, k, v, whole(o), lse);
  } else if (qkv.dtype() == DType::f64) {
    forward_cpu<double>(s, q, k, v, whole(o), lse.data<double>());
  } else {
    forward_cpu<float>(s, q, k, v, whole(o), lse.data<float>());
  }
  return o;
}

}  // namespace rw
