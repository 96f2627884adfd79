// Loss of the same last tokens under growing contexts, and mean loss by token index.
#include "eval/lastk.h"

#include <algorithm>

#include "eval/statistics.h"

namespace rw {
namespace {

/// Documents with at least `length` tokens, at most `limit` of them.
std::vector<int64_t> long_documents(const TokenCorpus& corpus, int64_t length, int64_t limit, const char* op) {
  std::vector<int64_t> out;
  int64_t longest = 0;
  for (int64_t d = 0; d < corpus.documents(); ++d) {
    longest = std::max(longest, corpus.length(d));
    if (limit > 0 && static_cast<int64_t>(out.size()) == limit) break;
    if (corpus.length(d) >= length) out.push_back(d);
  }
  check(!out.empty(), op, "no document has ", length, " tokens; the longest of ", corpus.documents(), " has ", longest);
  return out;
}

/// [BOS] + document tokens, `length` in all, ending before token `end`.
std::vector<int32_t> tokens_before(const TokenCorpus& corpus, int64_t document, int64_t end, int64_t length,
                                   const std::optional<int32_t>& bos) {
  std::vector<int32_t> ids(static_cast<size_t>(length));
  if (bos) ids[0] = *bos;
  const int64_t own = length - (bos ? 1 : 0);
  corpus.read(document, end - own, std::span(ids).subspan(bos ? 1 : 0));
  return ids;
}

/// Scores windows of one length in batches; gives each window's scores to `take(index, scores)`.
template <class Take>
void score_all(TokenScorer& scorer, int64_t count, int64_t length, const std::function<ScoreWindow(int64_t)>& make,
               Take take, const std::function<void(int64_t)>& done) {
  const int64_t batch = scorer.windows_per_batch(length);
  for (int64_t begin = 0; begin < count; begin += batch) {
    const int64_t end = std::min(count, begin + batch);
    std::vector<ScoreWindow> windows;
    for (int64_t i = begin; i < end; ++i) windows.push_back(make(i));
    const auto scores = scorer.score(windows, length);
    for (int64_t i = begin; i < end; ++i) take(i, scores[static_cast<size_t>(i - begin)]);
    done(end - begin);
  }
}

double sum_of(const std::vector<TokenScore>& scores) {
  double sum = 0;
  for (const TokenScore& s : scores) sum += s.nll;
  return sum;
}

/// Where scored stretches end: spread evenly from the first place with a full context to the document's end.
int64_t target_end(int64_t length, int64_t longest, int64_t target, int64_t targets) {
  if (targets == 1) return length;
  return longest + (length - longest) * target / (targets - 1);
}

}  // namespace

LastKResult evaluate_last_k(TokenScorer& scorer, const TokenCorpus& corpus, const LastKOptions& options) {
  constexpr const char* kOp = "lastk";
  check(!options.contexts.empty() && options.last >= 1 && options.targets >= 1, kOp,
        "needs a context, K >= 1 and at least one target per document");
  std::vector<int64_t> contexts = options.contexts;
  std::sort(contexts.begin(), contexts.end());
  contexts.erase(std::unique(contexts.begin(), contexts.end()), contexts.end());
  check(contexts[0] > options.last, kOp, "context ", contexts[0], " leaves nothing before the last ", options.last,
        " tokens");
  const int64_t reference = options.reference > 0 ? options.reference : contexts[0];
  const auto at = std::find(contexts.begin(), contexts.end(), reference);
  check(at != contexts.end(), kOp, "the reference context ", reference, " is not among the contexts");
  const std::vector<int64_t> documents = long_documents(corpus, contexts.back(), options.documents, kOp);
  const int64_t windows = static_cast<int64_t>(documents.size()) * options.targets;

  // sums[c][d]: nll over all targets of document d under context c.
  std::vector<std::vector<double>> sums(contexts.size(), std::vector<double>(documents.size()));
  int64_t done = 0, total = 0;
  for (int64_t c : contexts) total += c * windows;
  for (size_t c = 0; c < contexts.size(); ++c) {
    score_all(
        scorer, windows, contexts[c],
        [&](int64_t i) {
          const int64_t d = documents[static_cast<size_t>(i / options.targets)];
          const int64_t end = target_end(corpus.length(d), contexts.back(), i % options.targets, options.targets);
          return ScoreWindow{tokens_before(corpus, d, end, contexts[c], options.bos), contexts[c] - options.last};
        },
        [&](int64_t i, const std::vector<TokenScore>& s) {
          sums[c][static_cast<size_t>(i / options.targets)] += sum_of(s);
        },
        [&](int64_t n) {
          done += n * contexts[c];
          if (options.progress) options.progress(done, total);
        });
  }

  LastKResult result;
  const int64_t tokens = options.last * options.targets;
  const std::vector<double>& base = sums[static_cast<size_t>(at - contexts.begin())];
  for (size_t c = 0; c < contexts.size(); ++c) {
    LastKPoint p{.context = contexts[c],
                 .documents = static_cast<int64_t>(documents.size()),
                 .tokens = tokens * static_cast<int64_t>(documents.size())};
    std::vector<double> nll, difference;
    for (size_t d = 0; d < documents.size(); ++d) {
      nll.push_back(sums[c][d] / static_cast<double>(tokens));
      difference.push_back((sums[c][d] - base[d]) / static_cast<double>(tokens));
      p.nll += nll.back() / static_cast<double>(documents.size());
      p.difference += difference.back() / static_cast<double>(documents.size());
      result.rows.push_back(
          {{"document", corpus.name(documents[d])}, {"context", contexts[c]}, {"tokens", tokens}, {"nll", nll.back()}});
    }
    const Interval i = bootstrap_mean(nll, options.seed), j = bootstrap_mean(difference, options.seed);
    p.nll_low = i.low;
    p.nll_high = i.high;
    p.difference_low = j.low;
    p.difference_high = j.high;
    result.points.push_back(p);
  }
  return result;
}

EvalResult to_eval_result(const LastKResult& result, const LastKOptions& options) {
  EvalResult out;
  out.kind = "lastk";
  out.protocol = {{"last", options.last},
                  {"targets_per_document", options.targets},
                  {"bos", options.bos.has_value()},
                  {"difference", std::string("paired by document, against the reference context")},
                  {"interval", std::string("95 % bootstrap over documents")}};
  out.rows = result.rows;
  for (const LastKPoint& p : result.points) {
    out.totals.push_back({{"context", p.context},
                          {"documents", p.documents},
                          {"tokens", p.tokens},
                          {"nll", p.nll},
                          {"nll_low", p.nll_low},
                          {"nll_high", p.nll_high},
                          {"difference", p.difference},
                          {"difference_low", p.difference_low},
                          {"difference_high", p.difference_high}});
  }
  return out;
}

std::vector<Bin> evaluate_bins(TokenScorer& scorer, const TokenCorpus& corpus, const BinsOptions& options) {
  constexpr const char* kOp = "bins";
  check(options.bin >= 1 && options.window >= 2, kOp,
        "needs a bin of at least 1 and a window of at least 2 tokens, got ", options.bin, " and ", options.window);
  const int64_t own = options.window - (options.bos ? 1 : 0);
  const std::vector<int64_t> documents = long_documents(corpus, own, options.documents, kOp);
  const int64_t count = static_cast<int64_t>(documents.size());
  const size_t bins = static_cast<size_t>((options.window + options.bin - 1) / options.bin);
  // sums[b][d] of document d in bin b
  std::vector<std::vector<double>> sums(bins, std::vector<double>(documents.size()));
  int64_t done = 0;
  score_all(
      scorer, count, options.window,
      [&](int64_t i) {
        return ScoreWindow{tokens_before(corpus, documents[static_cast<size_t>(i)], own, options.window, options.bos),
                           1};
      },
      [&](int64_t i, const std::vector<TokenScore>& s) {
        for (size_t j = 0; j < s.size(); ++j) {
          sums[(j + 1) / static_cast<size_t>(options.bin)][static_cast<size_t>(i)] += s[j].nll;
        }
      },
      [&](int64_t n) {
        done += n * options.window;
        if (options.progress) options.progress(done, count * options.window);
      });
  std::vector<Bin> out;
  for (size_t b = 0; b < bins; ++b) {
    const int64_t begin = static_cast<int64_t>(b) * options.bin;
    Bin bin{.begin = begin, .end = std::min(options.window, begin + options.bin)};
    const int64_t each = bin.end - std::max<int64_t>(bin.begin, 1);  // token 0 is not predicted
    if (each == 0) continue;
    bin.tokens = each * count;
    for (double& s : sums[b]) {
      s /= static_cast<double>(each);
      bin.nll += s / static_cast<double>(count);
    }
    const Interval i = bootstrap_mean(sums[b], options.seed, 500);
    bin.low = i.low;
    bin.high = i.high;
    out.push_back(bin);
  }
  return out;
}

EvalResult to_eval_result(const std::vector<Bin>& bins, const BinsOptions& options) {
  EvalResult out;
  out.kind = "bins";
  out.protocol = {{"window", options.window},
                  {"bin", options.bin},
                  {"bos", options.bos.has_value()},
                  {"index", std::string("of the token in the window, BOS included")},
                  {"interval", std::string("95 % bootstrap over documents")}};
  for (const Bin& b : bins) {
    out.totals.push_back({{"begin", b.begin},
                          {"end", b.end},
                          {"tokens", b.tokens},
                          {"nll", b.nll},
                          {"nll_low", b.low},
                          {"nll_high", b.high}});
  }
  return out;
}

}  // namespace rw
