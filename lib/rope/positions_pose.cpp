// PoSE, positional skip-wise training (arXiv 2309.10400 v2, section 3; METHODS 3): the window is cut into N chunks, and
// chunk i is moved by u_i in position and by v_i in text:
//
//   st_i = l_0 + .. + l_{i-1},   u_0 = v_0 = 0,   u_i ~ U{u_{i-1} .. L' - Lc},   v_i ~ U{v_{i-1} .. Lx - Lc}   (eqs.
//   3-5) positions of chunk i: u_i + st_i .. u_i + st_i + l_i - 1,   text: x[v_i + st_i .. v_i + st_i + l_i)
//
// so the largest position is L' - 1. All bounds are inclusive. Variants: METHODS 3.2 (code, v1), 6.6 (CREAM).
#include <algorithm>
#include <cmath>

#include "rope/samplers.h"

namespace rw {
namespace {

class Pose : public PositionSampler {
 public:
  using PositionSampler::PositionSampler;
  const char* name() const override { return "pose"; }

 protected:
  void check_spec(const SampleSpec& spec) const override {
    check(spec.target >= spec.window, name(), "target must be at least the window ", spec.window, ", got ",
          spec.target);
    check(spec.window >= config().chunks, name(), "a window of ", spec.window, " cannot hold ", config().chunks,
          " chunks");
  }

  void draw(Draw& s) const override {
    const int64_t room = s.target - s.window;
    std::vector<int64_t> length, u;
    if (config().variant == "cream") {
      cream(s, length, u);
    } else {
      length = chunk_lengths(s);
      u = offsets(s.random, length.size(), room, config().variant == "v1");
    }
    place(s, length, u);
    s.content = content(s, length, u);
    s.t = std::max(1.0, static_cast<double>(s.target) / static_cast<double>(s.original_window));
  }

 private:
  /// l_i: the paper's coverage code draws each from what the others leave; the official code's first chunk is at most
  /// half.
  std::vector<int64_t> chunk_lengths(Draw& s) const {
    if (config().variant == "code") {
      const int64_t first = s.random.between(1, std::min((s.window + 1) / 2, s.window - 1));
      return {first, s.window - first};
    }
    std::vector<int64_t> length;
    int64_t left = s.window;
    for (int64_t i = config().chunks - 1; i > 0; --i) {
      length.push_back(s.random.between(1, left - i));
      left -= length.back();
    }
    length.push_back(left);
    return length;
  }

  /// Nondecreasing offsets of [0, room], the first 0 unless `first_random`.
  static std::vector<int64_t> offsets(Random& random, size_t count, int64_t room, bool first_random) {
    std::vector<int64_t> u(count);
    for (size_t i = 0; i < count; ++i) {
      u[i] = i == 0 ? (first_random ? random.between(0, room) : 0) : random.between(u[i - 1], room);
    }
    return u;
  }

  /// CREAM (arXiv 2406.07138): head at 0, tail at the end of the target, the middle drawn towards the centre.
  void cream(Draw& s, std::vector<int64_t>& length, std::vector<int64_t>& u) const {
    const std::string& mode = config().cream_mode;
    const bool thirds = mode == "relativity" || (mode == "both" && s.random.below(2) == 0);
    const int64_t edge =
        std::max<int64_t>(1, thirds ? s.window / 3 : std::min(config().cream_edge, (s.window - 1) / 2));
    length = {edge, s.window - 2 * edge, edge};
    const double room = static_cast<double>(s.target - s.window);
    double share;
    do share = 0.5 + config().cream_sigma * s.random.normal();
    while (share < 0 || share > 1);  // truncated Gaussian
    u = {0, std::llround(share * room), s.target - s.window};
  }

  static void place(Draw& s, const std::vector<int64_t>& length, const std::vector<int64_t>& u) {
    int64_t m = 0;
    for (size_t i = 0; i < length.size(); ++i) {
      for (int64_t end = m + length[i]; m < end; ++m) s.positions[m] = static_cast<float>(m + u[i]);
    }
  }

  /// Spans of the text, within a stretch of the document. A document shorter than the window is shown whole: its last
  /// chunks are cut.
  std::vector<Span> content(Draw& s, const std::vector<int64_t>& length, const std::vector<int64_t>& u) const {
    const int64_t limit = config().content_windows * s.window;
    const int64_t stretch = limit > 0 ? std::min(limit, s.document) : s.document;
    const int64_t start = config().random_start ? s.random.between(0, s.document - stretch) : 0;
    const int64_t room = std::max<int64_t>(0, stretch - s.window);
    std::vector<int64_t> v(length.size(), 0);
    if (config().content == "uniform") v = offsets(s.random, length.size(), room, false);
    if (config().content == "same") {
      for (size_t i = 0; i < v.size(); ++i) v[i] = std::min(u[i], room);
    }
    std::vector<Span> spans;
    int64_t m = 0;
    for (size_t i = 0; i < length.size(); m += length[i++]) {
      const int64_t take = std::min(length[i], s.document - m);
      if (take > 0) spans.push_back({start + v[i] + m, take});
    }
    return spans;
  }
};

template <class Value>
void one_of(const char* what, const Value& value, std::initializer_list<const char*> allowed) {
  std::string known;
  for (const char* a : allowed) {
    if (value == a) return;
    known += cat(known.empty() ? "" : ", ", a);
  }
  fail("pose", what, " must be one of ", known, "; got \"", value, "\"");
}

}  // namespace

std::unique_ptr<PositionSampler> make_pose_sampler(const PositionConfig& config) {
  one_of("variant", config.variant, {"paper", "code", "v1", "cream"});
  one_of("content", config.content, {"uniform", "zero", "same"});
  one_of("cream_mode", config.cream_mode, {"both", "relativity", "continuity"});
  PositionConfig fixed = config;
  if (config.variant == "cream") fixed.chunks = 3;
  check(fixed.chunks >= 1, "pose", "chunks must be at least 1, got ", fixed.chunks);
  check(fixed.variant != "code" || fixed.chunks == 2, "pose", "variant code has 2 chunks, got ", fixed.chunks);
  check(fixed.content_windows >= 0, "pose", "content_windows must not be negative, got ", fixed.content_windows);
  check(fixed.cream_edge >= 1 && fixed.cream_sigma > 0, "pose", "cream_edge and cream_sigma must be positive, got ",
        fixed.cream_edge, " and ", fixed.cream_sigma);
  return std::make_unique<Pose>(fixed);
}

}  // namespace rw
