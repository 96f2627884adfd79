// Internal: the loss of a run's model on text that it is not trained on, under the window that it is trained for.
#pragma once
#include <functional>
#include <optional>
#include <string>

#include "data/corpus.h"
#include "nn/causal_lm.h"
#include "train/trainer.h"

namespace rw {

struct ValidationOptions {
  int64_t window = 0;  // the target: every sample fills it where the text allows
  int64_t tokens = 0;  // in all; at least one window
  std::optional<int32_t> bos = {};
};

/// Chooses the samples once, so that every validation of a run measures the same text. Thread safety: none.
class Validation {
 public:
  /// Errors: no document with two tokens.
  Validation(TokenCorpus corpus, const ValidationOptions& options);

  /// Nats per token over whole windows side by side, from the beginnings of the first documents that fill one.
  ValidationReport run(const CausalLm& model, int64_t step) const;
  /// A line for the user if no document fills the window; "" otherwise.
  std::string notice() const;

 private:
  TokenCorpus corpus_;
  ValidationOptions options_;
  int64_t least_ = 0;         // tokens of a document that takes part
  int64_t documents_ = 0;     // that take part
  int64_t per_document_ = 0;  // tokens of each
  int64_t longest_ = 0;
};

}  // namespace rw
