// Choosing the next token from its logits.
#include "nn/sampling.h"

#include <algorithm>
#include <cmath>
#include <numeric>

#include "tensor/error.h"

namespace rw {

int32_t sample_token(const std::vector<float>& logits, const SamplingOptions& options, uint64_t step) {
  check(!logits.empty(), "sample", "no logits");
  check(options.temperature >= 0 && options.top_k >= 0 && options.top_p > 0 && options.top_p <= 1, "sample",
        "expected temperature >= 0, top_k >= 0 and 0 < top_p <= 1, got ", options.temperature, ", ", options.top_k,
        ", ", options.top_p);
  float best = -INFINITY;
#pragma omp simd reduction(max : best)
  for (size_t i = 0; i < logits.size(); ++i) best = logits[i] > best ? logits[i] : best;
  check(std::isfinite(best), "sample", "the largest logit is ", best);
  if (options.temperature == 0) {
    return static_cast<int32_t>(std::find(logits.begin(), logits.end(), best) - logits.begin());
  }

  std::vector<int32_t> order(logits.size());
  std::iota(order.begin(), order.end(), 0);
  const auto likelier = [&](int32_t a, int32_t b) {
    const float x = logits[static_cast<size_t>(a)], y = logits[static_cast<size_t>(b)];
    return x > y || (x == y && a < b);
  };
  size_t kept = order.size();
  if (options.top_k > 0 && static_cast<size_t>(options.top_k) < kept) {
    kept = static_cast<size_t>(options.top_k);
    std::partial_sort(order.begin(), order.begin() + static_cast<int64_t>(kept), order.end(), likelier);
  } else if (options.top_p < 1) {
    std::sort(order.begin(), order.end(), likelier);
  }
  std::vector<double> weight(kept);
  double total = 0;
  for (size_t i = 0; i < kept; ++i) {
    weight[i] = std::exp((static_cast<double>(logits[static_cast<size_t>(order[i])]) - best) / options.temperature);
    total += weight[i];
  }
  if (options.top_p < 1) {
    double sum = 0;
    size_t i = 0;
    while (i < kept && sum < options.top_p * total) sum += weight[i++];
    kept = i;
    total = sum;
  }
  double draw = Random(options.seed, Purpose::sampling, step).uniform() * total;
  for (size_t i = 0; i < kept; ++i) {
    draw -= weight[i];
    if (draw < 0) return order[i];
  }
  return order[kept - 1];
}

}  // namespace rw
