// CLEX's position extrapolation (arXiv 2310.16450; METHODS 4.2): with n the window, L the pre-training window, t a
// drawn scale factor and sf = max(1, floor(n / L)),
//   random:    p = {0, sorted distinct draws of {1 .. n t - 2}, n t - 1} / sf
//   multiply:  p = m t / sf
//   skip:      p = {0 .. l-1, u+l .. u+n-1}, l in 1..n-1 and u in 0..L t - n: PoSE's two chunks (arXiv 2309.10400) in
//              place of scattered tokens, so that neighbours keep the distance 1 that they have in any text read later.
//              Only t with room for the window are drawn: n / L and above
// so positions lie in [0, L t). The published code pins the last one to floor(n t / sf) - 1, which for sf > 1 is below
// the ones before it; here the sequence stays increasing.
#include <algorithm>
#include <cmath>

#include "rope/samplers.h"

namespace rw {
namespace {

class ClexSampler : public PositionSampler {
 public:
  using PositionSampler::PositionSampler;
  const char* name() const override { return "clex"; }

 protected:
  void check_spec(const SampleSpec& spec) const override {
    check(spec.window >= 2, name(), "window must be at least 2, got ", spec.window);
    check(spec.window * config().max_factor < (1 << 24), name(), "window times max_factor is ",
          spec.window * config().max_factor, ", beyond what f32 positions hold exactly");
    const int64_t original = spec.original_window > 0 ? spec.original_window : spec.window;
    check(config().spread != "skip" || least_t(spec.window, original) <= config().max_factor, name(), "a window of ",
          spec.window, " takes more than max_factor = ", config().max_factor, " windows of ", original,
          "; skip needs room for it");
  }
  void draw(Draw& s) const override {
    Random& random = config().per_step ? s.shared : s.random;
    const int64_t least = least_t(s.window, s.original_window);
    s.t = config().continuous
              ? static_cast<double>(least) + random.uniform() * static_cast<double>(config().max_factor - least)
              : static_cast<double>(random.between(least, config().max_factor));
    const double sf = static_cast<double>(std::max<int64_t>(1, s.window / s.original_window));
    const auto range = static_cast<int64_t>(std::floor(static_cast<double>(s.window) * s.t));
    if (config().spread == "multiply") {
      for (int64_t m = 0; m < s.window; ++m) s.positions[m] = static_cast<float>(static_cast<double>(m) * s.t / sf);
    } else if (config().spread == "skip") {
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
    s.content = contiguous_content(s.random, s.window, s.document);
  }

 private:
  /// Smallest t to draw.
  int64_t least_t(int64_t window, int64_t original) const {
    return config().spread == "skip" ? (window + original - 1) / original : 1;
  }
};

}  // namespace

std::unique_ptr<PositionSampler> make_clex_sampler(const PositionConfig& config) {
  check(config.max_factor >= 1, "clex", "max_factor must be at least 1, got ", config.max_factor);
  check(config.spread == "random" || config.spread == "multiply" || config.spread == "skip", "clex",
        "spread must be random, multiply or skip, got \"", config.spread, "\"");
  return std::make_unique<ClexSampler>(config);
}

}  // namespace rw
