// ropewalk eval ...: what a model makes of text. One subcommand per protocol; the protocols are in lib/eval.
#include <cstdio>
#include <fstream>
#include <iostream>
#include <memory>

#include "common.h"
#include "data/corpus.h"
#include "eval/perplexity.h"
#include "tensor/file.h"
#include "verbs.h"

using namespace rw;

namespace {

/// What every protocol asks for.
struct Common {
  std::string model, rope, json;
  std::vector<std::string> data;
  int64_t documents = 0, max_tokens = 0, batch_tokens = 0;
  uint64_t seed = 0;
  bool no_bos = false;
};

void add_common(CLI::App& sub, Common& o, bool needs_data) {
  sub.add_option("--model", o.model, "model folder (Hugging Face layout)")->required();
  CLI::Option* data = sub.add_option("--data", o.data, "text: files, folders, .jsonl, or a token file");
  if (needs_data) data->required();
  sub.add_option("--rope", o.rope,
                 "another rope_scaling for this call, as JSON: '{\"rope_type\":\"linear\",\"factor\":8}'");
  sub.add_option("--json", o.json, "write protocol, rows and totals to this file");
  sub.add_option("--batch-tokens", o.batch_tokens, "tokens of one forward (0: 4096 on the CPU, 65536 on a GPU)")
      ->check(CLI::NonNegativeNumber);
  sub.add_option("--seed", o.seed, "of everything drawn: intervals, keys, depths")->capture_default_str();
  sub.add_flag("--no-bos", o.no_bos, "do not begin with the beginning-of-text token");
}

void add_documents(CLI::App& sub, Common& o) {
  sub.add_option("--documents", o.documents, "only the first N documents that are long enough (0: all)")
      ->check(CLI::NonNegativeNumber);
  sub.add_option("--max-tokens", o.max_tokens, "only the first N tokens of each document (0: all)")
      ->check(CLI::NonNegativeNumber);
}

bool is_token_file(const std::string& path) {
  char head[8] = {};
  std::ifstream(path, std::ios::binary).read(head, sizeof head);
  return std::string(head, sizeof head) == "RWTOKENS";
}

/// A model, its tokenizer and the corpus in its tokens.
struct Setup {
  Setup(const Common& o, const Globals& globals) : loaded(load_model_and_tokenizer(o.model, globals, o.rope)) {
    if (!o.no_bos) bos = loaded.tokenizer->bos_id();
    scorer = std::make_unique<LlamaScorer>(*loaded.model, ScorerOptions{.batch_tokens = o.batch_tokens});
    if (o.data.empty()) return;
    if (o.data.size() == 1 && is_token_file(o.data[0])) {
      corpus = TokenCorpus::open(o.data[0]);
    } else {
      const std::vector<Document> documents = load_corpus(o.data);
      ProgressBar bar("tokenize", static_cast<int64_t>(documents.size()), globals);
      corpus = tokenize_corpus(documents, *loaded.tokenizer, [&](int64_t done, int64_t) { bar.update(done); });
      bar.finish(with_commas(corpus.total_tokens()) + " tokens in " + with_commas(corpus.documents()) + " documents");
    }
    check(corpus.vocab_size() <= loaded.model->config().vocab_size, "eval", "the corpus has token ids up to ",
          corpus.vocab_size() - 1, ", the model a vocabulary of ", loaded.model->config().vocab_size,
          ": do they belong together?");
  }

