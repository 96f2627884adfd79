// p(m) = m: ordinary training. For PI and direct fine-tuning the window is the target itself.
#include <algorithm>

#include "rope/samplers.h"

namespace rw {
namespace {

class Contiguous : public PositionSampler {
 public:
  using PositionSampler::PositionSampler;
  const char* name() const override { return "contiguous"; }

 protected:
  void draw(Draw& s) const override {
    for (int64_t m = 0; m < s.window; ++m) s.positions[m] = static_cast<float>(m);
    s.content = contiguous_content(s.random, s.window, s.document);
    s.t = std::max(1.0, static_cast<double>(s.window) / static_cast<double>(s.original_window));
  }
};

}  // namespace

std::unique_ptr<PositionSampler> make_contiguous_sampler(const PositionConfig& config) {
  return std::make_unique<Contiguous>(config);
}

}  // namespace rw
