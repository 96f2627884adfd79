// Choosing the next token from logits.
#pragma once
#include <cstdint>
#include <vector>

#include "tensor/random.h"

namespace rw {

struct SamplingOptions {
  double temperature = 1.0;  // 0: the most likely token
  int64_t top_k = 0;         // keep the k most likely (0: all)
  double top_p = 1.0;        // keep the smallest set whose probability reaches p
  uint64_t seed = 0;
};

/// One token id. Ties at temperature 0 go to the smallest id. `step` keys the draw, so that (seed, step) repeats it.
/// Errors: options out of range, logits that are all NaN.
int32_t sample_token(const std::vector<float>& logits, const SamplingOptions& options, uint64_t step);

}  // namespace rw
