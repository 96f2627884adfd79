// Training a byte-level BPE (Sennrich et al. 2016, on bytes as in GPT-2).
#pragma once
#include <memory>
#include <span>

#include "data/byte_bpe.h"
#include "data/corpus.h"

namespace rw {

struct BpeTrainOptions {
  bool individual_digits = true;  // every digit is a token of its own, so that numbers are written in one way only
  int64_t min_frequency = 2;      // rarer pairs are not merged
};

/// Ids: <s>=0, </s>=1, the 256 bytes in HF's order, then one token for each merge, most frequent pair first. Ties go to
/// the pair of smaller ids. So the same text always gives the same tokenizer, which is also that of HF's trainer. The
/// vocabulary is smaller than `vocab_size` if the text runs out of pairs. `progress` counts tokens. Errors:
/// vocab_size < 258, no text.
std::unique_ptr<ByteBpe> train_bpe(std::span<const Document> documents, int32_t vocab_size,
                                   const BpeTrainOptions& options = {}, const Progress& progress = {});

}  // namespace rw
