// Bootstrap and Wilson intervals.
#include "eval/statistics.h"

#include <algorithm>
#include <cmath>
#include <vector>

#include "tensor/error.h"
#include "tensor/random.h"

namespace rw {

Interval bootstrap_ratio(std::span<const double> numerator, std::span<const double> denominator, uint64_t seed,
                         int64_t draws) {
  check(numerator.size() == denominator.size() && !numerator.empty(), "bootstrap", "needs as many numerators (",
        numerator.size(), ") as denominators (", denominator.size(), "), at least one");
  const int64_t n = static_cast<int64_t>(numerator.size());
  std::vector<double> values;
  for (int64_t draw = 0; draw < draws; ++draw) {
    Random random(seed, Purpose::eval, static_cast<uint64_t>(draw));
    double top = 0, bottom = 0;
    for (int64_t i = 0; i < n; ++i) {
      const size_t pick = static_cast<size_t>(random.below(n));
      top += numerator[pick];
      bottom += denominator[pick];
    }
    values.push_back(top / bottom);
  }
  std::sort(values.begin(), values.end());
  const auto at = [&](double q) { return values[static_cast<size_t>(q * static_cast<double>(draws - 1) + 0.5)]; };
  return {at(0.025), at(0.975)};
}

Interval bootstrap_mean(std::span<const double> values, uint64_t seed, int64_t draws) {
  const std::vector<double> ones(values.size(), 1.0);
  return bootstrap_ratio(values, ones, seed, draws);
}

Interval wilson_interval(int64_t successes, int64_t trials) {
  if (trials <= 0) return {0, 1};
  const double n = static_cast<double>(trials), p = static_cast<double>(successes) / n, z = 1.959963985;
  const double centre = (p + z * z / (2 * n)) / (1 + z * z / n);
  const double half = z / (1 + z * z / n) * std::sqrt(p * (1 - p) / n + z * z / (4 * n * n));
  // At the ends the formula gives exactly 0 and 1, rounding does not.
  return {successes == 0 ? 0 : std::max(0.0, centre - half), successes == trials ? 1 : std::min(1.0, centre + half)};
}

}  // namespace rw
