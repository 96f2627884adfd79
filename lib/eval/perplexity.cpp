// Perplexity under sliding, truncated and chunked windows: which tokens are read and scored, and the sums over them.
#include "eval/perplexity.h"

#include <algorithm>
#include <cmath>
#include <map>
#include <numeric>

#include "eval/statistics.h"

namespace rw {
namespace {

constexpr const char* kOp = "perplexity";

/// One forward's worth of one document: window ids and which row it counts for.
struct Job {
  size_t row;  // index into PerplexityResult::rows
  int64_t document;
  SlidingSpan span;
};

int64_t stride_of(const PerplexityOptions& options, int64_t window) {
  const int64_t stride = options.stride.value_or(std::max<int64_t>(1, window / options.stride_divisor));
  check(window >= 2, kOp, "a window needs at least 2 tokens, got ", window);
  check(stride >= 1 && stride <= window, kOp, "stride must be in [1, ", window, "] for window ", window, ", got ",
        stride);
  return stride;
}

/// Documents that take part, and how many tokens of each.
std::vector<std::pair<int64_t, int64_t>> choose_documents(const TokenCorpus& corpus, const PerplexityOptions& options) {
  std::vector<std::pair<int64_t, int64_t>> chosen;
  const int64_t least = std::max(options.min_tokens, int64_t{options.bos ? 1 : 2});  // one scored token
  int64_t longest = 0;
  for (int64_t d = 0; d < corpus.documents(); ++d) {
    if (options.documents > 0 && static_cast<int64_t>(chosen.size()) == options.documents) break;
    const int64_t length = corpus.length(d);
    longest = std::max(longest, length);
    if (length < least) continue;
    chosen.emplace_back(d, options.max_tokens > 0 ? std::min(length, options.max_tokens) : length);
  }
  check(!chosen.empty(), kOp, "no document has ", least, " tokens; the longest of ", corpus.documents(), " has ",
        longest);
  return chosen;
}

/// [BOS] + document tokens [begin, end).
std::vector<int32_t> window_ids(const TokenCorpus& corpus, int64_t document, int64_t begin, int64_t end,
                                const std::optional<int32_t>& bos) {
  std::vector<int32_t> ids(static_cast<size_t>(end - begin) + (bos ? 1 : 0));
  if (bos) ids[0] = *bos;
  corpus.read(document, begin, std::span(ids).subspan(bos ? 1 : 0));
  return ids;
}

class Evaluation {
 public:
  Evaluation(TokenScorer& scorer, const TokenCorpus& corpus, const PerplexityOptions& options)
      : scorer_(scorer), corpus_(corpus), options_(options), documents_(choose_documents(corpus, options)) {
    check(!options.windows.empty(), kOp, "no window given");
    for (const int64_t window : options.windows)
      check(options.as_length == 0 || options.as_length >= window, kOp, "as_length must be 0 or at least the window ",
            window, ", got ", options.as_length);
    check(options.as_length == 0 || options.mode != PerplexityMode::chunked, kOp,
          "as_length has no meaning in chunks, whose scale follows the tokens read");
    check(options.documents >= 0, kOp, "documents must not be negative, got ", options.documents);
    check(options.max_tokens == 0 || options.max_tokens >= 2, kOp, "max_tokens must be 0 (all) or at least 2, got ",
          options.max_tokens);
  }

  PerplexityResult run() {
    make_rows();
    if (options_.progress) options_.progress(0, total_);  // a first long window may take a while
    for (size_t w = 0; w < options_.windows.size(); ++w) {
      if (options_.mode == PerplexityMode::chunked) run_chunked(w);
      else if (options_.mode == PerplexityMode::sliding) run_jobs(w, sliding_jobs(w));
      else if (!nested() || w == longest_window()) run_jobs(w, sliding_jobs(w));
    }
    count_bytes();
    for (size_t w = 0; w < options_.windows.size(); ++w) add_total(w);
    return std::move(result_);
  }

