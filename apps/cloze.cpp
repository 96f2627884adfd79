// `ropewalk cloze`: a multiple-choice set made from books, for `ropewalk eval choice`.
#include "eval/cloze.h"

#include <cstdio>
#include <memory>

#include "common.h"
#include "tensor/file.h"
#include "tensor/folder.h"
#include "tensor/printable.h"

using namespace rw;

namespace {

struct Options {
  std::vector<std::string> data;
  std::string out;
  ClozeOptions cloze;
};

void run(const Options& o) {
  check(!path_exists(o.out), "cloze", "'", o.out, "' is there already and is not replaced: name another file");
  const std::vector<ChoiceItem> items = make_cloze(load_corpus(o.data), o.cloze);
  write_file_atomic(o.out, choices_to_jsonl(items));
  std::printf("%s  %zu items of %lld choices, %lld words after %lld\n", printable(o.out).c_str(), items.size(),
              static_cast<long long>(o.cloze.choices), static_cast<long long>(o.cloze.choice_words),
              static_cast<long long>(o.cloze.context_words));
}

}  // namespace

void add_cloze(CLI::App& app, Globals&) {
  auto options = std::make_shared<Options>();
  auto& o = *options;
  CLI::App* sub =
      app.add_subcommand("cloze", "Make a multiple-choice set from books: which continuation is the real one?");
  sub->footer(
      "The wrong choices are continuations of other places of the same book, with as many words. No two stretches of "
      "a\n"
      "set overlap. Take books that the model was not trained on.\n\n"
      "  ropewalk cloze --data held-out/ --out cloze.jsonl\n"
      "  ropewalk eval choice cloze.jsonl --model base");
  sub->add_option("--data", o.data, "text files, .jsonl files or folders")->required()->group(kCommonOptions);
  sub->add_option("--out", o.out, "the file of JSON lines: context, choices, answer")
      ->required()
      ->group(kCommonOptions);
  sub->add_option("--items", o.cloze.items, "questions")
      ->check(CLI::PositiveNumber)
      ->capture_default_str()
      ->group(kCommonOptions);
  sub->add_option("--choices", o.cloze.choices, "of each question")->check(CLI::Range(2, 26))->capture_default_str();
  sub->add_option("--context-words", o.cloze.context_words, "words before the choices")
      ->check(CLI::PositiveNumber)
      ->capture_default_str();
  sub->add_option("--choice-words", o.cloze.choice_words, "words of each choice")
      ->check(CLI::PositiveNumber)
      ->capture_default_str();
  sub->add_option("--seed", o.cloze.seed, "of the places and their order")->capture_default_str();
  sub->callback([options] { run(*options); });
}
