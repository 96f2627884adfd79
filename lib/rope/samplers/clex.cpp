// CLEX: the fields of its sampler's record, and the draw of a sample.
#include "rope/samplers/clex.h"

#include <algorithm>
#include <cmath>

namespace rw {
namespace {

/// The smallest t to draw.
int64_t least_t(ClexSpread spread, int64_t window, int64_t original) {
  return spread == ClexSpread::skip ? (window + original - 1) / original : 1;
}

}  // namespace

std::vector<Field> ClexPositions::fields() {
  return {
      field("max_factor", &ClexPositions::max_factor).at_least(1).at_most(65536).option().help("largest scale factor"),
      field("per_step", &ClexPositions::per_step).option().help("one scale factor per step instead of one per sample"),
      field("continuous_t", &ClexPositions::continuous_t)
          .option()
          .help("t uniform on [1, max-factor] instead of integers"),
      field("spread", &ClexPositions::spread, {"random", "multiply", "skip"})
          .option()
          .help("positions of a sample: scattered, m t, or in two chunks"),
  };
}

void ClexPositions::check_spec(const SampleSpec& spec) const {
  rw::check(spec.window >= 2, kName, "window must be at least 2, got ", spec.window);
  rw::check(spec.window * max_factor < (1 << 24), kName, "window times max_factor is ", spec.window * max_factor,
            ", beyond what f32 positions hold exactly");
  const int64_t original = spec.original_window > 0 ? spec.original_window : spec.window;
  rw::check(least_t(spread, spec.window, original) <= max_factor, kName, "a window of ", spec.window,
            " takes more than max_factor = ", max_factor, " windows of ", original, "; skip needs room for it");
}

void ClexPositions::draw(Draw& s) const {
  Random& random = per_step ? s.shared : s.random;
  const int64_t least = least_t(spread, s.window, s.original_window);
  s.t = continuous_t ? static_cast<double>(least) + random.uniform() * static_cast<double>(max_factor - least)
                     : static_cast<double>(random.between(least, max_factor));
  const double sf = static_cast<double>(std::max<int64_t>(1, s.window / s.original_window));
  const auto range = static_cast<int64_t>(std::floor(static_cast<double>(s.window) * s.t));
  if (spread == ClexSpread::multiply) {
    for (int64_t m = 0; m < s.window; ++m) s.positions[m] = static_cast<float>(static_cast<double>(m) * s.t / sf);
  } else if (spread == ClexSpread::skip) {
    const auto end = static_cast<int64_t>(std::floor(static_cast<double>(s.original_window) * s.t));
    const int64_t first = random.between(1, s.window - 1), skip = random.between(0, end - s.window);
    for (int64_t m = 0; m < s.window; ++m) s.positions[m] = static_cast<float>(m < first ? m : m + skip);
  } else {
    std::vector<int64_t> p = sorted_subset(random, s.window - 2, range - 2);
    for (int64_t& x : p) x += 1;
    p.insert(p.begin(), 0);
    p.push_back(range - 1);
    for (int64_t m = 0; m < s.window; ++m) {
      s.positions[m] = static_cast<float>(static_cast<double>(p[static_cast<size_t>(m)]) / sf);
    }
  }
  s.take_contiguous_text();
}

}  // namespace rw
