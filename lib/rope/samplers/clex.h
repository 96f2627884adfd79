// CLEX's position extrapolation (arXiv 2310.16450; METHODS 4.2). With n the window, L the pre-training window, t a
// drawn scale factor and sf = max(1, floor(n / L)),
//
//   random:    p = {0, sorted distinct draws of {1 .. n t - 2}, n t - 1} / sf
//   multiply:  p = m t / sf
//   skip:      p = {0 .. l-1, u+l .. u+n-1},  l in 1 .. n-1,  u in 0 .. L t - n
//
// so positions lie in [0, L t). `skip` is PoSE's two chunks (arXiv 2309.10400) instead of scattered tokens. Neighbours
// keep the distance 1 that they have in any text read later. It draws only t with room for the window, n / L and above.
// The published code sets the last position to floor(n t / sf) - 1. For sf > 1 that is below the positions before it.
// Here the sequence stays increasing.
#pragma once
#include "rope/positions.h"

namespace rw {

enum class ClexSpread { random, multiply, skip };

struct ClexPositions {
  static constexpr const char* kName = "clex";
  static constexpr const char* kSummary = "CLEX: positions spread over a window of random scale";
  static constexpr const char* kScaling = "clex";
  static constexpr bool kSeams = true;
  static std::vector<Field> fields();

  int64_t max_factor = 16;    // largest t
  bool per_step = false;      // one draw for all samples of a step (the paper's code) instead of one each
  bool continuous_t = false;  // t uniform on [1, max_factor] (paper) instead of integers (published code)
  ClexSpread spread = ClexSpread::random;

  void check() const {}
  /// Errors: a window of 1, positions beyond what f32 holds exactly, no room for the window (skip).
  void check_spec(const SampleSpec& spec) const;
  void draw(Draw& sample) const;
  bool operator==(const ClexPositions&) const = default;
};

}  // namespace rw
