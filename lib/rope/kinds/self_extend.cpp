// Self-Extend: the fields of its record, its two sets of positions.
#include "rope/kinds/self_extend.h"

#include <algorithm>

#include "rope/position_sets.h"

namespace rw {
namespace {

class SelfExtendScaling : public PositionSetScaling {
 public:
  SelfExtendScaling(const RopeConfig& config, const SelfExtendRope& record)
      : PositionSetScaling(config, base_inv_freq(config)),
        group_(record.group),
        near_(record.neighbours > 0 ? record.neighbours : std::max<int64_t>(1, config.original_window() / 2)) {}

  size_t sets() const override { return 2; }  // near, far
  int64_t query_position(size_t set, int64_t m) const override {
    return set == 0 ? m : m / group_ + near_ - near_ / group_;
  }
  int64_t key_position(size_t set, int64_t n) const override { return set == 0 ? n : n / group_; }
  void key_ranges(int64_t m, std::vector<KeyRange>& out) const override {
    const int64_t first = std::max<int64_t>(0, m - near_ + 1);  // of the near keys
    out = {{1, 0, first}, {0, first, m + 1}};
  }
  bool plain_up_to(int64_t length) const override { return group_ == 1 || length <= near_; }

 private:
  int64_t group_, near_;
};

}  // namespace

std::vector<Field> SelfExtendRope::fields() {
  return {
      field("group", &SelfExtendRope::group).at_least(1).required().help("tokens that share a position when far away"),
      field("neighbours", &SelfExtendRope::neighbours)
          .at_least(0)
          .help("nearest tokens, which keep their own positions; 0: half the window of pre-training"),
  };
}

void SelfExtendRope::check(const RopeConfig& config) const {
  rw::check(neighbours <= config.original_window(), kName, "neighbours must be at most the window of pre-training, ",
            config.original_window(), ", got ", neighbours);
}

std::unique_ptr<RopeScaling> SelfExtendRope::make(const RopeConfig& config) const {
  return std::make_unique<SelfExtendScaling>(config, *this);
}

}  // namespace rw
