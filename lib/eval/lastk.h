// Loss of the same last tokens under growing contexts, and mean loss by token index (METHODS.md 7.2).
//
// Perplexity by window mixes two things: more context, and other documents' beginnings. Here the scored tokens stay the
// same. So a difference between two contexts comes from the added text alone. Differences are paired by document before
// their interval is drawn.
#pragma once
#include <optional>
#include <vector>

#include "data/corpus.h"
#include "eval/records.h"
#include "eval/scorer.h"

namespace rw {

struct LastKOptions {
  std::vector<int64_t> contexts = {512};  // tokens of the input, BOS and scored tokens included
  int64_t last = 128;                     // K
  int64_t targets = 4;    // places in each document that are scored, evenly spread from the largest context on
  int64_t reference = 0;  // context that differences are taken against; 0: the smallest
  int64_t documents = 0;  // only the first so many that are long enough; 0: all
  std::optional<int32_t> bos = {};
  uint64_t seed = 0;
  Progress progress = {};
};

struct LastKPoint {
  int64_t context = 0, documents = 0, tokens = 0;
  double nll = 0, nll_low = 0, nll_high = 0;
  double difference = 0, difference_low = 0, difference_high = 0;  // nll - nll at the reference, paired by document
};

struct LastKResult {
  std::vector<LastKPoint> points;
  std::vector<Record> rows;  // document, context, tokens, nll
};

/// Errors: a context that does not exceed K, a reference that is not among the contexts, no document as long as the
/// largest context.
LastKResult evaluate_last_k(TokenScorer& scorer, const TokenCorpus& corpus, const LastKOptions& options);
EvalResult to_eval_result(const LastKResult& result, const LastKOptions& options);

struct BinsOptions {
  int64_t window = 4096;  // tokens read of each document, BOS included
  int64_t bin = 64;       // token indices in one bin
  int64_t documents = 0;
  std::optional<int32_t> bos = {};
  uint64_t seed = 0;
  Progress progress = {};
};

/// Mean loss of the tokens whose index in the window, BOS included, lies in [begin, end).
struct Bin {
  int64_t begin = 0, end = 0, tokens = 0;
  double nll = 0, low = 0, high = 0;
};

/// One pass over the first `window` tokens of every document that has as many. Errors: none has, bin < 1.
std::vector<Bin> evaluate_bins(TokenScorer& scorer, const TokenCorpus& corpus, const BinsOptions& options);
EvalResult to_eval_result(const std::vector<Bin>& bins, const BinsOptions& options);

}  // namespace rw
