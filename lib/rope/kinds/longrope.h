// LongRoPE (arXiv 2402.13753; METHODS 6.4, HF "longrope", Phi-3's "su"): every pair has its own divisor, found by
// search. One set serves sequences within the pre-training window, another the longer ones.
//
//   theta'_i = theta_i / ext_i,   ext = long_factor if n > L else short_factor,   A = sqrt(1 + ln s / ln L)
//
// The paper also leaves the first n^ tokens without interpolation. HF's "longrope" cannot state that; start_tokens does,
// for this library only, beyond the window of pre-training and at inference only.
#pragma once
#include "rope/scaling.h"

namespace rw {

struct LongRope {
  static constexpr const char* kName = "longrope";
  static constexpr const char* kSummary = "LongRoPE: a divisor of its own for every pair, short and long";
  static std::vector<Field> fields();

  double factor = 1;                              // s = L'/L, for the attention scale only
  std::vector<double> short_factor, long_factor;  // [D/2]
  std::optional<double> attention_factor;         // A itself
  std::optional<double> start_tokens;             // n^, a whole number; absent: 0

  /// Errors: lists of another length than D/2, a window of 1, a start that is no whole number below the window.
  void check(const RopeConfig& config) const;
  std::unique_ptr<RopeScaling> make(const RopeConfig& config) const;
  double window_factor() const { return factor; }
  /// As HF: a recipe without a factor means the ratio of the two windows.
  void complete(RopeConfig& config, const GivenKeys& given, const std::string& path);
  bool operator==(const LongRope&) const = default;
};

}  // namespace rw
