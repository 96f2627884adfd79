// Multiple choice by log-likelihood, counted as lm-evaluation-harness counts it. Every choice is a continuation of the
// context. The one with the highest sum of log-probabilities is the model's answer.
//
//   items = load_choices("arc.jsonl", "auto");
//   EvalResult result = evaluate_choice(scorer, tokenizer, items, {.window = 2048});
//
// Totals: acc        the highest sum of log p
//         acc_norm   the highest sum divided by the choice's bytes
//         acc_char   the highest sum divided by the choice's characters (Touvron et al. 2023, LLaMA)
//         acc_answer the highest sum less that of the same choice after `answer_context` alone (the same paper, for
//                    BoolQ and OpenBookQA: P(choice | context) / P(choice | "Answer:"))
#pragma once
#include <cstdint>
#include <optional>
#include <string>
#include <vector>

#include "data/corpus.h"
#include "data/tokenizer.h"
#include "eval/records.h"
#include "eval/scorer.h"

namespace rw {

/// One question. Either the choices continue one context, or (WinoGrande) each has a context of its own and the same
/// continuation.
struct ChoiceItem {
  std::vector<std::string> contexts;       // one for all choices, or one for each
  std::vector<std::string> continuations;  // without the space before them; one for each choice
  int64_t answer = 0;                      // index of the right choice
};

/// Reads the published JSON lines of a task, or our own: {"context": ..., "choices": [...], "answer": index}.
///
///   boolq       question, passage, answer (true or false)
///   piqa        goal, sol1, sol2, label
///   race        article, question and options and answer, or lists of them ("questions", "options", "answers")
///   winogrande  sentence with _, option1, option2, answer ("1" or "2")
///   arc         question (text, or an object with stem and choices), choices, answerKey
///   hellaswag   activity_label, ctx_a, ctx_b, endings, label
///
/// "auto" chooses by the fields of the first line. Prompts are those of lm-evaluation-harness, but RACE, where each
/// question stands alone after its article. Errors: unreadable file, an unknown task, a line of another form (named).
std::vector<ChoiceItem> load_choices(const std::string& path, const std::string& task = "auto");

struct ChoiceOptions {
  int64_t window = 2048;               // tokens of context and choice; longer contexts lose their beginning
  std::vector<ChoiceItem> shots = {};  // solved examples that stand before every question
  std::string answer_context = "Answer:";
  std::optional<int32_t> bos = {};
  Progress progress = {};
};

/// Rows: item, answer, chosen, and the sums of log p. One total with the four accuracies and their 95 % Wilson
/// intervals. Errors: no items, a window of less than 2 tokens.
EvalResult evaluate_choice(TokenScorer& scorer, const Tokenizer& tokenizer, const std::vector<ChoiceItem>& items,
                           const ChoiceOptions& options);

/// Context and continuation as tokens: together they are the encoding of the joined text, so that a token may begin in
/// the space between them. `first` is where the continuation's tokens begin.
ScoreWindow encode_pair(const Tokenizer& tokenizer, std::string context, std::string continuation,
                        std::optional<int32_t> bos, int64_t window);

}  // namespace rw
