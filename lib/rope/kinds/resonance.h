// Resonance RoPE (Wang et al. 2024, arXiv 2403.00071, eq. 6; published code sheryc/resonance_rope): the wavelengths of
// another kind, rounded to whole tokens. A pair that has gone round within the window meets the very same angles again.
//
//   lambda_i = round(2 pi / theta'_i),   theta''_i = 2 pi / lambda_i,   A as the other kind's
#pragma once
#include "rope/scaling.h"

namespace rw {

/// The kind whose wavelengths are rounded.
enum class ResonanceOf { plain, linear, ntk, yarn };

struct ResonanceRope {
  static constexpr const char* kName = "resonance";
  static constexpr const char* kSummary = "Resonance RoPE: wavelengths rounded to whole tokens";
  static std::vector<Field> fields();

  double factor = 1;  // s = L'/L, of the kind below
  ResonanceOf of = ResonanceOf::yarn;

  /// Errors: a factor with plain RoPE, and what the kind below refuses.
  void check(const RopeConfig& config) const;
  std::unique_ptr<RopeScaling> make(const RopeConfig& config) const;
  double window_factor() const { return factor; }
  bool operator==(const ResonanceRope&) const = default;
};

}  // namespace rw
