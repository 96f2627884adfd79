// Internal: one factory per scaling kind, each defined in the file of that name, and what the simple kinds share.
#pragma once
#include <utility>

#include "rope/scaling.h"

namespace rw {

std::unique_ptr<RopeScaling> make_default_rope(const RopeConfig& config);
std::unique_ptr<RopeScaling> make_linear_rope(const RopeConfig& config);
std::unique_ptr<RopeScaling> make_ntk_rope(const RopeConfig& config);
std::unique_ptr<RopeScaling> make_yarn_rope(const RopeConfig& config);
std::unique_ptr<RopeScaling> make_dynamic_rope(const RopeConfig& config);
std::unique_ptr<RopeScaling> make_dynamic_linear_rope(const RopeConfig& config);
std::unique_ptr<RopeScaling> make_llama3_rope(const RopeConfig& config);
std::unique_ptr<RopeScaling> make_longrope(const RopeConfig& config);
std::unique_ptr<RopeScaling> make_clex_rope(const RopeConfig& config);
std::unique_ptr<RopeScaling> make_e2_rope(const RopeConfig& config);
std::unique_ptr<RopeScaling> make_abf_rope(const RopeConfig& config);

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

}  // namespace rw
