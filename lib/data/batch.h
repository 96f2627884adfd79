// Batches: which text each sample sees.
//
//   SampleChooser chooser(corpus, {.window = 512, .seed = 1});
//   std::vector<Region> where = chooser.choose(step, first_sample, 8);          // 8 documents
//   spec.document_lengths = available(where);                                   // what a PositionSampler must know
//   PositionBatch positions = sampler.sample(spec);
//   Batch batch = make_batch(corpus, where, positions.content);
#pragma once
#include <cstdint>
#include <optional>
#include <span>
#include <string>
#include <vector>

#include "autograd/ops/loss.h"
#include "data/corpus.h"
#include "tensor/random.h"
#include "tensor/span.h"
#include "tensor/tensor.h"

namespace rw {

/// A piece of a document that a sample may take its spans from: tokens [begin, begin + available), and one more after
/// them, which is the last target.
struct Region {
  int64_t document = 0, begin = 0, available = 0;
  bool operator==(const Region&) const = default;
};

struct SampleSource {
  int64_t document = 0;
  std::vector<Span> spans;  // token indices in the document, BOS left out
};

struct Batch {
  Tensor ids;                        // i32 [B,T]
  Tensor targets;                    // i32 [B,T]; kIgnoreIndex where there is no loss
  std::vector<SampleSource> source;  // of each sample
  int64_t scored = 0;                // targets that are scored
  Tensor weights;                    // f32 [B,T] of the targets' losses; undefined: all 1
  double weight = 0;                 // sum of the scored targets' weights
};

/// Draws documents and starts. Sample k of step s depends on (seed, s, k) alone: the same after a resume and for any
/// number of workers. A document is drawn in proportion to its number of window starts, so every start is equally
/// likely. Thread safety: const and stateless after construction; one object serves all threads.
class SampleChooser {
 public:
  struct Options {
    int64_t window = 0;  // T: tokens of a sample
    int64_t region = 0;  // most tokens of a document that its region offers; 0: the whole document
    uint64_t seed = 0;
  };
  /// Errors: window < 1; no document has window + 1 tokens (the message names the longest).
  SampleChooser(const TokenCorpus& corpus, const Options& options);

  Region choose(uint64_t step, uint64_t sample) const;
  std::vector<Region> choose(uint64_t step, uint64_t first_sample, int64_t count) const;
  /// Starts of windows in the whole corpus.
  int64_t starts() const { return cumulative_.empty() ? 0 : cumulative_.back(); }

 private:
  Options options_;
  std::vector<int64_t> documents_, usable_, cumulative_;  // of documents long enough
};

struct BatchOptions {
  /// Puts BOS in front of every sample: ids = [BOS] + content[:T-1] and targets = content, as books30m was trained. The
  /// first span then gives one token less.
  std::optional<int32_t> bos;
  bool mask_seams = false;  // no loss where one span ends and another begins (the next token there is noise)
};

/// Sample b is the concatenation of content[b], whose spans count from where[b].begin. Every sample has T
/// tokens. Targets are the next tokens of the concatenation, seams included unless masked. The last target
/// is the document's token after the last span, or kIgnoreIndex if the document ends there. Errors:
/// counts or lengths differ, a span outside its document.
Batch make_batch(const TokenCorpus& corpus, std::span<const Region> where, std::span<const std::vector<Span>> content,
                 const BatchOptions& options = {});

/// Tokens that each region offers: SampleSpec::document_lengths.
std::vector<int64_t> available(std::span<const Region> where);

/// One span [0, window) for each of `count` samples.
std::vector<std::vector<Span>> contiguous_spans(int64_t count, int64_t window);

}  // namespace rw
