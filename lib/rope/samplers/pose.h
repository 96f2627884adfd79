// PoSE, positional skip-wise training (arXiv 2309.10400 v2, section 3; METHODS 3): the window is cut into N chunks.
// Chunk i is moved by u_i in position and by v_i in text (eqs. 3-5):
//
//   st_i = l_0 + .. + l_{i-1},   u_0 = v_0 = 0
//   u_i ~ U{u_{i-1} .. L' - Lc}
//   v_i ~ U{v_{i-1} .. Lx - Lc}
//   positions of chunk i:  u_i + st_i .. u_i + st_i + l_i - 1
//   text of chunk i:       x[v_i + st_i .. v_i + st_i + l_i)
//
// so the largest position is L' - 1. All bounds are inclusive. Variants: METHODS 3.2 (code, v1), 6.6 (CREAM).
#pragma once
#include "rope/positions.h"

namespace rw {

enum class PoseVariant {
  paper,
  code,   // N = 2, the first chunk is at most half of the window
  v1,     // u_0 is random too: the first release
  cream,  // three chunks: head, middle, tail (arXiv 2406.07138)
};
/// The text offsets v_i.
enum class PoseContent {
  uniform,  // the paper's draw
  zero,     // contiguous text
  same,     // as the positions
};
enum class CreamMode {
  both,        // a coin for each sample
  relativity,  // equal thirds
  continuity,  // head and tail of cream_edge tokens
};

struct PosePositions {
  static constexpr const char* kName = "pose";
  static constexpr const char* kSummary = "PoSE: chunks of a long document, with jumps in position between them";
  static constexpr const char* kScaling = "linear";
  static constexpr bool kShort = true;
  static constexpr bool kSeams = true;
  static std::vector<Field> fields();

  int64_t chunks = 2;  // N; cream has 3 whatever is said here
  PoseVariant variant = PoseVariant::paper;
  PoseContent content = PoseContent::uniform;
  /// Text is taken from a region of this many windows (published code: the first 5), placed at random in the document;
  /// 0: the whole document. The papers have ten times more documents than samples; books need the random place.
  int64_t content_windows = 5;
  bool random_start = true;  // false: the region begins with the document (published code)
  CreamMode cream_mode = CreamMode::both;
  int64_t cream_edge = 32;
  double cream_sigma = 0.25;  // of the middle chunk's start, as a share of its range

  /// Errors: variant code with other than 2 chunks.
  void check() const;
  /// Errors: a target shorter than the window, a window shorter than the chunks.
  void check_spec(const SampleSpec& spec) const;
  void draw(Draw& sample) const;
  bool operator==(const PosePositions&) const = default;

 private:
  std::vector<int64_t> chunk_lengths(Draw& s) const;
  void cream(Draw& s, std::vector<int64_t>& length, std::vector<int64_t>& u) const;
  std::vector<Span> text(Draw& s, const std::vector<int64_t>& length, const std::vector<int64_t>& u) const;
};

}  // namespace rw
