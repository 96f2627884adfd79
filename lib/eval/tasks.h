// Retrieval tasks in the form of RULER (Hsieh et al. 2024): facts stand in lines of their own among lines of noise.
//
//   single     one named number, asked for by name
//   multikey   several, asked for one of them: the others distract
//   vt         variable tracking: VAR a = 71, VAR b = VAR a, ...; which variables hold 71? with 1 to 4 hops
//
// Names, numbers and chains are short by default, so that models of a few million parameters can take part. The wording
// is our own, so scores do not compare with published RULER numbers.
#pragma once
#include <optional>
#include <string>
#include <vector>

#include "data/corpus.h"
#include "data/tokenizer.h"
#include "eval/records.h"
#include "eval/scorer.h"
#include "tensor/random.h"

namespace rw {

struct TaskOptions {
  std::vector<std::string> tasks = {"single", "multikey", "vt"};
  std::vector<int64_t> lengths = {512};  // tokens of the whole prompt, answer included
  int64_t trials = 32;
  int64_t keys = 4;    // multikey
  int64_t hops = 2;    // vt: assignments after the first, 1 to 4
  int64_t digits = 3;  // of every number
  bool greedy = false;
  std::optional<int32_t> bos = {};
  uint64_t seed = 0;
  Progress progress = {};
};

/// One prompt as text and tokens; ids end with the answer.
struct TaskPrompt {
  std::vector<int32_t> ids;
  int64_t answer_begin = 0;
  std::vector<std::string> facts;     // the lines that matter, in order
  std::vector<std::string> expected;  // what an answer must hold
};

/// At most `length` tokens, with as many noise lines as fit; facts stand in order at random places among them. Errors:
/// an unknown task, options out of range, a length that the facts alone exceed.
TaskPrompt make_task(const std::string& task, int64_t length, const Tokenizer& tokenizer, const TaskOptions& options,
                     Random& random);

/// Totals: task, length, trials, accuracy (every answer token the most likely one, teacher-forced), margin, and with
/// `greedy` the mean share of expected strings in the generated text (RULER's string_match_all).
EvalResult evaluate_tasks(TokenScorer& scorer, const Tokenizer& tokenizer, const TaskOptions& options);

}  // namespace rw
