// Prompts that hide something in filler text and ask for it: built so that where the key lies is known to the token.
#pragma once
#include <cstdint>
#include <functional>
#include <optional>
#include <span>
#include <string>
#include <vector>

#include "data/corpus.h"
#include "data/retrieval_template.h"
#include "data/tokenizer.h"
#include "tensor/random.h"

namespace rw {

struct RetrievalPrompt {
  std::vector<int32_t> ids;  // [BOS] prompt answer
  std::string key;           // the digits
  int64_t key_begin = 0;     // index of the first token of the needle's first {key}
  int64_t answer_key = 0;    // index of the token that holds the answer's first digit
  int64_t answer_begin = 0;  // index of the first answer token; ids end with the answer
  /// From the key to where it is asked for: what attention has to bridge.
  int64_t distance() const { return answer_key - key_begin; }
};

/// The largest n >= 0 with size(n) <= limit, for a size that grows by about the same with each unit of filler; -1 if
/// even size(0) exceeds it. Few calls: encoding a long prompt is not free.
int64_t largest_fit(int64_t limit, const std::function<int64_t(int64_t)>& size);

/// Makes prompts of a wanted length with the key at a wanted place.
/// Thread safety: const functions from many threads at once.
class RetrievalPrompts {
 public:
  /// `filler`: take the filler from these documents, at random places, instead of the template's sentence (a harder and
  /// finer-grained haystack: lengths are then exact). Both must outlive the object.
  RetrievalPrompts(const RetrievalTemplate& parts, const Tokenizer& tokenizer, std::optional<int32_t> bos,
                   const TokenCorpus* filler = nullptr);

  /// At most `length` tokens, answer included, as near as whole filler sentences allow. The key lies at most `distance`
  /// tokens before the answer, as near to it as whole sentences allow. Errors: a length or distance that the fixed
  /// parts alone exceed.
  RetrievalPrompt at_distance(int64_t length, int64_t distance, Random& random) const;
  /// The share `depth` in [0, 1] of the filler stands before the needle.
  RetrievalPrompt at_depth(int64_t length, double depth, Random& random) const;
  /// Tokens of the prompt without filler, answer included: no length below this is possible.
  int64_t least_length() const;

 private:
  /// A prompt with so many filler units (sentences, or tokens of a document) before and after the needle.
  RetrievalPrompt build(const std::string& key, int64_t before, int64_t after, uint64_t place) const;
  RetrievalPrompt with_sentences(const std::string& key, int64_t before, int64_t after) const;
  RetrievalPrompt with_text(const std::string& key, int64_t before, int64_t after, uint64_t place) const;
  RetrievalPrompt trimmed(const std::string& key, int64_t before, int64_t after, uint64_t place, int64_t length) const;
  std::string draw_key(Random& random) const;

  const RetrievalTemplate parts_;
  const Tokenizer& tokenizer_;
  std::optional<int32_t> bos_;
  const TokenCorpus* filler_;
};

}  // namespace rw
