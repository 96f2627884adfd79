// NoPE in every layer: the fields of its record, and a table of zeros.
#include "rope/kinds/nope.h"

#include "rope/fixed_scaling.h"

namespace rw {

std::vector<Field> NopeRope::fields() {
  return {
      field("factor", &NopeRope::factor)
          .at_least(1)
          .help("window that the model is meant for / window of pre-training"),
      field("attention_factor", &NopeRope::attention_factor).above(0).help("the attention scale A"),
  };
}

std::unique_ptr<RopeScaling> NopeRope::make(const RopeConfig& config) const {
  return std::make_unique<FixedScaling>(config, std::vector<double>(base_inv_freq(config).size(), 0.0),
                                        attention_factor.value_or(1));
}

}  // namespace rw
