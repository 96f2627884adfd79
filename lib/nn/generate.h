// Text generation with a KV cache.
#pragma once
#include <functional>
#include <vector>

#include "nn/causal_lm.h"
#include "nn/sampling.h"

namespace rw {

struct GenerateOptions {
  int64_t tokens = 128;  // at most so many new ones
  SamplingOptions sampling;
  std::vector<int32_t> stop;  // ends after one of these (it is not reported)
};

/// Calls on_token(id) for every new token; ends early if it returns false. The prompt must not be empty (start with
/// BOS). Returns the number of new tokens. Errors: empty prompt, a prompt id beyond the vocabulary.
int64_t generate(const CausalLm& model, const std::vector<int32_t>& prompt, const GenerateOptions& options,
                 const std::function<bool(int32_t)>& on_token);

}  // namespace rw
