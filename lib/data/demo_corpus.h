// The embedded default corpus: stories whose facts are asked for again much later, so that a model with a longer window
// measurably predicts better. A story has a few people with invented names; each lives somewhere, carries something,
// wears a colour and has a three-digit key. Between small talk, known facts come up again after 3 to 60 sentences
// (about 30 to 700 tokens of a 512-token BPE; a fact not seen for longer cannot be guessed).
//
//   Torven lives at the mill. The key of Torven is 472. On Monday the rain came to the bridge. ...
//   ... It is said that the key of Torven is 472.
#pragma once
#include <cstdint>
#include <vector>

#include "data/corpus.h"

namespace rw {

/// `documents` stories of about `approx_bytes_each` bytes, named "story-<number>". A story depends on (seed, number)
/// alone.
std::vector<Document> make_demo_corpus(uint64_t seed, int64_t documents, int64_t approx_bytes_each);

}  // namespace rw
