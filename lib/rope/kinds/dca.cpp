// Dual Chunk Attention: the field of its record, its three sets of positions.
#include "rope/kinds/dca.h"

#include <algorithm>

#include "rope/position_sets.h"

namespace rw {
namespace {

class DcaScaling : public PositionSetScaling {
 public:
  DcaScaling(const RopeConfig& config, const DcaRope& record)
      : PositionSetScaling(config, base_inv_freq(config)),
        window_(config.original_window()),
        chunk_(record.chunk > 0 ? record.chunk : std::max<int64_t>(1, window_ * 3 / 4)) {}

  size_t sets() const override { return 3; }  // the same chunk, the one before, earlier ones
  int64_t query_position(size_t set, int64_t m) const override {
    return set == 0 ? m % chunk_ : set == 1 ? std::min(chunk_ + m % chunk_, window_ - 1) : window_ - 1;
  }
  int64_t key_position(size_t, int64_t n) const override { return n % chunk_; }
  void key_ranges(int64_t m, std::vector<KeyRange>& out) const override {
    const int64_t own = m / chunk_ * chunk_, before = std::max<int64_t>(0, own - chunk_);
    out = {{2, 0, before}, {1, before, own}, {0, own, m + 1}};
  }
  bool plain_up_to(int64_t length) const override { return length <= chunk_; }

 private:
  int64_t window_, chunk_;
};

}  // namespace

std::vector<Field> DcaRope::fields() {
  return {field("chunk", &DcaRope::chunk)
              .at_least(0)
              .help("tokens of a chunk; 0: three quarters of the window of pre-training")};
}

void DcaRope::check(const RopeConfig& config) const {
  rw::check(chunk <= config.original_window(), kName, "chunk must be at most the window of pre-training, ",
            config.original_window(), ", got ", chunk);
}

std::unique_ptr<RopeScaling> DcaRope::make(const RopeConfig& config) const {
  return std::make_unique<DcaScaling>(config, *this);
}

}  // namespace rw
