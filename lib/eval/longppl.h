// LongPPL (Fang et al. 2024, "What is Wrong with Perplexity for Long-context Language Modeling?", eq. 2 to 7): the
// perplexity of only those tokens that depend on the long context.
//
// A token is a key token if the long context makes it much more likely than a short one does, and likely at all:
//   LSD = log p(x | long) - log p(x | short) > alpha     and     LCL = log p(x | long) > beta
// with alpha = 2 and beta = -2. The short context is the last K tokens at most. It is read in windows of K tokens that
// move on by a quarter of K, as in the paper's code. The model itself decides which tokens are key tokens.
#pragma once
#include <optional>
#include <vector>

#include "data/corpus.h"
#include "eval/records.h"
#include "eval/scorer.h"

namespace rw {

struct LongPplOptions {
  int64_t window = 4096;        // tokens of the long context, BOS included
  int64_t short_window = 512;   // K, BOS included
  double alpha = 2, beta = -2;  // nats
  int64_t documents = 0;        // only the first so many that are long enough; 0: all
  std::optional<int32_t> bos = {};
  uint64_t seed = 0;  // of the bootstrap
  Progress progress = {};
};

/// One pass over the first `window` tokens of every document that has as many; tokens from K on are judged. Rows:
/// document, tokens, key_tokens, nll, key_nll. One total: longppl with its 95 % bootstrap interval over documents, the
/// plain perplexity of all judged tokens, how many tokens are key, and the mean LSD. longppl is NaN where none is key.
/// Errors: no document is as long as the window, K below 8 or not below the window.
EvalResult evaluate_long_ppl(TokenScorer& scorer, const TokenCorpus& corpus, const LongPplOptions& options);

}  // namespace rw
