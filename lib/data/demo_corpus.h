// The embedded default corpus: stories whose facts come up again much later. So a model with a longer window predicts
// measurably better. Forty people appear in every story. Which of four surnames each bears, and what their key is made
// of, differs from story to story. A model that still sees the last mention of a person knows the surname. The last
// mention lies twenty sentences back on average. A window of 64 tokens still sees it for 4 in 10 mentions, a window of
// 128 for 6 in 10, and a window of 512 for nearly all.
//
//   Anna Ashford met Tom Birchman. Ruth Clayson helped Anna Ashford. The key of Tom Birchman is silver. ...
//
// The stories are plain for a reason. Looking up "who is Anna here" takes one attention step, because a surname
// follows its bearer's name. A small model learns it in some 300 steps. The keys take two attention steps (first the
// person, then what follows). A model needs much longer for them.
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
