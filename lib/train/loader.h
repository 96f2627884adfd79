// Text, positions and targets of each step of a run.
//
//   Loader loader(recipe, plan, tokenizer, corpus, tokenizer.bos_id());
//   Loader::Item item = loader.next(step, micro);     // item.batch.ids [B,T], item.positions.positions [B,T]
//
// Every draw depends only on the seed, the step and the sample. So any (step, micro) can be asked for in any order, and
// a rank gets its part of what one process would get.
#pragma once
#include <memory>
#include <optional>

#include "data/batch.h"
#include "data/retrieval_mix.h"
#include "train/plan.h"

namespace rw {

/// Which samples of a batch a process makes.
struct BatchShare {
  int64_t first = 0, count = 0;
};

/// Thread safety: const after construction; one object serves all threads. The corpus is shared, not copied.
class Loader {
 public:
  /// Errors: no document has window + 1 tokens; SampleChooser's and RetrievalMix's.
  Loader(const Recipe& recipe, const RunPlan& plan, const Tokenizer& tokenizer, TokenCorpus corpus,
         std::optional<int32_t> bos, BatchShare share);

  struct Item {
    Batch batch;              // ids, targets i32 [B,T]
    PositionBatch positions;  // f32 [B,T], t [B]
  };
  /// Micro-batch `micro` of step `step`: the share of it that is this process's.
  Item next(int64_t step, int64_t micro) const;

 private:
  TokenCorpus corpus_;
  std::optional<int32_t> bos_;
  BatchShare share_;
  int64_t batch_;  // samples of a micro-batch, over all ranks
  bool mask_seams_;
  SampleSpec spec_;  // what all batches have in common
  std::unique_ptr<PositionSampler> sampler_;
  SampleChooser chooser_;
  std::optional<RetrievalMix> mix_;
};

}  // namespace rw
