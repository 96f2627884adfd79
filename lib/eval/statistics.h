// Means and their uncertainty: bootstrap intervals over documents.
#pragma once
#include <cstdint>
#include <span>

namespace rw {

struct Interval {
  double low = 0, high = 0;
};

/// 95 % percentile interval of sum(numerator) / sum(denominator) when the items (documents, trials) are drawn again
/// with replacement (Efron 1979). Philox keyed by `seed`: the same every time. One item gives an interval of width 0.
/// Errors: sizes that differ, no items.
Interval bootstrap_ratio(std::span<const double> numerator, std::span<const double> denominator, uint64_t seed,
                         int64_t draws = 2000);

/// The same for a plain mean.
Interval bootstrap_mean(std::span<const double> values, uint64_t seed, int64_t draws = 2000);

/// 95 % Wilson score interval of a share of successes: sensible at 0 % and 100 % and for few trials.
Interval wilson_interval(int64_t successes, int64_t trials);

}  // namespace rw
