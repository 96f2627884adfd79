// The protocols that measure losses on text: ppl, lastk and bins. Settings and defaults; perplexity.h and lastk.h say
// what is counted.
#include <algorithm>

#include "eval/lastk.h"
#include "eval/longppl.h"
#include "eval/perplexity.h"
#include "eval/protocol.h"
#include "tensor/error.h"

namespace rw {
namespace {

/// "1.2 M": a number of tokens, for a line of progress.
std::string about(double tokens) {
  char text[32];
  if (tokens >= 1e9) std::snprintf(text, sizeof text, "%.1f G", tokens / 1e9);
  else if (tokens >= 1e6) std::snprintf(text, sizeof text, "%.1f M", tokens / 1e6);
  else if (tokens >= 1e4) std::snprintf(text, sizeof text, "%.0f k", tokens / 1e3);
  else std::snprintf(text, sizeof text, "%.0f", tokens);
  return text;
}

/// "256" tokens, or "1/8" of each window: the stride, or the divisor. Errors: neither.
std::pair<std::optional<int64_t>, int64_t> stride_of(const std::string& text) {
  const bool share = text.starts_with("1/");
  const std::string digits = share ? text.substr(2) : text;
  const bool whole =
      !digits.empty() && digits.size() < 13 && digits.find_first_not_of("0123456789") == std::string::npos;
  const int64_t value = whole ? std::stoll(digits) : 0;
  check(value >= 1, "ppl", "--stride must be a number of tokens like 256, or a share of each window like 1/8, got '",
        text.substr(0, 40), "'");
  if (share) return {std::nullopt, value};
  return {value, 1};
}

class Ppl : public EvalProtocol {
 public:
  const char* kind() const override { return "ppl"; }
  const char* help() const override { return "perplexity under sliding windows"; }
  bool needs_data() const override { return true; }

  std::vector<Setting> settings() override {
    std::vector<Setting> s;
    protocols::add_text(s, options);
    s.push_back({.name = "max-tokens",
                 .help = "only the first N tokens of each document (0: all)",
                 .target = &options.max_tokens,
                 .low = 0,
                 .high = kMostCount,
                 .common = true});
    s.push_back({.name = "window",
                 .help = "tokens of a window, BOS included, e.g. 512,2048 (default: the model's own window)",
                 .target = &windows_,
                 .low = 1,
                 .high = kMostCount,
                 .common = true});
    s.push_back({.name = "stride",
                 .help = "tokens from one window to the next, or a share of each window (default: 1/2, which reads a "
                         "token twice; 1/8 reads it 8 times)",
                 .target = &stride_,
                 .common = true});
    s.push_back({.name = "as-length",
                 .help = "the RoPE scale of sequences of this length at every window",
                 .target = &as_length_,
                 .low = 1,
                 .high = kMostCount});
    s.push_back({.name = "min-tokens",
                 .help = "leave out documents with fewer tokens",
                 .target = &min_tokens_,
                 .low = 0,
                 .high = kMostCount});
    s.push_back({.name = "weighting",
                 .help = "token, or window (the mean of window means, as YaRN's code)",
                 .target = &weighting_,
                 .choices = {"token", "window"},
                 .shows_default = true});
    s.push_back({.name = "truncate",
                 .help = "one pass over the first window of each document (PoSE Fig. 4)",
                 .target = &truncate_});
    s.push_back({.name = "chunked",
                 .help = "read the window in chunks over a KV cache (CLEX's evaluation)",
                 .target = &chunked_,
                 .excludes = {"truncate"}});
    s.push_back({.name = "chunk",
                 .help = "tokens of a chunk (default: the trained window)",
                 .target = &chunk_,
                 .low = 1,
                 .high = kMostCount});
    return s;
  }

