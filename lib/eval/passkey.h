// Passkey and needle: does the model find a number that it read far back? (METHODS.md 7.3, 7.4)
//
// The answer is scored teacher-forced. A trial succeeds if every token of the answer is the most likely one, given the
// prompt and the answer's tokens before it. Greedy generation would begin with exactly these tokens. The margin is a
// continuous measure of the same: the log-probability of the right token less that of the best other one, as a mean
// over the answer. With `greedy`, text is generated too, and its first number is compared, as YaRN's code does.
#pragma once
#include <optional>
#include <vector>

#include "data/corpus.h"
#include "eval/records.h"
#include "eval/retrieval.h"
#include "eval/scorer.h"

namespace rw {

struct PasskeyOptions {
  std::vector<int64_t> lengths = {512};  // tokens of the whole prompt, answer included
  /// Where the key lies: at these distances from the answer (PI's protocol; those beyond a length are left out), or at
  /// these depths (needle grid). If both are empty, every trial draws a uniform depth of its own.
  std::vector<int64_t> distances = {};
  std::vector<double> depths = {};
  int64_t trials = 32;  // per length and place
  bool greedy = false;
  uint64_t seed = 0;
  Progress progress = {};
};

struct PasskeyTrial {
  int64_t group = 0;
  int64_t distance = 0;  // as built
  std::string key;
  bool hit = false, greedy_hit = false;
  double margin = 0;
};

/// All trials of one length and place. wanted_distance or depth is -1 where it does not apply.
struct PasskeyGroup {
  int64_t length = 0, wanted_distance = -1;
  double depth = -1;
  int64_t trials = 0, hits = 0, greedy_hits = 0;
  double margin = 0, distance = 0;  // means
  double accuracy() const { return static_cast<double>(hits) / static_cast<double>(trials); }
};

struct PasskeyResult {
  std::vector<PasskeyGroup> groups;
  std::vector<PasskeyTrial> trials;
  /// PI's effective window (Table 4), in prompts of the largest length: the largest distance k of the grid for which k
  /// and all smaller distances have at least 20 % hits. 0 if the smallest already fails or there is no grid.
  int64_t k_max = 0;
  /// The largest length so that all lengths up to it have at least 20 % hits over all their trials; 0: none.
  int64_t length_20 = 0;
  /// YaRN's: the longest length with at least 80 % hits over all its trials; 0: none.
  int64_t longest_80 = 0;
  /// Needle grid: the longest length at which every depth has at least 80 %; 0: none, or no grid.
  int64_t effective_length = 0;
};

/// Errors: trials < 1, and those of RetrievalPrompts.
PasskeyResult evaluate_passkey(TokenScorer& scorer, const RetrievalPrompts& prompts, const Tokenizer& tokenizer,
                               const PasskeyOptions& options);

/// Rows are trials; totals are groups, and for uniform depth also accuracy by distance in powers of two. `kind`:
/// "passkey" or "needle".
EvalResult to_eval_result(const PasskeyResult& result, const PasskeyOptions& options, const std::string& kind);

/// i * length / count for i = 1 .. count: PI's grid with count = 32.
std::vector<int64_t> distance_grid(int64_t length, int64_t count);

}  // namespace rw
