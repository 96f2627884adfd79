// Key-retrieval sequences in training text: a number is written into a span of a document and asked for later. So a
// small model learns the task of the passkey and needle tests (METHODS.md 7.3).
//
//   RetrievalMix mix(*tokenizer, {.share = 0.07, .window = 512, .seed = 1});
//   Batch batch = make_batch(corpus, where, positions.content, {.bos = bos});
//   mix.apply(corpus, where, bos, step, first_sample, batch);        // 7 % of the rows become retrieval sequences
//
// A chosen row is contiguous text from a uniform place of the region that the sample had anyway:
//
//   text  needle with the key  text  question and answer  text
//
// The answer ends at a uniform place. The needle stands at a uniform place before the question, after a sentence's end
// if one is near. Every token is a target, text and answer alike. Positions are not touched: the skips, offsets or
// random subsets that a method's sampler drew for the sample hold for its retrieval sequence, too. So the distance from
// answer to key is the one that the method imitates.
#pragma once
#include <cstdint>
#include <optional>
#include <span>
#include <vector>

#include "data/batch.h"
#include "data/retrieval_template.h"
#include "data/tokenizer.h"
#include "tensor/random.h"

namespace rw {

struct RetrievalMixOptions {
  double share = 0;  // of the samples, in [0, 1]
  RetrievalTemplate parts = short_retrieval_template();
  double answer_weight = 1;  // of an answer token's loss, where text counts 1
  int64_t window = 0;        // T: tokens of a sample
  uint64_t seed = 0;
};

/// Where things stand in a retrieval sequence, as indices into its targets [T].
struct RetrievalRow {
  int64_t row = 0;  // of the batch
  std::string key;
  int64_t key_begin = 0;                     // the target that is the first token of the needle
  int64_t answer_begin = 0, answer_end = 0;  // targets [begin, end) are the answer's tokens
};

/// Draws depend on (seed, step, sample) alone: the same after a resume and for any number of workers. Thread safety:
/// const and stateless. The tokenizer must outlive the object.
class RetrievalMix {
 public:
  /// Errors: a share outside [0, 1]; a window that needle and question alone do not fit,
  /// judged by the longest of some hundred keys.
  RetrievalMix(const Tokenizer& tokenizer, const RetrievalMixOptions& options);

  /// True if sample k of a step is a retrieval sequence.
  bool chosen(uint64_t step, uint64_t sample) const;
  /// Rewrites ids and targets of the chosen rows of `batch`, which make_batch has made of `where`. It also sets the
  /// count of scored targets and, with an answer weight other than 1, the weights. A key whose sequence does not fit
  /// the window is drawn again. Returns what was written. Errors: another window or number of rows, a corpus of another
  /// vocabulary, a region shorter than the text that it must give, keys that never fit.
  std::vector<RetrievalRow> apply(const TokenCorpus& corpus, std::span<const Region> where,
                                  const std::optional<int32_t>& bos, uint64_t step, uint64_t first_sample,
                                  Batch& batch) const;

 private:
  /// Task, needle and question with a key, as tokens.
  struct Pieces {
    std::vector<int32_t> task, needle, question;
    int64_t answer = 0;  // tokens of the question's end that are the answer
    int64_t tokens() const { return static_cast<int64_t>(task.size() + needle.size() + question.size()); }
  };
  Pieces pieces(const std::string& key) const;
  /// The pieces of a key drawn from `random` that together have at most `most` tokens.
  Pieces pieces_within(Random& random, int64_t most, std::string& key) const;
  /// Tokens of the longest pieces among some hundred keys.
  int64_t longest_sample() const;

  const Tokenizer& tokenizer_;
  RetrievalMixOptions options_;
  std::vector<bool> ends_sentence_;  // by token
};

}  // namespace rw
