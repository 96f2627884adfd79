// E2-LLM (arXiv 2401.06951 eqs. 5-7; METHODS 5.2): a scale g and an offset t for each sample; with R the window, L the
// pre-training window,
//   p(m) = m / g for the first 4 tokens,   (m + t) / g for the others,   t ~ U{0 .. g L - R}
// so every position lies in [0, L). Scales with g L < R would leave that range; the paper leaves open what happens
// there (METHODS 5.4-1), here g starts at ceil(R / L).
#include <algorithm>

#include "rope/samplers.h"

namespace rw {
namespace {

class E2Sampler : public PositionSampler {
 public:
  using PositionSampler::PositionSampler;
  const char* name() const override { return "e2"; }

 protected:
  void check_spec(const SampleSpec& spec) const override {
    const int64_t l = spec.original_window > 0 ? spec.original_window : spec.window;
    check(config().max_factor * l >= spec.window, name(), "max_factor ", config().max_factor, " times the window ", l,
          " is shorter than the samples, ", spec.window, " tokens");
  }
  void draw(Draw& s) const override {
    Random& random = config().per_step ? s.shared : s.random;
    const int64_t least = std::max<int64_t>(1, (s.window + s.original_window - 1) / s.original_window);
    const int64_t g = config().augment_g ? random.between(least, config().max_factor) : config().max_factor;
    const int64_t most = std::max<int64_t>(0, g * s.original_window - s.window);
    const int64_t offset = config().augment_t ? random.between(0, most) : 0;
    for (int64_t m = 0; m < s.window; ++m) {
      const int64_t shifted = m < config().sink_tokens ? m : m + offset;
      s.positions[m] = static_cast<float>(static_cast<double>(shifted) / static_cast<double>(g));
    }
    s.content = contiguous_content(s.random, s.window, s.document);
    s.t = static_cast<double>(g);
  }
};

}  // namespace

std::unique_ptr<PositionSampler> make_e2_sampler(const PositionConfig& config) {
  check(config.max_factor >= 1, "e2", "max_factor must be at least 1, got ", config.max_factor);
  check(config.sink_tokens >= 0, "e2", "sink_tokens must not be negative, got ", config.sink_tokens);
  return std::make_unique<E2Sampler>(config);
}

}  // namespace rw
