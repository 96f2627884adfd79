// Probabilities of given tokens from a model: windows in padded batches, logits in chunks.
#include "eval/scorer.h"

#include <algorithm>
#include <cmath>

#include "autograd/ops/concat.h"
#include "autograd/ops/loss.h"
#include "autograd/tape.h"

namespace rw {
namespace {

void check_window(const ScoreWindow& w, int64_t vocab) {
  const int64_t size = static_cast<int64_t>(w.ids.size());
  check(size > 0, "eval", "a window to score is empty");
  check(w.first >= 1 && w.first <= size, "eval", "scored tokens must begin in [1, ", size, "], got ", w.first);
  for (size_t i = 0; i < w.ids.size(); ++i) {
    check(w.ids[i] >= 0 && w.ids[i] < vocab, "eval", "token id ", w.ids[i], " at ", i, " is outside the vocabulary of ",
          vocab, ": do model and tokenizer belong together?");
  }
}

/// Most likely token and the margin of `target` over the best other one, from one row of logits.
void add_details(const float* logits, int64_t vocab, int32_t target, TokenScore& score) {
  int32_t best = 0, best_other = target == 0 ? 1 : 0;
  for (int64_t v = 1; v < vocab; ++v) {
    if (logits[v] > logits[best]) best = static_cast<int32_t>(v);
    if (v != target && logits[v] > logits[best_other]) best_other = static_cast<int32_t>(v);
  }
  score.best = best;
  // The normaliser cancels: a difference of logits is a difference of log-probabilities.
  score.margin = vocab > 1 ? static_cast<double>(logits[target]) - logits[best_other] : 0.0;
}

}  // namespace

std::vector<std::vector<int32_t>> TokenScorer::greedy_all(std::span<const GreedyRequest> requests,
                                                          const std::function<void(int64_t)>& done) {
  std::vector<std::vector<int32_t>> out;
  for (const GreedyRequest& r : requests) {
    out.push_back(greedy(r.prompt, r.tokens, r.stop));
    if (done) done(static_cast<int64_t>(out.size()));
  }
  return out;
}

ModelScorer::ModelScorer(const CausalLm& model, const ScorerOptions& options)
    : model_(model),
      batch_tokens_(options.batch_tokens > 0 ? options.batch_tokens : (model.device().is_cuda() ? 65536 : 4096)),
      together_(options.together) {}

int64_t ModelScorer::windows_per_batch(int64_t tokens) const {
  return std::max<int64_t>(1, batch_tokens_ / std::max<int64_t>(1, tokens));
}

bool ModelScorer::depends_on_length() const {
  return model_.scaling().depends_on_length() || model_.config().rope.logn == LogN::constant;
}

const RopeAngles& ModelScorer::angles(int64_t tokens, int64_t length) {
  if (tokens != angle_tokens_ || length != angle_length_) {
    angles_ = model_.angles(model_.plain_positions(0, tokens), {.length = length});
    angle_tokens_ = tokens;
    angle_length_ = length;
  }
  return angles_;
}

std::vector<std::vector<TokenScore>> ModelScorer::score(std::span<const ScoreWindow> windows, int64_t length,
                                                        bool details) {
  std::vector<std::vector<TokenScore>> out(windows.size());
  for (size_t begin = 0; begin < windows.size();) {
    const int64_t tokens = static_cast<int64_t>(windows[begin].ids.size());
    const size_t end = std::min(windows.size(), begin + static_cast<size_t>(windows_per_batch(tokens)));
    score_batch(windows.subspan(begin, end - begin), length, details, std::span(out).subspan(begin, end - begin));
    begin = end;
  }
  return out;
}

void ModelScorer::score_batch(std::span<const ScoreWindow> windows, int64_t length, bool details,
                              std::span<std::vector<TokenScore>> out) {
  const int64_t batch = static_cast<int64_t>(windows.size());
  int64_t tokens = 0;
  for (const ScoreWindow& w : windows) {
    check_window(w, model_.config().vocab_size);
    tokens = std::max(tokens, static_cast<int64_t>(w.ids.size()));
  }
  // Log-n attention of the "constant" kind reads the number of keys off the batch: it must be the window's.
  if (model_.config().rope.logn == LogN::constant) tokens = std::max(tokens, length);

  const NoGrad no_grad;
  const Tensor ids = Tensor::zeros({batch, tokens}, DType::i32);
  std::vector<int32_t> rows, targets;  // row b T + i - 1 of the hidden states predicts token i of window b
  for (int64_t b = 0; b < batch; ++b) {
    const ScoreWindow& w = windows[static_cast<size_t>(b)];
    std::copy(w.ids.begin(), w.ids.end(), ids.data<int32_t>() + b * tokens);
    for (size_t i = static_cast<size_t>(w.first); i < w.ids.size(); ++i) {
      rows.push_back(static_cast<int32_t>(b * tokens + static_cast<int64_t>(i) - 1));
      targets.push_back(w.ids[i]);
    }
  }
  if (rows.empty()) return;
  const Var hidden = model_.forward(ids.to(model_.device()), angles(tokens, length));  // [B,T,C]
  const Tensor flat = hidden.value().view({batch * tokens, model_.config().hidden_size});
  const Var scored = index_rows(flat, Tensor::from(rows).to(model_.device()));  // [N,C]
  const std::vector<TokenScore> scores = score_rows(scored.value(), targets, details);
  auto next = scores.begin();
  for (size_t b = 0; b < windows.size(); ++b) {
    const auto count = static_cast<std::ptrdiff_t>(windows[b].ids.size()) - windows[b].first;
    out[b].assign(next, next + count);
    next += count;
  }
}

std::vector<TokenScore> ModelScorer::score_rows(const Tensor& hidden, const std::vector<int32_t>& targets,
                                                bool details) const {
  const int64_t vocab = model_.config().vocab_size, n = hidden.size(0);
  // Logits are the largest tensor here: at most 64 MiB of f32 at a time on the CPU, 512 MiB of bf16 on a GPU.
  const int64_t chunk = std::max<int64_t>(1, (int64_t{1} << (model_.device().is_cuda() ? 28 : 24)) / vocab);
  std::vector<TokenScore> out(static_cast<size_t>(n));
  for (int64_t begin = 0; begin < n; begin += chunk) {
    const int64_t end = std::min(n, begin + chunk);
    const Tensor logits = model_.logits(hidden.slice(begin, end)).value();  // [N,V]
    const Tensor wanted = Tensor::from(std::vector<int32_t>(targets.begin() + begin, targets.begin() + end));
    const Tensor nll = cross_entropy(logits, wanted.to(model_.device()), Reduction::none).value().to(kCpu);
    const std::vector<double> values = nll.to_vector();
    const Tensor host = details ? logits.to(kCpu).to(DType::f32) : Tensor();
    for (int64_t i = begin; i < end; ++i) {
      TokenScore& score = out[static_cast<size_t>(i)];
      score.nll = values[static_cast<size_t>(i - begin)];
      if (details) add_details(host.data<float>() + (i - begin) * vocab, vocab, targets[static_cast<size_t>(i)], score);
    }
  }
  return out;
}

std::vector<double> ModelScorer::score_in_chunks(std::span<const int32_t> ids, int64_t chunk) {
  check(chunk >= 2, "eval", "a chunk needs at least 2 tokens, got ", chunk);
  check_window({std::vector<int32_t>(ids.begin(), ids.end()), 1}, model_.config().vocab_size);
  const NoGrad no_grad;
  const int64_t n = static_cast<int64_t>(ids.size()), width = model_.config().hidden_size;
  KvCache cache = model_.make_cache(1, n);
  cache.exact = false;  // as published: what was computed under an earlier scale stays
  std::vector<double> nll;
  for (int64_t begin = 0; begin < n; begin += chunk) {
    const int64_t end = std::min(n, begin + chunk);
    const std::vector<int32_t> part(ids.begin() + begin, ids.begin() + end);
    const Tensor input = Tensor::from(part, {1, end - begin}).to(model_.device());
    const Tensor hidden = model_.extend(input, cache).view({end - begin, width});
    const int64_t scored = std::min(end + 1, n) - 1 - begin;  // the very last token predicts nothing
    if (scored == 0) break;
    const std::vector<int32_t> targets(ids.begin() + begin + 1, ids.begin() + begin + 1 + scored);
    for (const TokenScore& s : score_rows(hidden.slice(0, scored), targets, false)) nll.push_back(s.nll);
  }
  return nll;
}

std::vector<int32_t> ModelScorer::greedy(std::span<const int32_t> prompt, int64_t count,
                                         std::span<const int32_t> stop) {
  std::vector<int32_t> out;
  const GenerateOptions options{.tokens = count, .sampling = {.temperature = 0}, .stop = {stop.begin(), stop.end()}};
  generate(model_, {prompt.begin(), prompt.end()}, options, [&](int32_t token) {
    out.push_back(token);
    return true;
  });
  return out;
}

std::vector<std::vector<int32_t>> ModelScorer::greedy_all(std::span<const GreedyRequest> requests,
                                                          const std::function<void(int64_t)>& done) {
  return generate_greedy(model_, requests, together_, done);
}

}  // namespace rw
