// A multiple-choice set made from books: which of four continuations is the real one?
//
//   items = make_cloze(load_corpus({"held-out"}), {.items = 200});
//   write_file_atomic("cloze.jsonl", choices_to_jsonl(items));       // `ropewalk eval choice cloze.jsonl`
//
// No two passages or wrong continuations of a set overlap, in any book. So no item tells the answer of another. A wrong
// continuation comes from another place of the same book and has as many words. So neither its length nor its book
// gives it away.
#pragma once
#include <cstdint>
#include <vector>

#include "data/corpus.h"
#include "eval/choice.h"

namespace rw {

struct ClozeOptions {
  int64_t items = 200;
  int64_t choices = 4;
  int64_t context_words = 64, choice_words = 12;
  uint64_t seed = 1;
};

/// Items from all documents in turn. Errors: no items or choices asked for, text that is too short for so many items
/// (with what it suffices for).
std::vector<ChoiceItem> make_cloze(const std::vector<Document>& documents, const ClozeOptions& options);

/// One object a line: "context", "choices" and "answer", as load_choices reads them. Errors: an item with a context for
/// each choice.
std::string choices_to_jsonl(const std::vector<ChoiceItem>& items);

}  // namespace rw
