// Which text a validation measures, and the measurement.
#include "train/validation.h"

#include <algorithm>

#include "eval/perplexity.h"
#include "tensor/error.h"

namespace rw {

Validation::Validation(TokenCorpus corpus, const ValidationOptions& options)
    : corpus_(std::move(corpus)), options_(options) {
  const int64_t capacity = std::max<int64_t>(options.window - (options.bos ? 1 : 0), 2);  // document tokens of a window
  int64_t fill = 0, some = 0;
  for (int64_t d = 0; d < corpus_.documents(); ++d) {
    longest_ = std::max(longest_, corpus_.length(d));
    fill += corpus_.length(d) >= capacity;
    some += corpus_.length(d) >= 2;
  }
  check(some > 0, "train", "the validation text has no document with two tokens");
  least_ = fill > 0 ? capacity : 2;
  const int64_t samples = std::max<int64_t>(options.tokens / options.window, 1);
  documents_ = fill > 0 ? std::min(samples, fill) : std::clamp<int64_t>(options.tokens / longest_, 1, some);
  per_document_ = samples > documents_ ? (options.tokens + documents_ - 1) / documents_ : capacity;
  per_document_ = std::max<int64_t>(per_document_, 2);
}

ValidationReport Validation::run(const CausalLm& model, int64_t step) const {
  ModelScorer scorer(model);
  const PerplexityTotal total = evaluate_perplexity(scorer, corpus_,
                                                    {.windows = {options_.window},
                                                     .stride = options_.window,
                                                     .max_tokens = per_document_,
                                                     .min_tokens = least_,
                                                     .documents = documents_,
                                                     .bos = options_.bos})
                                    .totals.at(0);
  return {
      .step = step, .loss = total.nll, .tokens = total.tokens, .documents = total.documents, .window = options_.window};
}

std::string Validation::notice() const {
  if (longest_ >= least_ && least_ > 2) return "";
  if (longest_ + (options_.bos ? 1 : 0) >= options_.window) return "";
  return cat("validation does not see the whole window of ", options_.window, ": its longest document has ", longest_,
             " tokens");
}

}  // namespace rw