  std::string plan(const EvalSubject& s) const override {
    const PerplexityOptions o = choose(s);
    const PerplexityCost cost = perplexity_cost(s.corpus, o);
    std::string windows;
    for (const int64_t w : o.windows) windows += cat(windows.empty() ? "" : ",", w);
    std::string text = cat("perplexity of ", cost.documents, cost.documents == 1 ? " document" : " documents",
                           " under windows of ", windows);
    if (o.mode == PerplexityMode::sliding)
      text += o.stride ? cat(", stride ", *o.stride) : cat(", stride 1/", o.stride_divisor, " of a window");
    text += cat(": ", about(cost.read), " tokens to read for ", about(cost.scored), " scored ones");
    if (cost.read > 4 * cost.scored) text += " (a longer --stride reads fewer)";
    const int64_t widest = *std::max_element(o.windows.begin(), o.windows.end());
    if (widest > s.window()) text += cat("; the model's window is ", s.window());
    if (widest > cost.longest)
      text += cat("; a window of ", widest, " is longer than every document, and no token has more than ", cost.longest,
                  " before it");
    return text;
  }

 protected:
  EvalResult evaluate(EvalSubject& s, const Progress& progress) const override {
    PerplexityOptions o = choose(s);
    o.byte_count = [&](std::span<const int32_t> ids) { return static_cast<int64_t>(s.tokenizer.decode(ids).size()); };
    o.progress = progress;
    return to_eval_result(evaluate_perplexity(s.scorer, s.corpus, o), o);
  }

 private:
  PerplexityOptions choose(const EvalSubject& s) const {
    const auto [stride, divisor] = stride_of(stride_);
    return {.windows = windows_.empty() ? std::vector<int64_t>{s.window()} : windows_,
            .stride = stride,
            .stride_divisor = divisor,
            .as_length = as_length_,
            .max_tokens = options.max_tokens,
            .min_tokens = min_tokens_,
            .documents = options.documents,
            .bos = s.bos,
            .mode = truncate_  ? PerplexityMode::truncate
                    : chunked_ ? PerplexityMode::chunked
                               : PerplexityMode::sliding,
            .weighting = weighting_ == "window" ? Weighting::window : Weighting::token,
            .chunk = chunk_ > 0 ? chunk_ : s.trained_window(),
            .seed = options.seed};
  }

  std::vector<int64_t> windows_;
  int64_t as_length_ = 0, min_tokens_ = 0, chunk_ = 0;
  std::string stride_ = "1/2", weighting_ = "token";
  bool truncate_ = false, chunked_ = false;
};

class LastK : public EvalProtocol {
 public:
  const char* kind() const override { return "lastk"; }
  const char* help() const override { return "loss of the same last tokens under growing contexts, paired"; }
  bool needs_data() const override { return true; }

  std::vector<Setting> settings() override {
    std::vector<Setting> s;
    protocols::add_text(s, options);
    s.push_back({.name = "window",
                 .other_name = "context",
                 .help = "contexts, e.g. 128,512,2048 (default: a quarter, half and all of the trained window, and the "
                         "model's own)",
                 .target = &windows_,
                 .low = 1,
                 .high = kMostCount,
                 .common = true});
    s.push_back({.name = "last",
                 .help = "tokens that are scored",
                 .target = &own_.last,
                 .low = 1,
                 .high = kMostCount,
                 .shows_default = true});
    s.push_back({.name = "targets",
                 .help = "places in each document",
                 .target = &own_.targets,
                 .low = 1,
                 .high = kMostCount,
                 .shows_default = true});
    s.push_back({.name = "reference",
                 .help = "context that differences are taken against (default: the trained window)",
                 .target = &own_.reference,
                 .low = 0,
                 .high = kMostCount});
    return s;
  }

 protected:
  EvalResult evaluate(EvalSubject& s, const Progress& progress) const override {
    const int64_t trained = s.trained_window();
    LastKOptions o = own_;
    o.contexts = windows_;
    if (windows_.empty()) {
      o.contexts = {trained / 4, trained / 2, trained};
      for (int64_t w = 2 * trained; w < s.window(); w *= 2) o.contexts.push_back(w);
      if (s.window() > trained) o.contexts.push_back(s.window());
      // What leaves nothing before the scored tokens is no context.
      std::erase_if(o.contexts, [&](int64_t c) { return c <= o.last; });
    }
    if (o.reference == 0 && std::count(o.contexts.begin(), o.contexts.end(), trained)) o.reference = trained;
    o.documents = options.documents;
    o.bos = s.bos;
    o.seed = options.seed;
    o.progress = progress;
    return to_eval_result(evaluate_last_k(s.scorer, s.corpus, o), o);
  }

