// RULER (Hsieh et al. 2024, arXiv 2404.06654): its thirteen tasks in its own wording, with its counts and its score.
//
//   niah_single_1, _2, _3      one needle among noise, in text, in text with UUIDs as values
//   niah_multikey_1, _2, _3    four needles in text, asked for one; lines of needles alone; the same with UUIDs
//   niah_multivalue            four values of one key
//   niah_multiquery            four keys, all asked for
//   vt                         variable tracking: a chain of four hops among noise, after one solved example
//   cwe                        the ten common words of a numbered list, after one solved example
//   fwe                        the three most frequent coded words; counts follow a zeta distribution
//   qa_1, qa_2                 questions on documents among other documents: SQuAD's and HotpotQA's files
//
// Templates, counts and rules are those of the published generators. Draws are ours: the published ones follow Python's
// generator and word lists. `load_ruler` reads what they wrote, so that the very same prompts can be judged.
#pragma once
#include <cstdint>
#include <optional>
#include <string>
#include <vector>

#include "data/corpus.h"
#include "data/tokenizer.h"
#include "eval/records.h"
#include "eval/scorer.h"
#include "tensor/random.h"

namespace rw {

/// One prompt; the answer prefix is its end.
struct RulerPrompt {
  std::string text;
  std::vector<std::string> answers;
  std::string task;
};

/// A question with the documents that answer it, and those of the same article.
struct RulerQuestion {
  std::string question;
  std::vector<std::string> answers;
  std::vector<int64_t> documents, neighbours;  // indices into RulerQuestions::documents
};
struct RulerQuestions {
  std::vector<RulerQuestion> questions;
  std::vector<std::string> documents;
};

/// Reads SQuAD 2.0's JSON (questions without an answer are left out) or HotpotQA's, told apart by their form. Errors:
/// unreadable file, another form, no questions.
RulerQuestions load_ruler_questions(const std::string& path);

/// What the tasks are made of.
struct RulerMaterial {
  std::vector<std::string> words;   // haystack text, split at white space; tasks of text need it
  RulerQuestions squad, hotpotqa;   // qa_1, qa_2; empty: those tasks cannot be made
  std::vector<std::string> common;  // words of cwe's lists; empty: made of syllables
};

/// Material from documents: their words as a haystack, and their distinct words of 3 to 12 small letters for cwe, where
/// there are at least 1000.
RulerMaterial ruler_material(const std::vector<Document>& documents);

/// The thirteen names in RULER's order.
const std::vector<std::string>& ruler_tasks();
/// Those that the material suffices for.
std::vector<std::string> ruler_tasks_of(const RulerMaterial& material);
/// How many tokens an answer may take: 128 for needles, 30 for vt, 120 for cwe, 50 for fwe, 32 for questions.
int64_t ruler_answer_tokens(const std::string& task);

struct RulerOptions {
  std::vector<std::string> tasks = {};        // empty: all that the material suffices for
  std::vector<int64_t> lengths = {4096};      // tokens of prompt and answer together, as RULER counts
  int64_t trials = 32;                        // prompts per task and length; RULER: 500
  bool shots = true;                          // the solved examples of vt and cwe
  std::optional<int32_t> bos = {}, eos = {};  // eos ends an answer
  uint64_t seed = 42;
  Progress progress = {};
};

/// One prompt with as much haystack as fits into `length` tokens beside BOS and the answer. `trial` chooses the draws,
/// and the question of qa_1 and qa_2. Errors: an unknown task, material that is missing (named), a length that the task
/// does not fit into.
RulerPrompt make_ruler_prompt(const std::string& task, int64_t length, int64_t trial, const Tokenizer& tokenizer,
                              const RulerMaterial& material, const RulerOptions& options);

/// The prompt with `size` units of haystack (lines, words, list entries or documents), before it is fitted.
RulerPrompt draw_ruler_prompt(const std::string& task, int64_t length, int64_t size, Random random, int64_t trial,
                              const Tokenizer& tokenizer, const RulerMaterial& material, const RulerOptions& options);

/// RULER's own .jsonl: "input", "answer_prefix" and "outputs" of each line. `task` names the rule of the score.
std::vector<RulerPrompt> load_ruler(const std::string& path, const std::string& task);

/// The share of answers that the prediction holds, case left out; for qa_1 and qa_2: 1 if it holds any of them.
double ruler_score(const std::string& task, const std::string& prediction, const std::vector<std::string>& answers);

/// Rows: task, length, score, prompt_tokens, answer_token (where the first answer stands first in the prompt; -1 if
/// nowhere), prediction. Totals: task, length, trials, score with its 95 % bootstrap interval; and, with two or more
/// tasks, "average" for each length. Errors: as make_ruler_prompt; no trials.
EvalResult evaluate_ruler(TokenScorer& scorer, const Tokenizer& tokenizer, const RulerMaterial& material,
                          const RulerOptions& options);
/// The same for prompts that were made elsewhere; a prompt longer than `window` less the answer is refused by its
/// number.
EvalResult evaluate_ruler_prompts(TokenScorer& scorer, const Tokenizer& tokenizer,
                                  const std::vector<RulerPrompt>& prompts, int64_t window, const RulerOptions& options);

}  // namespace rw
