// No positions at all (NoPE), for every layer. In place of a trained RoPE this is DroPE (Gelberg et al. 2025, arXiv
// 2512.12167): positions help to train and limit the window afterwards, so they are dropped and the model is
// recalibrated by a short training at its own window. The causal mask is what is left of order.
//
//   theta'_i = 0,   A = attention_factor, so that scores are multiplied by A^2
#pragma once
#include "rope/scaling.h"

namespace rw {

struct NopeRope {
  static constexpr const char* kName = "nope";
  static constexpr const char* kSummary = "no positions in any layer (NoPE, DroPE)";
  static std::vector<Field> fields();

  double factor = 1;                       // L'/L that the model is meant for; changes no angle
  std::optional<double> attention_factor;  // A

  void check(const RopeConfig&) const {}
  std::unique_ptr<RopeScaling> make(const RopeConfig& config) const;
  double window_factor() const { return factor; }
  bool operator==(const NopeRope&) const = default;
};

}  // namespace rw