 private:
  bool nested() const { return options_.mode == PerplexityMode::truncate && !scorer_.depends_on_length(); }
  size_t longest_window() const {
    return static_cast<size_t>(std::max_element(options_.windows.begin(), options_.windows.end()) -
                               options_.windows.begin());
  }
  size_t row_of(size_t w, size_t document) const { return w * documents_.size() + document; }
  /// Document tokens that a window holds.
  int64_t capacity(int64_t window) const { return window - (options_.bos ? 1 : 0); }

  void make_rows() {
    for (int64_t window : options_.windows) {
      const int64_t stride = stride_of(options_, window);
      for (const auto& [document, tokens] : documents_) {
        PerplexityRow row;
        row.document = corpus_.name(document);
        row.window = window;
        row.stride = options_.mode == PerplexityMode::sliding ? stride : window;
        const int64_t used = options_.mode == PerplexityMode::sliding ? tokens : std::min(tokens, capacity(window));
        total_ += used - (options_.bos ? 0 : 1);
        used_.push_back(used);
        result_.rows.push_back(std::move(row));
      }
    }
  }

  std::vector<Job> sliding_jobs(size_t w) const {
    std::vector<Job> jobs;
    for (size_t d = 0; d < documents_.size(); ++d) {
      const size_t row = row_of(w, d);
      for (const SlidingSpan& span :
           sliding_spans(used_[row], options_.windows[w], result_.rows[row].stride, options_.bos.has_value())) {
        jobs.push_back({row, documents_[d].first, span});
      }
    }
    // Windows of like length share a batch, so that little is padding. The sums below go in document order regardless.
    std::stable_sort(jobs.begin(), jobs.end(),
                     [](const Job& a, const Job& b) { return a.span.end - a.span.begin > b.span.end - b.span.begin; });
    return jobs;
  }

  void run_jobs(size_t w, const std::vector<Job>& jobs) {
    const int64_t window = options_.windows[w];
    for (size_t begin = 0; begin < jobs.size();) {
      const int64_t length = jobs[begin].span.end - jobs[begin].span.begin + (options_.bos ? 1 : 0);
      const size_t end = std::min(jobs.size(), begin + static_cast<size_t>(scorer_.windows_per_batch(length)));
      std::vector<ScoreWindow> windows;
      for (size_t j = begin; j < end; ++j) {
        const Job& job = jobs[j];
        windows.push_back({window_ids(corpus_, job.document, job.span.begin, job.span.end, options_.bos),
                           job.span.first - job.span.begin + (options_.bos ? 1 : 0)});
      }
      const auto scores = scorer_.score(windows, options_.as_length > 0 ? options_.as_length : window);
      for (size_t j = begin; j < end; ++j) count_window(w, jobs[j], scores[j - begin]);
      begin = end;
    }
  }

  void count_window(size_t w, const Job& job, const std::vector<TokenScore>& scores) {
    if (!nested()) {
      std::vector<double> nll;
      for (const TokenScore& s : scores) nll.push_back(s.nll);
      count(result_.rows[job.row], nll, 1.0);
      return;
    }
    // Under a causal mask and fixed frequencies, the first tokens of a long window score as in a short one.
    const size_t document = job.row - row_of(w, 0);
    for (size_t other = 0; other < options_.windows.size(); ++other) {
      PerplexityRow& row = result_.rows[row_of(other, document)];
      const int64_t tokens = used_[row_of(other, document)] - (options_.bos ? 0 : 1);
      std::vector<double> nll;
      for (int64_t i = 0; i < tokens; ++i) nll.push_back(scores[static_cast<size_t>(i)].nll);
      count(row, nll, 1.0);
    }
  }

  /// Adds one window's losses to its row; `chunk_weight` as a multiple of the number of tokens (chunked).
  void count(PerplexityRow& row, const std::vector<double>& nll, double chunk_weight) {
    const double sum = std::accumulate(nll.begin(), nll.end(), 0.0), n = static_cast<double>(nll.size());
    check(!std::isnan(sum), kOp, "the model gives NaN on document ", row.document, " at window ", row.window);
    const bool per_window = options_.weighting == Weighting::window;
    row.nll_sum += sum;
    row.tokens += static_cast<int64_t>(nll.size());
    row.windows += 1;
    row.numerator += (per_window ? sum / n : sum) * chunk_weight;
    row.denominator += (per_window ? 1.0 : n) * chunk_weight;
    done_ += static_cast<int64_t>(nll.size());
    if (options_.progress) options_.progress(done_, total_);
  }

