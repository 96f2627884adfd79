// The embedded default corpus: stories whose facts come up again much later, so that a model with a longer window
// measurably predicts better. Forty people appear in every story, but which of four surnames each bears, and what their
// key is made of, differs from story to story. Whoever still sees the last mention of a person knows the surname. It
// lies twenty sentences back on average: of the mentions, a window of 64 tokens sees the last one for 4 in 10, of 128
// for 6 in 10, of 512 for nearly all.
//
//   Anna Ashford met Tom Birchman. Ruth Clayson helped Anna Ashford. The key of Tom Birchman is silver. ...
//
// Why so plain: looking up "who is Anna here" takes one attention step, because a surname names
// its bearer; a small model learns it in some 300 steps. The keys take two steps (first the
// person, then what follows), which takes much longer.
#pragma once
#include <cstdint>
#include <string>
#include <vector>

#include "data/corpus.h"

namespace rw {

/// `documents` stories of about `approx_bytes_each` bytes, named "story-<number>". A story depends on (seed, number)
/// alone. A BPE of 640 gives a token for each word.
std::vector<Document> make_demo_corpus(uint64_t seed, int64_t documents, int64_t approx_bytes_each);

/// Six stories to evaluate on: runs of the usual seeds train on none of them.
std::vector<Document> make_held_out_demo_corpus();

/// True if --data asks for the stories: its one path is "demo". Errors: a file or folder of that name is there as well.
bool names_demo_corpus(const std::vector<std::string>& paths);

}  // namespace rw
