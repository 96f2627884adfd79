// Philox4x32-10 (Salmon et al., SC 2011), keyed by (seed, purpose, step, sample).
//
// The draw depends on the key alone: the same on every device, after a resume, and with any number of workers.
#pragma once
#include <array>
#include <cmath>
#include <cstdint>

namespace rw {

/// What a stream is for, so that two uses of one seed never share numbers.
enum class Purpose : uint32_t {
  init = 1,
  data = 2,
  positions = 3,
  sampling = 4,
  scale = 5,
  eval = 6,
  corpus = 7,
  test = 8,
  retrieval = 9
};

/// One block of Philox4x32-10.
inline std::array<uint32_t, 4> philox4x32(std::array<uint32_t, 4> counter, std::array<uint32_t, 2> key) {
  for (int round = 0; round < 10; ++round) {
    const uint64_t p0 = uint64_t{0xD2511F53u} * counter[0];
    const uint64_t p1 = uint64_t{0xCD9E8D57u} * counter[2];
    counter = {static_cast<uint32_t>(p1 >> 32) ^ counter[1] ^ key[0], static_cast<uint32_t>(p1),
               static_cast<uint32_t>(p0 >> 32) ^ counter[3] ^ key[1], static_cast<uint32_t>(p0)};
    key[0] += 0x9E3779B9u;
    key[1] += 0xBB67AE85u;
  }
  return counter;
}

/// Thread safety: none; a stream is cheap, so every thread makes its own from its key.
class Random {
 public:
  Random(uint64_t seed, Purpose purpose, uint64_t step = 0, uint64_t sample = 0)
      : key_{static_cast<uint32_t>(seed), static_cast<uint32_t>(seed >> 32)},
        // counter words: block, sample, step, and purpose with the high bits of sample and step
        sample_(static_cast<uint32_t>(sample)),
        step_(static_cast<uint32_t>(step)),
        tag_((static_cast<uint32_t>(purpose) << 24) ^ (static_cast<uint32_t>(sample >> 32) << 12) ^
             static_cast<uint32_t>(step >> 32)) {}

  uint32_t next() {
    if (used_ == 4) {
      block_ = philox4x32({index_++, sample_, step_, tag_}, key_);
      used_ = 0;
    }
    return block_[static_cast<size_t>(used_++)];
  }
  uint64_t next64() {
    const uint64_t high = next();
    return (high << 32) | next();
  }
  /// Uniform in [0, 1), 53 bits.
  double uniform() { return static_cast<double>(next64() >> 11) * 0x1.0p-53; }
  /// Uniform integer in [0, n), without modulo bias; 0 if n <= 1.
  int64_t below(int64_t n) {
    if (n <= 1) return 0;
    const uint64_t range = static_cast<uint64_t>(n);
    const uint64_t limit = ~uint64_t{0} - (~uint64_t{0} % range + 1) % range;
    uint64_t draw = next64();
    while (draw > limit) draw = next64();
    return static_cast<int64_t>(draw % range);
  }
  /// Uniform integer in [low, high], both included.
  int64_t between(int64_t low, int64_t high) { return low + below(high - low + 1); }
  /// Standard normal (Box-Muller; both values are used).
  double normal() {
    if (has_spare_) {
      has_spare_ = false;
      return spare_;
    }
    const double radius = std::sqrt(-2.0 * std::log(1.0 - uniform()));
    const double angle = 2.0 * 3.14159265358979323846 * uniform();
    spare_ = radius * std::sin(angle);
    has_spare_ = true;
    return radius * std::cos(angle);
  }

 private:
  std::array<uint32_t, 2> key_;
  uint32_t sample_, step_, tag_;
  uint32_t index_ = 0;
  std::array<uint32_t, 4> block_{};
  int used_ = 4;
  double spare_ = 0;
  bool has_spare_ = false;
};

}  // namespace rw