 private:
  std::vector<int64_t> windows_;
  LastKOptions own_;
};

class Bins : public EvalProtocol {
 public:
  const char* kind() const override { return "bins"; }
  const char* help() const override { return "mean loss by token index"; }
  bool needs_data() const override { return true; }

  std::vector<Setting> settings() override {
    std::vector<Setting> s;
    protocols::add_text(s, options);
    s.push_back({.name = "window",
                 .help = "tokens read of each document (default: the model's own window)",
                 .target = &window_,
                 .low = 1,
                 .high = kMostCount,
                 .common = true});
    s.push_back({.name = "bin",
                 .help = "token indices in one bin (default: an eighth of the trained window)",
                 .target = &bin_,
                 .low = 1,
                 .high = kMostCount});
    return s;
  }

 protected:
  EvalResult evaluate(EvalSubject& s, const Progress& progress) const override {
    const BinsOptions o{.window = window_ > 0 ? window_ : s.window(),
                        .bin = bin_ > 0 ? bin_ : std::max<int64_t>(1, s.trained_window() / 8),
                        .documents = options.documents,
                        .bos = s.bos,
                        .seed = options.seed,
                        .progress = progress};
    return to_eval_result(evaluate_bins(s.scorer, s.corpus, o), o);
  }

 private:
  int64_t window_ = 0, bin_ = 0;
};

class LongPpl : public EvalProtocol {
 public:
  const char* kind() const override { return "longppl"; }
  const char* help() const override { return "perplexity of the tokens that the long context decides (LongPPL)"; }
  bool needs_data() const override { return true; }

  std::vector<Setting> settings() override {
    std::vector<Setting> s;
    protocols::add_text(s, options);
    s.push_back({.name = "window",
                 .help = "tokens of the long context (default: the model's own window)",
                 .target = &window_,
                 .low = 16,
                 .high = kMostCount,
                 .common = true});
    s.push_back({.name = "short-window",
                 .help = "tokens of the short context (default: the trained window, or half of the long one)",
                 .target = &short_,
                 .low = 8,
                 .high = kMostCount,
                 .common = true});
    s.push_back({.name = "alpha",
                 .help = "a key token gains more than this from the long context, nats",
                 .target = &alpha_,
                 .low = -100,
                 .high = 100,
                 .shows_default = true});
    s.push_back({.name = "beta",
                 .help = "and has a log-probability above this",
                 .target = &beta_,
                 .low = -100,
                 .high = 100,
                 .shows_default = true});
    return s;
  }

 protected:
  EvalResult evaluate(EvalSubject& s, const Progress& progress) const override {
    const int64_t window = window_ > 0 ? window_ : s.window();
    const int64_t trained = s.trained_window() < window ? s.trained_window() : window / 2;
    return evaluate_long_ppl(s.scorer, s.corpus,
                             {.window = window,
                              .short_window = short_ > 0 ? short_ : trained,
                              .alpha = alpha_,
                              .beta = beta_,
                              .documents = options.documents,
                              .bos = s.bos,
                              .seed = options.seed,
                              .progress = progress});
  }

 private:
  int64_t window_ = 0, short_ = 0;
  double alpha_ = 2, beta_ = -2;
};

}  // namespace

namespace protocols {

std::unique_ptr<EvalProtocol> ppl() { return std::make_unique<Ppl>(); }
std::unique_ptr<EvalProtocol> lastk() { return std::make_unique<LastK>(); }
std::unique_ptr<EvalProtocol> bins() { return std::make_unique<Bins>(); }
std::unique_ptr<EvalProtocol> longppl() { return std::make_unique<LongPpl>(); }

}  // namespace protocols
}  // namespace rw
