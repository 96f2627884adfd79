// LongRoPE's search: the first candidates, mutations and crosses, and one generation.
#include "eval/longrope_search.h"

#include <algorithm>
#include <cmath>
#include <limits>

#include "rope/kinds.h"
#include "tensor/error.h"

namespace rw {
namespace {

constexpr const char* kOp = "longrope_search";
constexpr int64_t kStarts[] = {0, 1, 2, 4, 8, 12, 16, 20, 24, 28, 32, 64, 128, 256};  // the paper's choices of n^
constexpr double kStep = 0.01, kSlack = 1.25;  // divisors are multiples of 0.01 up to 1.25 s

}  // namespace

LongRopeSearch::LongRopeSearch(const RopeConfig& base, int64_t target, const LongRopeSearchOptions& options)
    : base_(base), target_(target), options_(options) {
  check(base.kind.is<DefaultRope>() && base.logn == LogN::none, kOp, "begins with plain RoPE, the model has ",
        base.rope_type());
  const int64_t window = base.original_window();
  check(target > window, kOp, "the target must be beyond the model's window of ", window, ", got ", target);
  check(options.parents >= 2 && options.parents <= options.population, kOp, "parents must be 2 to the population, ",
        options.population, ", got ", options.parents);
  check(options.population >= 4 && options.mutants >= 1 && options.crosses >= 0 && options.generations >= 0, kOp,
        "needs a population of at least 4, 1 mutant, 0 crosses and 0 generations, got ", options.population, ", ",
        options.mutants, ", ", options.crosses, " and ", options.generations);
  check(options.mutation_rate > 0 && options.mutation_rate <= 1, kOp, "the mutation rate must be in (0, 1], got ",
        options.mutation_rate);
  factor_ = static_cast<double>(target) / static_cast<double>(window);
  base_.original_max_position_embeddings = window;
  base_.max_position_embeddings = target;
  const std::vector<double> plain = base_inv_freq(base);
  for (const RopeKind& kind : {RopeKind(LinearRope{.factor = factor_}), RopeKind(NtkRope{.factor = factor_}),
                               RopeKind(YarnRope{.factor = factor_})}) {
    RopeConfig config = base_;
    config.kind = kind;
    const RopeTable table = make_rope_scaling(config)->table({.length = target});
    LongRopeCandidate c{.factors = table.inv_freq.value().to_vector(),
                        .attention = table.attention_scale,
                        .loss = 0,
                        .origin = kind.name()};
    for (size_t i = 0; i < plain.size(); ++i) c.factors[i] = plain[i] / c.factors[i];  // exact: not yet rounded
    known_.push_back(std::move(c));
  }
}

void LongRopeSearch::make_valid(std::vector<double>& factors) const {
  double least = 1;
  for (double& f : factors) {
    f = std::clamp(std::nearbyint(f / kStep) * kStep, least, std::max(least, kSlack * factor_));
    least = f;
  }
}

LongRopeCandidate LongRopeSearch::mutant(const LongRopeCandidate& parent, Random& random) const {
  LongRopeCandidate out = parent;
  out.origin = "mutant";
  for (double& f : out.factors) {
    // Small changes are as frequent as large ones: a factor of up to 1.5 either way, mostly near 1.
    if (random.uniform() < options_.mutation_rate) f *= std::exp(0.2 * random.normal());
  }
  make_valid(out.factors);
  const double choices[] = {std::sqrt(1 + std::log(factor_) / std::log(static_cast<double>(base_.original_window()))),
                            0.1 * std::log(factor_) + 1, 1};
  if (random.uniform() < 0.25) out.attention = choices[random.below(3)];
  if (options_.start_tokens && random.uniform() < 0.25) {  // no draw without the option: searches stay as they were
    const auto end = std::upper_bound(std::begin(kStarts), std::end(kStarts), base_.original_window());
    out.start = kStarts[random.below(end - std::begin(kStarts))];
  }
  return out;
}

LongRopeCandidate LongRopeSearch::cross(const LongRopeCandidate& a, const LongRopeCandidate& b, Random& random) const {
  LongRopeCandidate out = a;
  out.origin = "cross";
  for (size_t i = 0; i < out.factors.size(); ++i) {
    if (random.below(2) == 1) out.factors[i] = b.factors[i];
  }
  if (random.below(2) == 1) out.attention = b.attention;
  if (options_.start_tokens && random.below(2) == 1) out.start = b.start;
  make_valid(out.factors);
  return out;
}

void LongRopeSearch::step(const LongRopeLoss& loss) {
  check(!done(), kOp, "all ", options_.generations, " generations are done");
  Random random(options_.seed, Purpose::sampling, static_cast<uint64_t>(generation()));
  std::vector<LongRopeCandidate> next, known = known_;
  const auto judge = [&](LongRopeCandidate& c) {
    const double value = loss(recipe(c));
    c.loss = std::isfinite(value) ? value : std::numeric_limits<double>::max();
  };
  if (generation() == 0) {
    for (LongRopeCandidate& c : known) judge(c);
    next = known;
    while (static_cast<int64_t>(next.size()) < options_.population)
      next.push_back(mutant(known[static_cast<size_t>(random.below(static_cast<int64_t>(known.size())))], random));
    for (size_t i = known.size(); i < next.size(); ++i) judge(next[i]);
  } else {
    next = alive_;
    const auto parent = [&]() -> const LongRopeCandidate& {
      return alive_[static_cast<size_t>(random.below(std::min(options_.parents, static_cast<int64_t>(alive_.size()))))];
    };
    for (int64_t i = 0; i < options_.mutants + options_.crosses; ++i) {
      LongRopeCandidate c = i < options_.mutants ? mutant(parent(), random) : cross(parent(), parent(), random);
      judge(c);
      next.push_back(std::move(c));
    }
  }
  std::stable_sort(next.begin(), next.end(), [](const auto& a, const auto& b) { return a.loss < b.loss; });
  next.resize(std::min(next.size(), static_cast<size_t>(options_.population)));
  known_ = std::move(known);
  alive_ = std::move(next);
  best_losses_.push_back(alive_.front().loss);
  median_losses_.push_back(alive_[alive_.size() / 2].loss);
}

const LongRopeCandidate& LongRopeSearch::best() const {
  check(!alive_.empty(), kOp, "no generation is done yet");
  return alive_.front();
}

RopeConfig LongRopeSearch::recipe(const LongRopeCandidate& candidate) const {
  RopeConfig out = base_;
  std::optional<double> start;
  if (candidate.start > 0) start = static_cast<double>(candidate.start);
  out.kind = LongRope{.factor = factor_,
                      .short_factor = std::vector<double>(candidate.factors.size(), 1.0),
                      .long_factor = candidate.factors,
                      .attention_factor = candidate.attention,
                      .start_tokens = start};
  return out;
}

}  // namespace rw
