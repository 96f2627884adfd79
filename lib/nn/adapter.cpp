// Which layers an adapter covers, and by how much it counts.
#include "nn/adapter.h"

#include <algorithm>
#include <cmath>

namespace rw {

double AdapterDescription::scale() const {
  const auto r = static_cast<double>(rank);
  return alpha / (rank_stabilized ? std::sqrt(r) : r);
}

bool AdapterDescription::covers(const std::string& linear) const {
  return std::any_of(targets.begin(), targets.end(), [&](const std::string& target) {
    return target == "all" || linear == target || linear.ends_with("." + target);
  });
}

bool is_adapter_parameter(const std::string& name) {
  return name.ends_with(".lora_A.weight") || name.ends_with(".lora_B.weight");
}

}  // namespace rw
