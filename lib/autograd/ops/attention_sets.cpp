// Attention with several sets of positions: the CPU loop.
#include "autograd/ops/attention_sets.h"

#include <algorithm>
#include <cmath>

#include "tensor/error.h"
#include "tensor/parallel_for.h"

namespace rw {
namespace {

constexpr const char* kOp = "attention_sets";

struct Sizes {
  int64_t batch, queries, keys, heads, kv_heads, dim;
  double scale, soft_cap;
};

/// One query head: scores over all keys that it sees, then the sum of their values.
template <class T>
void one_query(const Sizes& s, std::span<const Tensor> q, std::span<const Tensor> k, const Tensor& v,
               const std::vector<KeyRange>& ranges, int64_t b, int64_t t, int64_t h, std::vector<double>& scores,
               T* out) {
  const int64_t kv = h / (s.heads / s.kv_heads), row = s.kv_heads * s.dim;
  double top = -INFINITY;
  for (const KeyRange& r : ranges) {
    const T* query = q[r.set].data<T>() + ((b * s.queries + t) * s.heads + h) * s.dim;
    const T* key = k[r.set].data<T>() + b * s.keys * row + kv * s.dim;
    for (int64_t n = r.begin; n < r.end; ++n) {
      double sum = 0;
      for (int64_t d = 0; d < s.dim; ++d) sum += static_cast<double>(query[d]) * static_cast<double>(key[n * row + d]);
      sum *= s.scale;
      if (s.soft_cap > 0) sum = s.soft_cap * std::tanh(sum / s.soft_cap);
      scores[static_cast<size_t>(n)] = sum;
      top = std::max(top, sum);
    }
  }
  const int64_t last = s.keys - s.queries + t;
  double total = 0;
  std::vector<double> mean(static_cast<size_t>(s.dim), 0.0);
  const T* value = v.data<T>() + b * s.keys * row + kv * s.dim;
  for (int64_t n = 0; n <= last; ++n) {
    const double p = std::exp(scores[static_cast<size_t>(n)] - top);
    total += p;
    for (int64_t d = 0; d < s.dim; ++d) mean[static_cast<size_t>(d)] += p * static_cast<double>(value[n * row + d]);
  }
  for (int64_t d = 0; d < s.dim; ++d) out[d] = static_cast<T>(mean[static_cast<size_t>(d)] / total);
}

template <class T>
void all_queries(const Sizes& s, std::span<const Tensor> q, std::span<const Tensor> k, const Tensor& v,
                 const KeyRanges& ranges_of, const Tensor& out) {
  parallel_items(s.batch * s.queries, [&](int64_t item) {
    const int64_t b = item / s.queries, t = item % s.queries, m = s.keys - s.queries + t;
    std::vector<KeyRange> ranges;
    ranges_of(m, ranges);
    std::sort(ranges.begin(), ranges.end(), [](const KeyRange& x, const KeyRange& y) { return x.begin < y.begin; });
    int64_t next = 0;
    for (const KeyRange& r : ranges) {
      check(r.begin == next && r.end >= r.begin && r.set < q.size(), kOp, "the ranges of token ", m,
            " must cover 0 to ", m, " without gaps");
      next = r.end;
    }
    check(next == m + 1, kOp, "the ranges of token ", m, " must cover 0 to ", m, ", they end at ", next - 1);
    std::vector<double> scores(static_cast<size_t>(m + 1));
    for (int64_t h = 0; h < s.heads; ++h)
      one_query<T>(s, q, k, v, ranges, b, t, h, scores, out.data<T>() + (item * s.heads + h) * s.dim);
  });
}

}  // namespace

Tensor attention_sets(std::span<const Tensor> q, std::span<const Tensor> k, const Tensor& v, const KeyRanges& ranges,
                      const AttentionOptions& options) {
  check(!q.empty() && q.size() == k.size(), kOp, "needs as many sets of queries as of keys, got ", q.size(), " and ",
        k.size());
  check(options.causal && options.window == 0, kOp, "is causal and has no window");
  check(!v.is_cuda() && !q[0].is_cuda(), kOp, "runs on the CPU only: use --device cpu");
  for (size_t i = 0; i < q.size(); ++i) {
    check(q[i].rank() == 4 && q[i].shape() == q[0].shape(), kOp, "q must have one shape [B, Tq, H, D], got ",
          q[i].shape());
    check(k[i].shape() == v.shape(), kOp, "k must have v's shape ", v.shape(), ", got ", k[i].shape());
    check(q[i].dtype() == v.dtype() && k[i].dtype() == v.dtype(), kOp, "q, k and v must have one dtype");
  }
  check(v.rank() == 4 && v.size(0) == q[0].size(0) && v.size(3) == q[0].size(3) && q[0].size(2) % v.size(2) == 0 &&
            q[0].size(1) <= v.size(1),
        kOp, "q ", q[0].shape(), " does not fit v ", v.shape());
  const double scale = options.scale > 0 ? options.scale : 1 / std::sqrt(static_cast<double>(v.size(3)));
  const Sizes s{.batch = v.size(0),
                .queries = q[0].size(1),
                .keys = v.size(1),
                .heads = q[0].size(2),
                .kv_heads = v.size(2),
                .dim = v.size(3),
                .scale = scale,
                .soft_cap = options.soft_cap};
  const Tensor out = Tensor::empty(q[0].shape(), v.dtype());
  check(v.dtype() == DType::f32 || v.dtype() == DType::f64, kOp, "computes in f32 or f64, got ", v.dtype());
  if (v.dtype() == DType::f64) all_queries<double>(s, q, k, v, ranges, out);
  else all_queries<float>(s, q, k, v, ranges, out);
  return out;
}

}  // namespace rw
