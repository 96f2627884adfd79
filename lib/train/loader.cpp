// The loader: chooses text, draws positions, makes the batch, and mixes in retrieval sequences.
#include "train/loader.h"

#include "train/text.h"

namespace rw {

Loader::Loader(const Recipe& recipe, const RunPlan& plan, const Tokenizer& tokenizer, TokenCorpus corpus,
               std::optional<int32_t> bos, BatchShare share)
    : corpus_(std::move(corpus)),
      bos_(bos),
      share_(share),
      batch_(recipe.batch),
      mask_seams_(recipe.mask_seams),
      sampler_(make_position_sampler(plan.positions)),
      chooser_(corpus_, {.window = plan.window, .region = plan.region, .seed = recipe.seed}) {
  spec_.seed = recipe.seed;
  spec_.window = plan.window;
  spec_.target = plan.target;
  spec_.original_window = plan.original_window;
  if (recipe.retrieval_share == 0) return;
  mix_.emplace(tokenizer, RetrievalMixOptions{.share = recipe.retrieval_share,
                                              .parts = choose_retrieval_template(recipe.retrieval_template),
                                              .answer_weight = recipe.retrieval_weight,
                                              .window = plan.window,
                                              .seed = recipe.seed});
}

Loader::Item Loader::next(int64_t step, int64_t micro) const {
  const int64_t first = micro * batch_ + share_.first;
  const std::vector<Region> where =
      chooser_.choose(static_cast<uint64_t>(step), static_cast<uint64_t>(first), share_.count);
  SampleSpec spec = spec_;
  spec.step = step;
  for (int64_t b = 0; b < share_.count; ++b) {
    spec.sample_ids.push_back(first + b);
    spec.document_lengths.push_back(where[static_cast<size_t>(b)].available);
  }
  Item item;
  item.positions = sampler_->sample(spec);
  item.batch = make_batch(corpus_, where, item.positions.content, {.bos = bos_, .mask_seams = mask_seams_});
  if (mix_) mix_->apply(corpus_, where, bos_, static_cast<uint64_t>(step), static_cast<uint64_t>(first), item.batch);
  return item;
}

}  // namespace rw
