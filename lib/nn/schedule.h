// Learning rate over steps: linear warm-up, then constant, linear or cosine.
#pragma once
#include <cmath>
#include <cstdint>
#include <string>

#include "tensor/error.h"

namespace rw {

struct Schedule {
  std::string kind = "cosine";  // constant | linear | cosine
  double lr = 1e-3;             // peak
  int64_t warmup = 0;           // steps
  double warmup_start = 0.0;    // share of the peak at the first warm-up step (PI: 0.1)
  double min_ratio = 0.1;       // share of the peak at the last step (linear, cosine)
  int64_t steps = 1;

  /// The rate of step `step`, 0-based. Errors: unknown kind.
  double operator()(int64_t step) const {
    if (step < warmup) {
      const double done = static_cast<double>(step + 1) / static_cast<double>(warmup);
      return lr * (warmup_start + (1 - warmup_start) * done);
    }
    if (kind == "constant") return lr;
    const int64_t span = steps - warmup;
    const double x = span > 1 ? static_cast<double>(step - warmup) / static_cast<double>(span - 1) : 1.0;
    const double left = kind == "linear" ? 1 - x : 0.5 * (1 + std::cos(3.14159265358979323846 * x));
    check(kind == "linear" || kind == "cosine", "schedule", "unknown kind '", kind,
          "', expected constant, linear or cosine");
    return lr * (min_ratio + (1 - min_ratio) * left);
  }
};

}  // namespace rw
