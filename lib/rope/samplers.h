// Internal: one factory per position sampler, each defined in positions_<name>.cpp.
#pragma once
#include "rope/positions.h"

namespace rw {

std::unique_ptr<PositionSampler> make_contiguous_sampler(const PositionConfig& config);
std::unique_ptr<PositionSampler> make_pose_sampler(const PositionConfig& config);
std::unique_ptr<PositionSampler> make_randpos_sampler(const PositionConfig& config);
std::unique_ptr<PositionSampler> make_e2_sampler(const PositionConfig& config);
std::unique_ptr<PositionSampler> make_clex_sampler(const PositionConfig& config);

/// `count` distinct integers of [0, range), sorted. Needs 0 <= count <= range.
std::vector<int64_t> sorted_subset(Random& random, int64_t count, int64_t range);

/// One run of text, as long as the window and the document allow, at a uniform place in the document.
std::vector<Span> contiguous_content(Random& random, int64_t window, int64_t document);

}  // namespace rw
