// What an evaluation asks of a model: probabilities of given tokens, and greedy continuations.
//
// Every protocol in this folder goes through TokenScorer. So tests can use a model with known probabilities instead of
// a LLaMA, and batching is written once.
#pragma once
#include <cstdint>
#include <functional>
#include <span>
#include <vector>

#include "nn/generate.h"

namespace rw {

/// A run of tokens of which the last ones are scored: token i >= first is predicted from tokens 0 .. i-1.
struct ScoreWindow {
  std::vector<int32_t> ids;
  int64_t first = 1;  // in [1, ids.size()]
};

struct TokenScore {
  double nll = 0;     // -log p(token), nats
  int32_t best = -1;  // most likely token (smallest id on a tie); with details only
  double margin = 0;  // log p(token) - log p(best other token); with details only
};

/// Thread safety: none, unless a scorer says more.
class TokenScorer {
 public:
  virtual ~TokenScorer() = default;

  /// Scores of each window's tokens first .. end. `length`: the sequence length that length-dependent RoPE kinds
  /// (dynamic NTK, LongRoPE, CLEX, E2) take their scale from, whatever the windows' own lengths. Errors: an empty
  /// window, `first` outside it, an id beyond the vocabulary, a length that the RoPE kind does not support.
  virtual std::vector<std::vector<TokenScore>> score(std::span<const ScoreWindow> windows, int64_t length,
                                                     bool details = false) = 0;

  /// -log p of ids 1 .. end, when the sequence is read in chunks over a KV cache (CLEX's published evaluation). The
  /// RoPE scale follows the length read so far. Earlier keys and values stay as they were.
  virtual std::vector<double> score_in_chunks(std::span<const int32_t> ids, int64_t chunk) = 0;

  /// Up to `count` most likely tokens after the prompt, one after another; ends before a token of `stop`.
  virtual std::vector<int32_t> greedy(std::span<const int32_t> prompt, int64_t count,
                                      std::span<const int32_t> stop = {}) = 0;
  /// The same for several prompts, which a scorer may continue together. `done` is called with how many are done.
  virtual std::vector<std::vector<int32_t>> greedy_all(std::span<const GreedyRequest> requests,
                                                       const std::function<void(int64_t)>& done = {});

  /// How many windows of so many tokens one forward takes.
  virtual int64_t windows_per_batch(int64_t tokens) const = 0;
  /// True if the same tokens score differently under another `length`.
  virtual bool depends_on_length() const = 0;
};

/// Prompts that an evaluation hands to greedy_all() at once, so that they need not all be in memory.
inline constexpr int64_t kPromptsAtOnce = 64;

struct ScorerOptions {
  int64_t batch_tokens = 0;  // tokens of one forward; 0: 4096 on the CPU, 65536 on a GPU
  int64_t together = 0;      // texts that are continued together; 0: as generate_greedy() chooses
};

/// Scores with a CausalLm. Windows of a batch are padded on the right, which changes nothing under a causal mask. Only
/// the hidden states that predict a scored token are multiplied by the head. Thread safety: none.
class ModelScorer : public TokenScorer {
 public:
  /// `model` must outlive the scorer.
  explicit ModelScorer(const CausalLm& model, const ScorerOptions& options = {});

  std::vector<std::vector<TokenScore>> score(std::span<const ScoreWindow> windows, int64_t length,
                                             bool details = false) override;
  std::vector<double> score_in_chunks(std::span<const int32_t> ids, int64_t chunk) override;
  std::vector<int32_t> greedy(std::span<const int32_t> prompt, int64_t count,
                              std::span<const int32_t> stop = {}) override;
  std::vector<std::vector<int32_t>> greedy_all(std::span<const GreedyRequest> requests,
                                               const std::function<void(int64_t)>& done = {}) override;
  int64_t windows_per_batch(int64_t tokens) const override;
  bool depends_on_length() const override;

 private:
  void score_batch(std::span<const ScoreWindow> windows, int64_t length, bool details,
                   std::span<std::vector<TokenScore>> out);
  std::vector<TokenScore> score_rows(const Tensor& hidden, const std::vector<int32_t>& targets, bool details) const;
  const RopeAngles& angles(int64_t tokens, int64_t length);

  const CausalLm& model_;
  int64_t batch_tokens_, together_;
  int64_t angle_tokens_ = -1, angle_length_ = -1;  // what angles_ was made for
  RopeAngles angles_;
};

}  // namespace rw
