// The list of position samplers that are known by name.
#include "rope/samplers.h"

namespace rw {

const std::vector<PositionConfig>& position_samplers() {
  static const std::vector<PositionConfig> samplers = {
      ContiguousPositions{}, PosePositions{}, RandPosPositions{}, E2Positions{}, ClexPositions{}, DropePositions{},
  };
  return samplers;
}

PositionConfig position_sampler(std::string_view name) {
  std::string known;
  for (const PositionConfig& sampler : position_samplers()) {
    if (sampler.name() == name) return sampler;
    known += (known.empty() ? "" : ", ") + sampler.name();
  }
  fail("positions", "unknown kind \"", name, "\"; known: ", known);
}

PositionConfig::PositionConfig() : PositionConfig(ContiguousPositions{}) {}

}  // namespace rw
