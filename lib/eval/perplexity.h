// Perplexity of documents under a window, counted exactly as METHODS.md 7.1 says.
//
//   ModelScorer scorer(*model);
//   auto result = evaluate_perplexity(scorer, corpus, {.windows = {512, 2048}, .bos = tokenizer->bos_id()});
//   std::cout << to_text_table(totals_of(result));
//
// Sliding (Press et al. 2022, as PI, YaRN and PoSE use it). A document has tokens x[0 .. n) without special tokens. A
// window of W tokens is [BOS] + w = W - 1 document tokens. Windows begin at b = 0, S, 2S, ... and each scores only
// tokens that no earlier window has scored. So the first window scores w tokens. Later ones score S tokens with at
// least W - S tokens of context, and the last one what is left. Positions restart at 0 in every window. Without a BOS w
// = W, and x[0], which nothing predicts, is not counted. S = W stands for windows without overlap (a step of w).
//
// Length-dependent RoPE kinds take their scale from W, in short last windows too, or from `as_length`.
#pragma once
#include <functional>
#include <limits>
#include <optional>
#include <string>
#include <vector>

#include "data/corpus.h"
#include "eval/records.h"
#include "eval/scorer.h"

namespace rw {

enum class PerplexityMode {
  sliding,   // above
  truncate,  // the first w tokens of each document, all scored, one pass (PoSE Fig. 4)
  chunked,   // the first W tokens in chunks over a growing KV cache (CLEX's evaluation code): the scale follows the
             // length read, the first token of every chunk is not scored, a chunk counts with its length
};

enum class Weighting {
  token,   // exp(sum of nll / number of scored tokens): PI, PoSE, everyone's default
  window,  // exp(mean over windows of the window's mean nll): YaRN's code; the first window then counts as one stride
};

struct PerplexityOptions {
  std::vector<int64_t> windows = {512};  // W, BOS included
  std::optional<int64_t> stride = {};    // S; W / stride_divisor if not given
  int64_t stride_divisor = 8;
  int64_t as_length = 0;   // the RoPE scale of sequences of this length at every window; 0: W's own
  int64_t max_tokens = 0;  // only the first so many tokens of each document; 0: all
  int64_t min_tokens = 0;  // documents with fewer are left out
  int64_t documents = 0;   // only the first so many (of those long enough); 0: all
  std::optional<int32_t> bos = {};
  PerplexityMode mode = PerplexityMode::sliding;
  Weighting weighting = Weighting::token;
  int64_t chunk = 4096;  // chunked
  uint64_t seed = 0;     // of the bootstrap
  /// Bytes of the text of these ids, for bits per byte; e.g. the size of tokenizer.decode(ids).
  std::function<int64_t(std::span<const int32_t>)> byte_count = {};
  /// (tokens scored, tokens in all), after every batch.
  Progress progress = {};
};

/// One document under one window.
struct PerplexityRow {
  std::string document;
  int64_t window = 0, stride = 0;
  int64_t tokens = 0;                     // scored
  int64_t windows = 0;                    // forward passes that these tokens came from
  int64_t bytes = 0;                      // of the scored tokens; 0: unknown
  double nll_sum = 0;                     // nats over all scored tokens
  double numerator = 0, denominator = 0;  // nll = numerator / denominator under the chosen weighting
  double nll() const { return numerator / denominator; }
  double ppl() const;
};

/// All documents under one window: sums of numerators over sums of denominators, with a 95 % bootstrap interval over
/// documents.
struct PerplexityTotal {
  int64_t window = 0, stride = 0, documents = 0, tokens = 0;
  double nll = 0, nll_low = 0, nll_high = 0;
  double bits_per_byte = std::numeric_limits<double>::quiet_NaN();
  double ppl() const;
};

struct PerplexityResult {
  std::vector<PerplexityRow> rows;
  std::vector<PerplexityTotal> totals;
};

/// What an evaluation reads: the documents that take part, the tokens that it scores, and those that it gives to the
/// model, which are more where windows overlap. Errors: as evaluate_perplexity's for the windows and documents.
struct PerplexityCost {
  int64_t documents = 0;
  double scored = 0, read = 0;  // over all windows
  int64_t longest = 0;          // tokens of the longest of the documents, a BOS included
};
PerplexityCost perplexity_cost(const TokenCorpus& corpus, const PerplexityOptions& options);

/// Errors: a window below 2, a stride outside [1, W], an as_length below a window or in chunked mode, no document with
/// a token to score, NaN from the model.
PerplexityResult evaluate_perplexity(TokenScorer& scorer, const TokenCorpus& corpus, const PerplexityOptions& options);

/// The spans that the sliding protocol scores in a document of n tokens: window b holds document tokens [begin, end)
/// and scores [first, end).
struct SlidingSpan {
  int64_t begin = 0, first = 0, end = 0;
};
std::vector<SlidingSpan> sliding_spans(int64_t n, int64_t window, int64_t stride, bool bos);

/// As `ropewalk eval ppl --json` writes it: rows (document, window, stride, tokens, nll, ppl, ...), totals, protocol.
EvalResult to_eval_result(const PerplexityResult& result, const PerplexityOptions& options);

}  // namespace rw
