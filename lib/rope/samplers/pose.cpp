// PoSE: the fields of its record, and the draw of a sample.
#include "rope/samplers/pose.h"

#include <algorithm>
#include <cmath>

namespace rw {
namespace {

/// Offsets of [0, room] that never decrease. The first is 0 unless `first_random`.
std::vector<int64_t> offsets(Random& random, size_t count, int64_t room, bool first_random) {
  std::vector<int64_t> u(count);
  for (size_t i = 0; i < count; ++i) {
    u[i] = i == 0 ? (first_random ? random.between(0, room) : 0) : random.between(u[i - 1], room);
  }
  return u;
}

void place(Draw& s, const std::vector<int64_t>& length, const std::vector<int64_t>& u) {
  int64_t m = 0;
  for (size_t i = 0; i < length.size(); ++i) {
    for (int64_t end = m + length[i]; m < end; ++m) s.positions[m] = static_cast<float>(m + u[i]);
  }
}

}  // namespace

std::vector<Field> PosePositions::fields() {
  return {
      field("chunks", &PosePositions::chunks).at_least(1).at_most(1 << 30).option().help("chunks of a sample"),
      field("pose_variant", &PosePositions::variant, {"paper", "code", "v1", "cream"}).option().help("how chunks lie"),
      field("pose_content", &PosePositions::content, {"uniform", "zero", "same"})
          .option()
          .help("text of the chunks: free, contiguous, or moved as the positions are"),
      field("content_windows", &PosePositions::content_windows)
          .at_least(0)
          .at_most(1 << 30)
          .option()
          .help("text comes from a region of so many windows (0: the whole document)"),
      field("random_start", &PosePositions::random_start).help("the region lies anywhere in the document"),
      field("cream_mode", &PosePositions::cream_mode, {"both", "relativity", "continuity"})
          .option()
          .help("cream: head and tail are thirds, or short, or either by a coin"),
      field("cream_edge", &PosePositions::cream_edge)
          .at_least(1)
          .at_most(1 << 30)
          .option()
          .help("cream: tokens of a short head or tail"),
      field("cream_sigma", &PosePositions::cream_sigma)
          .above(0)
          .option()
          .help("cream: spread of the middle chunk's start, as a share of its range"),
  };
}

void PosePositions::check() const {
  rw::check(variant != PoseVariant::code || chunks == 2, kName, "variant code has 2 chunks, got ", chunks);
}

void PosePositions::check_spec(const SampleSpec& spec) const {
  const int64_t least = variant == PoseVariant::cream ? 3 : chunks;
  rw::check(spec.target >= spec.window, kName, "target must be at least the window ", spec.window, ", got ",
            spec.target);
  rw::check(spec.window >= least, kName, "a window of ", spec.window, " cannot hold ", least, " chunks");
}

void PosePositions::draw(Draw& s) const {
  std::vector<int64_t> length, u;
  if (variant == PoseVariant::cream) {
    cream(s, length, u);
  } else {
    length = chunk_lengths(s);
    u = offsets(s.random, length.size(), s.target - s.window, variant == PoseVariant::v1);
  }
  place(s, length, u);
  s.content = text(s, length, u);
  s.t = std::max(1.0, static_cast<double>(s.target) / static_cast<double>(s.original_window));
}

/// l_i: the paper's coverage code draws each from what the others leave. The
/// official code's first chunk is at most half.
std::vector<int64_t> PosePositions::chunk_lengths(Draw& s) const {
  if (variant == PoseVariant::code) {
    const int64_t first = s.random.between(1, std::min((s.window + 1) / 2, s.window - 1));
    return {first, s.window - first};
  }
  std::vector<int64_t> length;
  int64_t left = s.window;
  for (int64_t i = chunks - 1; i > 0; --i) {
    length.push_back(s.random.between(1, left - i));
    left -= length.back();
  }
  length.push_back(left);
  return length;
}

/// CREAM: head at 0, tail at the end of the target, the middle drawn towards the centre.
void PosePositions::cream(Draw& s, std::vector<int64_t>& length, std::vector<int64_t>& u) const {
  const bool thirds = cream_mode == CreamMode::relativity || (cream_mode == CreamMode::both && s.random.below(2) == 0);
  const int64_t edge = std::max<int64_t>(1, thirds ? s.window / 3 : std::min(cream_edge, (s.window - 1) / 2));
  length = {edge, s.window - 2 * edge, edge};
  const double room = static_cast<double>(s.target - s.window);
  double share;
  do share = 0.5 + cream_sigma * s.random.normal();
  while (share < 0 || share > 1);  // truncated Gaussian
  u = {0, std::llround(share * room), s.target - s.window};
}

/// Spans of the text, within a region of the document. A document shorter than the
/// window is shown whole: its last chunks are cut.
std::vector<Span> PosePositions::text(Draw& s, const std::vector<int64_t>& length,
                                      const std::vector<int64_t>& u) const {
  const int64_t limit = content_windows * s.window;
  const int64_t region = limit > 0 ? std::min(limit, s.document) : s.document;
  const int64_t start = random_start ? s.random.between(0, s.document - region) : 0;
  const int64_t room = std::max<int64_t>(0, region - s.window);
  std::vector<int64_t> v(length.size(), 0);
  if (content == PoseContent::uniform) v = offsets(s.random, length.size(), room, false);
  if (content == PoseContent::same) {
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

}  // namespace rw
