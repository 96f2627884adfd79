// Text generation with a KV cache.
#pragma once
#include <functional>
#include <span>
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

/// One of several texts to continue with the most likely tokens.
struct GreedyRequest {
  std::vector<int32_t> prompt;
  int64_t tokens = 128;            // at most so many new ones
  std::vector<int32_t> stop = {};  // ends before one of these
};

/// The new tokens of every request, up to `together` texts at a time, which share every reading of the weights
/// (nn/decoder.h, BatchDecoder); fewer where their caches would take more than 2 GiB on the CPU, 16 GiB on a GPU.
/// together 0: BatchDecoder::kMost where each text gets the bits that generate() gives it, else 1. Methods whose
/// frequencies depend on the length go one after another. `done` is called after each request, with how many are done.
/// Errors: as generate; together outside [0, BatchDecoder::kMost].
std::vector<std::vector<int32_t>> generate_greedy(const CausalLm& model, std::span<const GreedyRequest> requests,
                                                  int64_t together = 0, const std::function<void(int64_t)>& done = {});

}  // namespace rw
