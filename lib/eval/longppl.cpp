// LongPPL: losses of the same tokens under the whole window and under the last K tokens, and the perplexity of those
// that the difference picks.
#include "eval/longppl.h"

#include <algorithm>
#include <cmath>
#include <limits>
#include <span>

#include "eval/statistics.h"
#include "tensor/error.h"

namespace rw {
namespace {

constexpr const char* kOp = "longppl";

/// [BOS] + document tokens [begin, end).
std::vector<int32_t> tokens_of(const TokenCorpus& corpus, int64_t document, int64_t begin, int64_t end,
                               const std::optional<int32_t>& bos) {
  std::vector<int32_t> ids(static_cast<size_t>(end - begin) + (bos ? 1 : 0));
  if (bos) ids[0] = *bos;
  corpus.read(document, begin, std::span(ids).subspan(bos ? 1 : 0));
  return ids;
}

/// Losses of document tokens [first, end) under at most `window` tokens, BOS included; windows move on by `step`.
std::vector<double> losses(TokenScorer& scorer, const TokenCorpus& corpus, int64_t document, int64_t first, int64_t end,
                           int64_t window, int64_t step, const std::optional<int32_t>& bos) {
  const int64_t special = bos ? 1 : 0, capacity = window - special;
  std::vector<ScoreWindow> windows;
  for (int64_t at = first; at < end; at += step) {
    const int64_t last = std::min(at + step, end), begin = std::max<int64_t>(0, last - capacity);
    windows.push_back({tokens_of(corpus, document, begin, last, bos), at - begin + special});
  }
  std::vector<double> out;
  const size_t batch = static_cast<size_t>(scorer.windows_per_batch(window));
  for (size_t begin = 0; begin < windows.size(); begin += batch) {
    const size_t count = std::min(batch, windows.size() - begin);
    for (const auto& scores : scorer.score(std::span(windows).subspan(begin, count), window)) {
      for (const TokenScore& s : scores) out.push_back(s.nll);
    }
  }
  return out;
}

struct Sums {
  double nll = 0, key_nll = 0, difference = 0;
  int64_t tokens = 0, key_tokens = 0;
};

Sums judge(const std::vector<double>& with_all, const std::vector<double>& with_few, const LongPplOptions& options) {
  Sums sums;
  for (size_t i = 0; i < with_all.size(); ++i) {
    const double lsd = with_few[i] - with_all[i];  // losses are negative log-probabilities
    sums.nll += with_all[i];
    sums.difference += lsd;
    ++sums.tokens;
    if (!(lsd > options.alpha && -with_all[i] > options.beta)) continue;
    sums.key_nll += with_all[i];
    ++sums.key_tokens;
  }
  return sums;
}

Record total_of(const std::vector<Sums>& documents, const LongPplOptions& options) {
  Sums all;
  std::vector<double> key_nll, key_tokens;
  for (const Sums& s : documents) {
    all.nll += s.nll, all.key_nll += s.key_nll, all.difference += s.difference;
    all.tokens += s.tokens, all.key_tokens += s.key_tokens;
    if (s.key_tokens == 0) continue;  // it adds nothing to either sum, and a draw of such documents alone has no mean
    key_nll.push_back(s.key_nll);
    key_tokens.push_back(static_cast<double>(s.key_tokens));
  }
  const double none = std::numeric_limits<double>::quiet_NaN(), n = static_cast<double>(all.tokens);
  const bool any = all.key_tokens > 0;
  const Interval interval = any ? bootstrap_ratio(key_nll, key_tokens, options.seed) : Interval{none, none};
  return {{"window", options.window},
          {"short_window", options.short_window},
          {"documents", static_cast<int64_t>(documents.size())},
          {"tokens", all.tokens},
          {"key_tokens", all.key_tokens},
          {"longppl", any ? std::exp(all.key_nll / static_cast<double>(all.key_tokens)) : none},
          {"longppl_low", std::exp(interval.low)},
          {"longppl_high", std::exp(interval.high)},
          {"ppl", std::exp(all.nll / n)},
          {"difference", all.difference / n}};
}

}  // namespace

EvalResult evaluate_long_ppl(TokenScorer& scorer, const TokenCorpus& corpus, const LongPplOptions& options) {
  const int64_t special = options.bos ? 1 : 0, end = options.window - special, first = options.short_window - special;
  check(options.short_window >= 8 && options.short_window < options.window, kOp,
        "the short window must be at least 8 tokens and below the long one of ", options.window, ", got ",
        options.short_window);
  std::vector<int64_t> documents;
  int64_t longest = 0;
  for (int64_t d = 0; d < corpus.documents(); ++d) {
    longest = std::max(longest, corpus.length(d));
    const bool wanted = options.documents == 0 || static_cast<int64_t>(documents.size()) < options.documents;
    if (wanted && corpus.length(d) >= end) documents.push_back(d);
  }
  check(!documents.empty(), kOp, "no document has ", end, " tokens; the longest of ", corpus.documents(), " has ",
        longest);
  EvalResult out;
  out.kind = "longppl";
  out.protocol = {{"window", options.window},
                  {"short_window", options.short_window},
                  {"alpha", options.alpha},
                  {"beta", options.beta},
                  {"bos", options.bos.has_value()},
                  {"judge", std::string("the model itself")},
                  {"interval", std::string("95 % bootstrap over documents")}};
  std::vector<Sums> sums;
  for (size_t i = 0; i < documents.size(); ++i) {
    const int64_t d = documents[i];
    const auto with_all = losses(scorer, corpus, d, first, end, options.window, end - first, options.bos);
    const auto with_few = losses(scorer, corpus, d, first, end, options.short_window,
                                 std::max<int64_t>(1, options.short_window / 4), options.bos);
    sums.push_back(judge(with_all, with_few, options));
    const Sums& s = sums.back();
    out.rows.push_back({{"document", corpus.name(d)},
                        {"tokens", s.tokens},
                        {"key_tokens", s.key_tokens},
                        {"nll", s.nll / static_cast<double>(s.tokens)},
                        {"key_nll", s.key_nll / static_cast<double>(std::max<int64_t>(1, s.key_tokens))}});
    if (options.progress) options.progress(static_cast<int64_t>(i) + 1, static_cast<int64_t>(documents.size()));
  }
  out.totals.push_back(total_of(sums, options));
  return out;
}

}  // namespace rw
