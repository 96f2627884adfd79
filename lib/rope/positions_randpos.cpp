// RandPos (Ruoss et al. 2023, arXiv 2305.16843): a sorted subset of {0 .. L'-1} without replacement, over contiguous
// text.
#include <algorithm>

#include "rope/samplers.h"

namespace rw {
namespace {

class RandPos : public PositionSampler {
 public:
  using PositionSampler::PositionSampler;
  const char* name() const override { return "randpos"; }

 protected:
  void check_spec(const SampleSpec& spec) const override {
    check(spec.target >= spec.window, name(), "target must be at least the window ", spec.window, ", got ",
          spec.target);
  }
  void draw(Draw& s) const override {
    const std::vector<int64_t> chosen = sorted_subset(s.random, s.window, s.target);
    std::copy(chosen.begin(), chosen.end(), s.positions);
    s.content = contiguous_content(s.random, s.window, s.document);
    s.t = std::max(1.0, static_cast<double>(s.target) / static_cast<double>(s.original_window));
  }
};

}  // namespace

std::unique_ptr<PositionSampler> make_randpos_sampler(const PositionConfig& config) {
  return std::make_unique<RandPos>(config);
}

}  // namespace rw
