// What all samplers share: the loop over a batch, and draws of text and of subsets.
#include "rope/positions.h"

#include <algorithm>

namespace rw {

void PositionConfig::check() const {
  check_fields();
  held().check();
}

PositionSampler::PositionSampler(PositionConfig config) : config_(std::move(config)) { config_.check(); }

std::unique_ptr<PositionSampler> make_position_sampler(const PositionConfig& config) {
  return std::make_unique<PositionSampler>(config);
}

PositionBatch PositionSampler::sample(const SampleSpec& spec) const {
  const int64_t batch = static_cast<int64_t>(spec.sample_ids.size());
  check(batch >= 1, name(), "sample_ids is empty");
  check(spec.window >= 1, name(), "window must be at least 1, got ", spec.window);
  check(spec.document_lengths.empty() || spec.document_lengths.size() == spec.sample_ids.size(), name(), "needs ",
        batch, " document_lengths, got ", spec.document_lengths.size());
  constexpr int64_t kExact = 1 << 24;  // f32 holds every whole number up to it
  check(spec.target < kExact, name(), "target must be below ", kExact,
        " tokens, the positions that f32 holds exactly, got ", spec.target);
  config_.check_spec(spec);

  PositionBatch out;
  out.positions = Tensor::empty({batch, spec.window});
  const Random shared(spec.seed, Purpose::scale, static_cast<uint64_t>(spec.step));
  for (int64_t b = 0; b < batch; ++b) {
    const auto id = static_cast<uint64_t>(spec.sample_ids[static_cast<size_t>(b)]);
    const int64_t document =
        spec.document_lengths.empty() ? spec.window : spec.document_lengths[static_cast<size_t>(b)];
    check(document >= 1, name(), "the document of sample ", id, " has ", document, " tokens");
    Draw one{.random = Random(spec.seed, Purpose::positions, static_cast<uint64_t>(spec.step), id),
             .shared = shared,
             .window = spec.window,
             .target = spec.target > 0 ? spec.target : spec.window,
             .original_window = spec.original_window > 0 ? spec.original_window : spec.window,
             .document = document,
             .positions = out.positions.data<float>() + b * spec.window,
             .content = {},
             .t = 1.0};
    config_.draw(one);
    out.content.push_back(std::move(one.content));
    out.t.push_back(one.t);
  }
  return out;
}

std::vector<int64_t> sorted_subset(Random& random, int64_t count, int64_t range) {
  // Floyd: for j = range - count .. range - 1 take a uniform number of [0, j], or j itself if that one is taken.
  std::vector<bool> taken(static_cast<size_t>(range), false);
  for (int64_t j = range - count; j < range; ++j) {
    const int64_t pick = random.below(j + 1);
    taken[static_cast<size_t>(taken[static_cast<size_t>(pick)] ? j : pick)] = true;
  }
  std::vector<int64_t> subset;
  subset.reserve(static_cast<size_t>(count));
  for (int64_t i = 0; i < range; ++i) {
    if (taken[static_cast<size_t>(i)]) subset.push_back(i);
  }
  return subset;
}

void Draw::take_contiguous_text() {
  const int64_t length = std::min(window, document);
  content = {{random.between(0, document - length), length}};
}

void Draw::take_ordinary(int64_t reach) {
  for (int64_t m = 0; m < window; ++m) positions[m] = static_cast<float>(m);
  take_contiguous_text();
  t = std::max(1.0, static_cast<double>(reach) / static_cast<double>(original_window));
}

}  // namespace rw
