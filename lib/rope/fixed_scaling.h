// Internal: what the simple kinds share.
#pragma once
#include "rope/scaling.h"

namespace rw {

/// A kind whose table never changes: computed once, then handed out.
/// Thread safety: as RopeScaling.
class FixedScaling : public RopeScaling {
 public:
  using RopeScaling::table;
  /// inv_freq [D/2], attention_scale A.
  FixedScaling(const RopeConfig& config, const std::vector<double>& inv_freq, double attention_scale = 1.0);
  RopeTable table(const RopeContext&) override { return table_; }

 private:
  RopeTable table_;
};

/// n / L: how many windows of pre-training a sequence of `length` tokens spans, at least 1.
double windows_of(const RopeConfig& config, int64_t length);

}  // namespace rw
