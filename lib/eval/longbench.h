// LongBench-style question answering and summarising: a prompt template, middle truncation, generation, and the two
// usual scores. For users with a model large enough to follow a prompt (METHODS.md 7.6).
#pragma once
#include <optional>
#include <string>
#include <vector>

#include "data/corpus.h"
#include "data/tokenizer.h"
#include "eval/records.h"
#include "eval/scorer.h"

namespace rw {

struct LongBenchItem {
  std::string context, input;
  std::vector<std::string> answers;
};

/// One object a line with "context", "input" and "answers" (an array of strings), as LongBench publishes them; other
/// fields are ignored. Errors: unreadable file, a line of another form (named by number).
std::vector<LongBenchItem> load_longbench(const std::string& path);

struct LongBenchOptions {
  std::string prompt = "{context}\n\nQuestion: {input}\nAnswer:";
  std::string metric = "f1";  // f1 | rouge | rouge-score
  bool stem = false;          // rouge-score: Porter's stems in place of words
  int64_t window = 4096;      // prompt and answer together
  int64_t max_new = 64;
  std::optional<int32_t> bos = {};
  std::optional<int32_t> eos = {};  // ends an answer
  Progress progress = {};
};

/// Rows: item, score, prompt_tokens, truncated, answer. Total: items and mean score. The metric `rouge-score` is for
/// summaries, as in PI's Table 6. It gives rouge1, rouge2 and rougeL as the package of that name counts them (rouge.h),
/// in rows, and with intervals in the total. Of an item's answers the best by rougeL counts. Its score is rougeL.
/// Errors: no items, an unknown metric, `stem` with another metric, a window that max_new leaves nothing of.
EvalResult evaluate_longbench(TokenScorer& scorer, const Tokenizer& tokenizer, const std::vector<LongBenchItem>& items,
                              const LongBenchOptions& options);

/// The first and the last half of what fits: the question at the end and the instructions at the beginning survive.
std::vector<int32_t> truncate_middle(const std::vector<int32_t>& ids, int64_t limit);

/// Harmonic mean of precision and recall over words, case, punctuation and articles left out (SQuAD's score).
double word_f1(const std::string& prediction, const std::string& answer);
/// F-measure of the longest common subsequence of words (Lin 2004, beta = 1), lower-cased.
double rouge_l(const std::string& prediction, const std::string& answer);

}  // namespace rw
