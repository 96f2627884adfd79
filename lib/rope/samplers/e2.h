// E2-LLM in training (arXiv 2401.06951 eqs. 5-7; METHODS 5.2): a scale g and an offset t for each sample. With R the
// window and L the pre-training window,
//
//   p(m) = m / g          for the first sink_tokens tokens
//   p(m) = (m + t) / g    for the others, t ~ U{0 .. g L - R}
//
// so every position lies in [0, L). Scales with g L < R would leave that range. The paper leaves open what happens
// there (METHODS 5.4-1); here g starts at ceil(R / L).
#pragma once
#include "rope/positions.h"

namespace rw {

struct E2Positions {
  static constexpr const char* kName = "e2";
  static constexpr const char* kSummary = "E2-LLM: positions divided by a random scale, moved by a random offset";
  static constexpr const char* kScaling = "e2";
  static std::vector<Field> fields();

  int64_t max_factor = 16;  // G_max, the largest scale (paper 20)
  bool per_step = false;    // one draw for all samples of a step (the paper's code) instead of one each
  int64_t sink_tokens = 4;  // first tokens whose offset stays 0
  bool fixed_g = false;     // g = max_factor, the paper's ablation
  bool fixed_t = false;     // no offset, the paper's ablation

  void check() const {}
  /// Errors: a window longer than max_factor windows of pre-training.
  void check_spec(const SampleSpec& spec) const;
  void draw(Draw& sample) const;
  bool operator==(const E2Positions&) const = default;
};

}  // namespace rw