  LoadedModel loaded;
  std::unique_ptr<LlamaScorer> scorer;
  std::optional<int32_t> bos;
  TokenCorpus corpus;
};

/// Adds what was run to the protocol, prints the table and writes the file.
void deliver(EvalResult result, const Common& o, const Setup& setup, double seconds, const std::vector<Record>& table) {
  result.protocol.set("model", o.model);
  const RopeConfig& rope = setup.loaded.model->config().rope;
  result.protocol.set("rope_type", rope.rope_type);
  result.protocol.set("rope_scaling", rope_scaling_to_json(rope));
  result.protocol.set("trained_window", rope.original_window());
  result.protocol.set("seed", static_cast<int64_t>(o.seed));
  result.protocol.set("seconds", seconds);
  std::cout << to_text_table(table);
  if (!o.json.empty()) write_file_atomic(o.json, to_json(result));
}

struct PplOptions : Common {
  std::vector<int64_t> windows;
  int64_t stride = 0, min_tokens = 0, chunk = 0;
  std::string weighting = "token";
  bool truncate = false, chunked = false;
};

void run_ppl(const PplOptions& o, const Globals& globals) {
  Setup setup(o, globals);
  const int64_t trained = setup.loaded.model->config().rope.original_window();
  PerplexityOptions options{.windows = o.windows.empty() ? std::vector<int64_t>{trained} : o.windows,
                            .stride = o.stride > 0 ? std::optional(o.stride) : std::nullopt,
                            .max_tokens = o.max_tokens,
                            .min_tokens = o.min_tokens,
                            .documents = o.documents,
                            .bos = setup.bos,
                            .mode = o.truncate  ? PerplexityMode::truncate
                                    : o.chunked ? PerplexityMode::chunked
                                                : PerplexityMode::sliding,
                            .weighting = o.weighting == "window" ? Weighting::window : Weighting::token,
                            .chunk = o.chunk > 0 ? o.chunk : trained,
                            .seed = o.seed};
  options.byte_count = [&](std::span<const int32_t> ids) {
    return static_cast<int64_t>(setup.loaded.tokenizer->decode(ids).size());
  };
  std::unique_ptr<ProgressBar> bar;
  options.progress = [&](int64_t done, int64_t total) {
    if (!bar) bar = std::make_unique<ProgressBar>("perplexity", total, globals);
    bar->update(done);
  };
  const double start = now();
  const PerplexityResult result = evaluate_perplexity(*setup.scorer, setup.corpus, options);
  if (bar) bar->finish();
  const EvalResult file = to_eval_result(result, options);
  deliver(file, o, setup, now() - start, file.totals);
}

void add_ppl(CLI::App& eval, const Globals& globals) {
  auto o = std::make_shared<PplOptions>();
  CLI::App* sub = eval.add_subcommand("ppl", "perplexity under sliding windows");
  add_common(*sub, *o, true);
  add_documents(*sub, *o);
  sub->add_option("--window", o->windows, "tokens of a window, BOS included, e.g. 512,2048 (default: the trained one)")
      ->delimiter(',')
      ->check(CLI::PositiveNumber);
  sub->add_option("--stride", o->stride, "tokens from one window to the next (default: window / 8)")
      ->check(CLI::PositiveNumber);
  sub->add_option("--min-tokens", o->min_tokens, "leave out documents with fewer tokens")
      ->check(CLI::NonNegativeNumber);
  sub->add_option("--weighting", o->weighting, "token, or window (the mean of window means, as YaRN's code)")
      ->check(CLI::IsMember({"token", "window"}))
      ->capture_default_str();
  CLI::Option* truncate =
      sub->add_flag("--truncate", o->truncate, "one pass over the first window of each document (PoSE Fig. 4)");
  sub->add_flag("--chunked", o->chunked, "read the window in chunks over a KV cache (CLEX's evaluation)")
      ->excludes(truncate);
  sub->add_option("--chunk", o->chunk, "tokens of a chunk (default: the trained window)")->check(CLI::PositiveNumber);
  sub->callback([o, &globals] { run_ppl(*o, globals); });
}

}  // namespace

void add_eval(CLI::App& app, Globals& globals) {
  CLI::App* eval = app.add_subcommand("eval", "Evaluate a model: perplexity, retrieval, tasks");
  eval->require_subcommand(1);
  add_ppl(*eval, globals);
}
