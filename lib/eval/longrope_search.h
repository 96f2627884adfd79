// LongRoPE's search (Ding et al. 2024, arXiv 2402.13753, algorithm 1): which divisor each pair of a head should have.
// By evolution, with the loss of a trained model at the target length as the judge.
//
//   LongRopeSearch search(base, 4096, {.seed = 1});
//   while (!search.done()) search.step([&](const RopeConfig& recipe) { return loss_under(recipe); });
//   rope_scaling_to_json(search.recipe(search.best()))        // "longrope": transformers reads it
//
// A candidate is D/2 divisors in [1, 1.25 s], multiples of 0.01 that never fall from pair to pair (faster pairs are
// stretched less), and an attention scale A. The first candidates are PI, NTK and YaRN, and mutants of them; each
// generation the best ones are parents of mutants and crosses. A is the paper's sqrt(1 + ln s / ln L), YaRN's or 1.
//
// With `start_tokens` a candidate also has n^, the number of first tokens that are not interpolated, among 0, 1, 2, 4,
// .. 256 (the paper's table). transformers cannot state n^ and would leave it out: the default searches without.
#pragma once
#include <functional>
#include <string>
#include <vector>

#include "rope/scaling.h"
#include "tensor/random.h"

namespace rw {

struct LongRopeCandidate {
  std::vector<double> factors;  // [D/2]
  double attention = 1;         // A
  double loss = 0;              // nats per token; smaller is better
  std::string origin;           // "linear", "ntk", "yarn", "mutant", "cross"
  int64_t start = 0;            // n^
};

struct LongRopeSearchOptions {
  int64_t population = 16;           // the paper: 64
  int64_t parents = 6;               // the paper: 32
  int64_t mutants = 8, crosses = 4;  // new candidates of a generation; the paper: 16 and 16
  int64_t generations = 12;          // the paper: 40
  double mutation_rate = 0.3;        // share of pairs that a mutation changes
  bool start_tokens = false;         // search n^, too
  uint64_t seed = 1;
  std::string judge = {};  // what gives the losses, in words: a search goes on with the same judge only
  bool operator==(const LongRopeSearchOptions&) const = default;
};

/// The loss of the model under a recipe, nats per token.
using LongRopeLoss = std::function<double(const RopeConfig& recipe)>;

/// Thread safety: none.
class LongRopeSearch {
 public:
  /// `base`: the model's recipe before it is extended. Errors: a base that is not plain RoPE, a target that is not
  /// beyond its window, options out of range (named).
  LongRopeSearch(const RopeConfig& base, int64_t target, const LongRopeSearchOptions& options);

  /// One generation; the first judges the first candidates. Nothing changes if `loss` throws.
  void step(const LongRopeLoss& loss);
  int64_t generation() const { return static_cast<int64_t>(best_losses_.size()); }
  bool done() const { return generation() > options_.generations; }

  const LongRopeCandidate& best() const;
  /// The candidates that began the search, by name, with their losses.
  const std::vector<LongRopeCandidate>& known() const { return known_; }
  const std::vector<double>& best_losses() const { return best_losses_; }      // after each generation
  const std::vector<double>& median_losses() const { return median_losses_; }  // of the candidates that live on

  /// `longrope` with this candidate's divisors beyond the window of pre-training and none within it.
  RopeConfig recipe(const LongRopeCandidate& candidate) const;
  double factor() const { return factor_; }

  /// All that the search knows, as JSON; and back. Errors: not such a file, another base, target or options (named).
  std::string to_json() const;
  void from_json(const std::string& text, const std::string& name);

 private:
  LongRopeCandidate mutant(const LongRopeCandidate& parent, Random& random) const;
  LongRopeCandidate cross(const LongRopeCandidate& a, const LongRopeCandidate& b, Random& random) const;
  void make_valid(std::vector<double>& factors) const;

  RopeConfig base_;
  int64_t target_;
  double factor_;  // s
  LongRopeSearchOptions options_;
  std::vector<LongRopeCandidate> known_, alive_;
  std::vector<double> best_losses_, median_losses_;
};

/// One page: losses by generation, and the divisors that were found beside PI's, NTK's and YaRN's. `lines` stand below
/// the headline, as text.
std::string longrope_search_page(const LongRopeSearch& search, const std::string& title,
                                 const std::vector<std::string>& lines);

}  // namespace rw
