// `ropewalk tokenizer train|encode|decode`.
#include "data/tokenizer.h"

#include <cstdio>
#include <iostream>
#include <iterator>
#include <nlohmann/json.hpp>

#include "common.h"
#include "data/bpe_train.h"
#include "data/demo_corpus.h"
#include "tensor/printable.h"
#include "train/run_folder.h"

using namespace rw;

namespace {

struct Options {
  std::vector<std::string> data;
  std::string out, tokenizer, text;
  std::vector<int32_t> ids;
  int32_t vocab = 4096;
  bool whole_digits = false, bos = false, special = false, whole = false, lines = false, overwrite = false;
};

void train(const Options& o, const Globals& globals) {
  use(globals);
  check_unclaimed("tokenizer", o.out, o.overwrite, /*makes_model=*/false);
  check_outside("tokenizer", o.out, o.data);
  if (o.data.empty())
    notice("no --data: learning from built-in stories (--data demo says so without this line)", globals);
  const bool demo = o.data.empty() || names_demo_corpus(o.data);
  const std::vector<Document> documents = demo ? make_demo_corpus(1, 64, 20000) : load_corpus(o.data);
  ProgressBar bar("merges", o.vocab, globals);
  const auto tokenizer = train_bpe(documents, o.vocab, {.individual_digits = !o.whole_digits},
                                   [&](int64_t done, int64_t) { bar.update(done); });
  bar.finish();
  make_folder("tokenizer", o.out);
  tokenizer->save(o.out);
  int64_t bytes = 0, tokens = 0;
  for (const Document& d : documents) {
    bytes += static_cast<int64_t>(d.text.size());
    tokens += static_cast<int64_t>(tokenizer->encode(d.text).size());
  }
  std::printf("tokenizer %s  vocabulary %d  bytes per token %.3f\n", printable(o.out).c_str(), tokenizer->vocab_size(),
              static_cast<double>(bytes) / static_cast<double>(tokens));
}

std::vector<int32_t> ids_of(const Options& o, const Tokenizer& tokenizer, const std::string& text) {
  if (o.whole) return tokenizer.encode_template(text);
  std::vector<int32_t> ids = o.special ? tokenizer.encode_special(text) : tokenizer.encode(text);
  check(!o.bos || tokenizer.named_bos().has_value(), "tokenizer", "this ", tokenizer.kind(),
        " tokenizer has no BOS token");
  if (o.bos) ids.insert(ids.begin(), *tokenizer.named_bos());
  return ids;
}

void encode(const Options& o) {
  const auto tokenizer = load_tokenizer(o.tokenizer);
  const auto print = [&](const std::string& text) {
    for (const int32_t id : ids_of(o, *tokenizer, text)) std::printf("%d ", id);
    std::printf("\n");
  };
  if (!o.lines) {
    print(o.text.empty() ? std::string(std::istreambuf_iterator<char>(std::cin), {}) : o.text);
    return;
  }
  std::string line;
  for (int64_t number = 1; std::getline(std::cin, line); ++number) {
    const auto text = nlohmann::json::parse(line, nullptr, /*allow_exceptions=*/false);
    check(text.is_string(), "tokenizer", "line ", number, " of standard input must be a JSON string");
    print(text.get<std::string>());
  }
}

void decode(const Options& o) {
  const std::string text = load_tokenizer(o.tokenizer)->decode(o.ids);
  std::fwrite(text.data(), 1, text.size(), stdout);
  std::printf("\n");
}

}  // namespace

void add_tokenizer(CLI::App& app, Globals& globals) {
  auto options = std::make_shared<Options>();
  auto& o = *options;
  CLI::App* sub = app.add_subcommand("tokenizer", "Train a byte-level BPE tokenizer, or use one");
  sub->require_subcommand(1);
  CLI::App* t = sub->add_subcommand("train", "Learn merges from text and write a Hugging Face tokenizer.json");
  t->add_option("--data", o.data, "text files, .jsonl files or folders; demo: built-in stories (the default)");
  t->add_option("--vocab", o.vocab, "size of the vocabulary, at least 258")->capture_default_str();
  t->add_option("--out", o.out, "folder for tokenizer.json")->required();
  t->add_flag("--overwrite", o.overwrite, "replace the tokenizer that is in --out");
  t->add_flag("--whole-digits", o.whole_digits, "let numbers merge (default: every digit is a token)");
  t->callback([options, &globals] { train(*options, globals); });
  CLI::App* e = sub->add_subcommand("encode", "Print the ids of --text or of standard input");
  e->add_option("--tokenizer", o.tokenizer, "folder or file")->required();
  e->add_option("--text", o.text, "text to encode");
  e->add_flag("--bos", o.bos, "begin with the beginning-of-text token");
  e->add_flag("--special", o.special, "special tokens spelled in the text become their ids");
  e->add_flag("--whole", o.whole,
              "the ids of a whole text as in Hugging Face's library: --special, and BOS and EOS as "
              "the tokenizer's files say")
      ->excludes("--bos");
  e->add_flag("--lines", o.lines, "standard input holds a JSON string a line; print the ids of each on a line")
      ->excludes("--text");
  e->callback([options] { encode(*options); });
  CLI::App* d = sub->add_subcommand("decode", "Print the text of ids");
  d->add_option("--tokenizer", o.tokenizer, "folder or file")->required();
  d->add_option("ids", o.ids)->required();
  d->callback([options] { decode(*options); });
}