  void run_chunked(size_t w) {
    check(options_.chunk >= 2, kOp, "a chunk needs at least 2 tokens, got ", options_.chunk);
    for (size_t d = 0; d < documents_.size(); ++d) {
      PerplexityRow& row = result_.rows[row_of(w, d)];
      const std::vector<int32_t> ids = window_ids(corpus_, documents_[d].first, 0, used_[row_of(w, d)], options_.bos);
      const std::vector<double> nll = scorer_.score_in_chunks(ids, options_.chunk);  // nll[i] is of ids[i + 1]
      const int64_t n = static_cast<int64_t>(ids.size());
      for (int64_t begin = 0; begin + 1 < n; begin += options_.chunk) {
        const int64_t end = std::min(n, begin + options_.chunk);
        if (end - begin < 2) break;
        // The mean over end - begin - 1 targets, weighted by end - begin tokens.
        const double weight = static_cast<double>(end - begin) / static_cast<double>(end - begin - 1);
        count(row, {nll.begin() + begin, nll.begin() + end - 1}, weight);
      }
      row.stride = options_.chunk;
    }
  }

  void count_bytes() {
    std::map<std::pair<int64_t, int64_t>, int64_t> known;  // document, tokens: the same for most windows
    if (!options_.byte_count || options_.mode == PerplexityMode::chunked) return;
    for (size_t w = 0; w < options_.windows.size(); ++w) {
      for (size_t d = 0; d < documents_.size(); ++d) {
        PerplexityRow& row = result_.rows[row_of(w, d)];
        const int64_t skipped = options_.bos ? 0 : 1;
        // Windows that neither overlap nor have a BOS leave out a token here and there: no simple number of bytes.
        if (row.tokens != used_[row_of(w, d)] - skipped) continue;
        int64_t& bytes = known[{documents_[d].first, row.tokens}];
        if (bytes == 0) {
          std::vector<int32_t> ids(static_cast<size_t>(row.tokens));
          corpus_.read(documents_[d].first, skipped, ids);
          bytes = options_.byte_count(ids);
        }
        row.bytes = bytes;
      }
    }
  }

  void add_total(size_t w) {
    PerplexityTotal total;
    std::vector<double> numerators, denominators;
    double numerator = 0, denominator = 0, nats = 0, bytes = 0;
    for (size_t d = 0; d < documents_.size(); ++d) {
      const PerplexityRow& row = result_.rows[row_of(w, d)];
      total.window = row.window;
      total.stride = row.stride;
      total.documents += 1;
      total.tokens += row.tokens;
      numerators.push_back(row.numerator);
      denominators.push_back(row.denominator);
      numerator += row.numerator;
      denominator += row.denominator;
      if (row.bytes == 0) continue;  // nats and bytes must be of the same tokens
      nats += row.nll_sum;
      bytes += static_cast<double>(row.bytes);
    }
    total.nll = numerator / denominator;
    const Interval interval = bootstrap_ratio(numerators, denominators, options_.seed);
    total.nll_low = interval.low;
    total.nll_high = interval.high;
    if (bytes > 0) total.bits_per_byte = nats / (std::log(2.0) * bytes);
    result_.totals.push_back(total);
  }

