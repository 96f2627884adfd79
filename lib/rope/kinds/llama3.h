// Llama 3.1's scaling (METHODS 6.5, HF "llama3"): by wavelength lambda = 2 pi / theta, with L the pre-training window,
//
//   lambda < L / high_freq_factor:  theta
//   lambda > L / low_freq_factor:   theta / s
//   between:                        (1 - u) theta / s + u theta,   u = (L / lambda - low) / (high - low)
#pragma once
#include "rope/scaling.h"

namespace rw {

struct Llama3Rope {
  static constexpr const char* kName = "llama3";
  static constexpr const char* kSummary = "Llama 3.1: long waves are divided by the factor, short ones stay";
  static std::vector<Field> fields();

  double factor = 1;  // s = L'/L
  double low_freq_factor = 1;
  double high_freq_factor = 4;

  /// Errors: unless high_freq_factor > low_freq_factor.
  void check(const RopeConfig& config) const;
  std::unique_ptr<RopeScaling> make(const RopeConfig& config) const;
  double window_factor() const { return factor; }
  /// Errors: the JSON states no original window, from which the wavelengths are measured.
  void complete(RopeConfig& config, const GivenKeys& given, const std::string& path);
  bool operator==(const Llama3Rope&) const = default;
};

}  // namespace rw
