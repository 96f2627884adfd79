// Dual Chunk Attention (An et al. 2024, "ChunkLlama", arXiv 2402.17463, section 3): text in chunks of s tokens, shorter
// than the window c of pre-training. No distance exceeds c - 1. No training.
//
//   keys:             n mod s
//   the same chunk:   queries m mod s
//   the chunk before: queries min(s + m mod s, c - 1)
//   earlier chunks:   queries c - 1
#pragma once
#include "rope/scaling.h"

namespace rw {

struct DcaRope {
  static constexpr const char* kName = "dca";
  static constexpr const char* kSummary = "Dual Chunk Attention: positions within chunks; inference only";
  static constexpr bool kTrained = false;
  static std::vector<Field> fields();

  int64_t chunk = 0;  // s, tokens; 0: three quarters of the window of pre-training, as published

  /// Errors: a chunk longer than the window of pre-training.
  void check(const RopeConfig& config) const;
  std::unique_ptr<RopeScaling> make(const RopeConfig& config) const;
  double window_factor() const { return 1; }
  bool operator==(const DcaRope&) const = default;
};

}  // namespace rw