  TokenScorer& scorer_;
  const TokenCorpus& corpus_;
  const PerplexityOptions& options_;
  std::vector<std::pair<int64_t, int64_t>> documents_;  // index in the corpus, tokens used
  std::vector<int64_t> used_;                           // document tokens behind each row
  PerplexityResult result_;
  int64_t done_ = 0, total_ = 0;
};

}  // namespace

double PerplexityRow::ppl() const { return std::exp(nll()); }
double PerplexityTotal::ppl() const { return std::exp(nll); }

std::vector<SlidingSpan> sliding_spans(int64_t n, int64_t window, int64_t stride, bool bos) {
  const int64_t capacity = window - (bos ? 1 : 0);
  const int64_t step = std::min(stride, capacity);  // S = W: without overlap, and without a gap
  std::vector<SlidingSpan> spans;
  int64_t scored = 0;
  for (int64_t begin = 0; scored < n; begin += step) {
    const int64_t end = std::min(begin + capacity, n);
    // Without a BOS nothing predicts a window's first token: x[0] is left out, and so is the first token of every
    // window if they do not overlap.
    const int64_t first = std::max(scored, begin + (bos ? 0 : 1));
    if (first < end) spans.push_back({begin, first, end});
    scored = end;
  }
  return spans;
}

PerplexityCost perplexity_cost(const TokenCorpus& corpus, const PerplexityOptions& options) {
  const auto documents = choose_documents(corpus, options);
  const int64_t special = options.bos ? 1 : 0;
  PerplexityCost cost{.documents = static_cast<int64_t>(documents.size())};
  for (const auto& [document, tokens] : documents) cost.longest = std::max(cost.longest, tokens + special);
  for (const int64_t window : options.windows) {
    const int64_t stride = stride_of(options, window);
    for (const auto& [document, tokens] : documents) {
      if (options.mode != PerplexityMode::sliding) {
        const double used = static_cast<double>(std::min(tokens, window - special));
        cost.scored += used;
        cost.read += used;
        continue;
      }
      // Full windows overlap; the number of them is what the last one needs to reach the end.
      const int64_t capacity = window - special, step = std::min(stride, capacity);
      const int64_t windows = tokens <= capacity ? 1 : 1 + (tokens - capacity + step - 1) / step;
      cost.scored += static_cast<double>(tokens);
      cost.read +=
          std::min(static_cast<double>(windows) * static_cast<double>(window),
                   static_cast<double>(tokens) + static_cast<double>(windows - 1) * static_cast<double>(window - step));
    }
  }
  return cost;
}

PerplexityResult evaluate_perplexity(TokenScorer& scorer, const TokenCorpus& corpus, const PerplexityOptions& options) {
  return Evaluation(scorer, corpus, options).run();
}

EvalResult to_eval_result(const PerplexityResult& result, const PerplexityOptions& options) {
  const char* mode = options.mode == PerplexityMode::sliding    ? "sliding"
                     : options.mode == PerplexityMode::truncate ? "truncate"
                                                                : "chunked";
  EvalResult out;
  out.kind = "ppl";
  out.protocol = {{"mode", std::string(mode)},
                  {"weighting", std::string(options.weighting == Weighting::token ? "token" : "window")},
                  {"bos", options.bos.has_value()},
                  {"max_tokens", options.max_tokens},
                  {"positions", std::string("restart at 0 in every window")},
                  {"scale", options.mode == PerplexityMode::chunked ? "from the tokens read so far"
                            : options.as_length > 0                 ? cat("of a length of ", options.as_length)
                                                                    : std::string("from the window")},
                  {"nll", std::string("mean nats per scored token")},
                  {"interval", std::string("95 % bootstrap over documents")}};
  for (const PerplexityRow& row : result.rows) {
    Record record{{"document", row.document}, {"window", row.window}, {"stride", row.stride},
                  {"tokens", row.tokens},     {"nll", row.nll()},     {"ppl", row.ppl()}};
    if (row.bytes > 0) record.set("bytes", row.bytes);
    out.rows.push_back(std::move(record));
  }
  for (const PerplexityTotal& total : result.totals) {
    Record record{{"window", total.window},
                  {"stride", total.stride},
                  {"documents", total.documents},
                  {"tokens", total.tokens},
                  {"nll", total.nll},
                  {"ppl", total.ppl()},
                  {"ppl_low", std::exp(total.nll_low)},
                  {"ppl_high", std::exp(total.nll_high)}};
    if (!std::isnan(total.bits_per_byte)) record.set("bits_per_byte", total.bits_per_byte);
    out.totals.push_back(std::move(record));
  }
  return out;
}

}  // namespace rw
