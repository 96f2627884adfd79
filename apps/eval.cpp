// ropewalk eval ...: what a model makes of text. One subcommand per protocol; the protocols are in lib/eval.
#include <algorithm>
#include <cstdio>
#include <filesystem>
#include <fstream>
#include <iostream>
#include <memory>

#include "common.h"
#include "data/corpus.h"
#include "eval/lastk.h"
#include "eval/longbench.h"
#include "eval/passkey.h"
#include "eval/perplexity.h"
#include "eval/tasks.h"
#include "tensor/file.h"
#include "verbs.h"

using namespace rw;

namespace {

// Their messages name both ends, unlike CLI11's own.
const CLI::Range kPositive(int64_t{1}, int64_t{1} << 40), kCount(int64_t{0}, int64_t{1} << 40);

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
      ->check(kCount);
  sub.add_option("--seed", o.seed, "of everything drawn: intervals, keys, depths")->capture_default_str();
  sub.add_flag("--no-bos", o.no_bos, "do not begin with the beginning-of-text token");
}

void add_documents(CLI::App& sub, Common& o) {
  sub.add_option("--documents", o.documents, "only the first N documents that are long enough (0: all)")->check(kCount);
  sub.add_option("--max-tokens", o.max_tokens, "only the first N tokens of each document (0: all)")->check(kCount);
}

bool is_token_file(const std::string& path) {
  char head[8] = {};
  std::ifstream(path, std::ios::binary).read(head, sizeof head);
  return std::string(head, sizeof head) == "RWTOKENS";
}

/// Before the work, not after it. Errors: the file's folder does not exist.
void check_json_path(const std::string& path) {
  const auto folder = std::filesystem::path(path).parent_path();
  check(path.empty() || folder.empty() || std::filesystem::is_directory(folder), "eval", "cannot write '", path,
        "': no folder '", folder.string(), "'");
}

/// A model, its tokenizer and the corpus in its tokens.
struct Setup {
  Setup(const Common& o, const Globals& globals) : loaded(load_model_and_tokenizer(o.model, globals, o.rope)) {
    check_json_path(o.json);
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

/// A progress bar that learns its total with the first report.
class Bar {
 public:
  Bar(const char* title, const Globals& globals) : title_(title), globals_(globals) {}
  Progress progress() {
    return [this](int64_t done, int64_t total) {
      if (!bar_) bar_ = std::make_unique<ProgressBar>(title_, total, globals_);
      bar_->update(done);
    };
  }
  void finish() {
    if (bar_) bar_->finish();
  }

 private:
  const char* title_;
  const Globals& globals_;
  std::unique_ptr<ProgressBar> bar_;
};

// --- ppl ------------------------------------------------------------------------------------------------------------

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
  Bar bar("perplexity", globals);
  options.progress = bar.progress();
  const double start = now();
  const PerplexityResult result = evaluate_perplexity(*setup.scorer, setup.corpus, options);
  bar.finish();
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
      ->check(kPositive);
  sub->add_option("--stride", o->stride, "tokens from one window to the next (default: window / 8)")->check(kPositive);
  sub->add_option("--min-tokens", o->min_tokens, "leave out documents with fewer tokens")->check(kCount);
  sub->add_option("--weighting", o->weighting, "token, or window (the mean of window means, as YaRN's code)")
      ->check(CLI::IsMember({"token", "window"}))
      ->capture_default_str();
  CLI::Option* truncate =
      sub->add_flag("--truncate", o->truncate, "one pass over the first window of each document (PoSE Fig. 4)");
  sub->add_flag("--chunked", o->chunked, "read the window in chunks over a KV cache (CLEX's evaluation)")
      ->excludes(truncate);
  sub->add_option("--chunk", o->chunk, "tokens of a chunk (default: the trained window)")->check(kPositive);
  sub->callback([o, &globals] { run_ppl(*o, globals); });
}

// --- lastk, bins ----------------------------------------------------------------------------------------------------

struct LastKCommand : Common {
  LastKOptions eval;
  std::vector<int64_t> windows;
};

void run_lastk(const LastKCommand& o, const Globals& globals) {
  Setup setup(o, globals);
  const int64_t trained = setup.loaded.model->config().rope.original_window();
  LastKOptions options = o.eval;
  options.contexts = o.windows;
  if (o.windows.empty()) options.contexts = {trained / 4, trained / 2, trained, 2 * trained, 4 * trained};
  if (options.reference == 0 && std::count(options.contexts.begin(), options.contexts.end(), trained))
    options.reference = trained;
  options.documents = o.documents;
  options.bos = setup.bos;
  options.seed = o.seed;
  Bar bar("last-K", globals);
  options.progress = bar.progress();
  const double start = now();
  const EvalResult result = to_eval_result(evaluate_last_k(*setup.scorer, setup.corpus, options), options);
  bar.finish();
  deliver(result, o, setup, now() - start, result.totals);
}

void add_lastk(CLI::App& eval, const Globals& globals) {
  auto o = std::make_shared<LastKCommand>();
  CLI::App* sub = eval.add_subcommand("lastk", "loss of the same last tokens under growing contexts, paired");
  add_common(*sub, *o, true);
  sub->add_option("--documents", o->documents, "only the first N documents that are long enough (0: all)");
  sub->add_option("--window,--context", o->windows, "contexts, e.g. 128,512,2048 (default: 1/4 to 4 trained windows)")
      ->delimiter(',')
      ->check(kPositive);
  sub->add_option("--last", o->eval.last, "tokens that are scored")->check(kPositive)->capture_default_str();
  sub->add_option("--targets", o->eval.targets, "places in each document")->check(kPositive)->capture_default_str();
  sub->add_option("--reference", o->eval.reference,
                  "context that differences are taken against (default: the trained)");
  sub->callback([o, &globals] { run_lastk(*o, globals); });
}

struct BinsCommand : Common {
  int64_t window = 0, bin = 0;
};

void run_bins(const BinsCommand& o, const Globals& globals) {
  Setup setup(o, globals);
  const int64_t trained = setup.loaded.model->config().rope.original_window();
  BinsOptions options{.window = o.window > 0 ? o.window : 4 * trained,
                      .bin = o.bin > 0 ? o.bin : std::max<int64_t>(1, trained / 8),
                      .documents = o.documents,
                      .bos = setup.bos,
                      .seed = o.seed};
  Bar bar("bins", globals);
  options.progress = bar.progress();
  const double start = now();
  const EvalResult result = to_eval_result(evaluate_bins(*setup.scorer, setup.corpus, options), options);
  bar.finish();
  deliver(result, o, setup, now() - start, result.totals);
}

void add_bins(CLI::App& eval, const Globals& globals) {
  auto o = std::make_shared<BinsCommand>();
  CLI::App* sub = eval.add_subcommand("bins", "mean loss by token index");
  add_common(*sub, *o, true);
  sub->add_option("--documents", o->documents, "only the first N documents that are long enough (0: all)");
  sub->add_option("--window", o->window, "tokens read of each document (default: 4 trained windows)")->check(kPositive);
  sub->add_option("--bin", o->bin, "token indices in one bin (default: 1/8 of the trained window)")->check(kPositive);
  sub->callback([o, &globals] { run_bins(*o, globals); });
}

// --- passkey, needle ------------------------------------------------------------------------------------------------

struct PasskeyCommand : Common {
  std::vector<int64_t> lengths, distances;
  std::vector<double> depths;
  int64_t grid = 0, trials = 32;
  std::string parts = "default";
  bool greedy = false;
};

RetrievalTemplate choose_template(const std::string& name) {
  if (name == "default") return default_retrieval_template();
  if (name == "short") return short_retrieval_template();
  return retrieval_template_from_json(read_file(name), name);
}

void run_passkey(const PasskeyCommand& o, const Globals& globals, const std::string& kind) {
  const RetrievalTemplate parts = choose_template(o.parts);
  Setup setup(o, globals);
  const int64_t trained = setup.loaded.model->config().rope.original_window();
  PasskeyOptions options{.lengths = o.lengths,
                         .distances = o.distances,
                         .depths = o.depths,
                         .trials = o.trials,
                         .greedy = o.greedy,
                         .seed = o.seed};
  if (options.lengths.empty()) options.lengths = {trained / 2, trained, 2 * trained, 4 * trained};
  if (o.grid > 0)
    options.distances = distance_grid(*std::max_element(options.lengths.begin(), options.lengths.end()), o.grid);
  if (kind == "needle" && options.depths.empty()) {
    for (int i = 0; i <= 10; ++i) options.depths.push_back(i / 10.0);
  }
  const RetrievalPrompts prompts(parts, *setup.loaded.tokenizer, setup.bos, o.data.empty() ? nullptr : &setup.corpus);
  Bar bar(kind.c_str(), globals);
  options.progress = bar.progress();
  const double start = now();
  EvalResult result =
      to_eval_result(evaluate_passkey(*setup.scorer, prompts, *setup.loaded.tokenizer, options), options, kind);
  bar.finish();
  result.protocol.set("template", o.parts);
  result.protocol.set("filler", std::string(o.data.empty() ? "the template's sentence" : "documents"));
  deliver(result, o, setup, now() - start, result.totals);
  if (kind == "needle") {
    std::printf("effective length (every depth at least 80 %%): %lld\n",
                static_cast<long long>(result.protocol.integer("effective_length")));
    return;
  }
  if (!options.distances.empty()) {
    std::printf("k_max (every distance up to it at least 20 %%): %lld\n",
                static_cast<long long>(result.protocol.integer("k_max_20")));
  }
  std::printf("longest length with at least 80 %%: %lld\n",
              static_cast<long long>(result.protocol.integer("longest_80")));
}

void add_passkey(CLI::App& eval, const Globals& globals, const std::string& kind, const std::string& help) {
  auto o = std::make_shared<PasskeyCommand>();
  if (kind == "needle") o->trials = 10;
  CLI::App* sub = eval.add_subcommand(kind, help);
  add_common(*sub, *o, false);
  sub->get_option("--data")->description("take the filler from these documents instead of the template's sentence");
  sub->add_option("--window,--length", o->lengths, "prompt lengths, e.g. 512,2048 (default: 1/2 to 4 trained windows)")
      ->delimiter(',')
      ->check(kPositive);
  CLI::Option* depths = sub->add_option("--depth", o->depths, "depths of the key in [0, 1], e.g. 0,0.5,1")
                            ->delimiter(',')
                            ->check(CLI::Range(0.0, 1.0));
  if (kind == "passkey") {
    sub->add_option("--distance", o->distances, "distances of the key from its answer (default: a uniform depth)")
        ->delimiter(',')
        ->check(kPositive)
        ->excludes(depths);
    sub->add_option("--grid", o->grid, "so many distances, evenly up to the longest prompt (PI: 32)")
        ->check(kPositive)
        ->excludes(depths);
  }
  sub->add_option("--trials", o->trials, "prompts per length and place")->check(kPositive)->capture_default_str();
  sub->add_option("--template", o->parts, "default, short, or a JSON file with task, filler, needle, question")
      ->capture_default_str();
  sub->add_flag("--greedy", o->greedy, "generate text, too, and compare the first number in it");
  sub->callback([o, &globals, kind] { run_passkey(*o, globals, kind); });
}

// --- tasks, longbench -----------------------------------------------------------------------------------------------

struct TasksCommand : Common {
  TaskOptions eval;
  std::vector<int64_t> lengths;
};

void run_tasks(const TasksCommand& o, const Globals& globals) {
  Setup setup(o, globals);
  const int64_t trained = setup.loaded.model->config().rope.original_window();
  TaskOptions options = o.eval;
  options.lengths = o.lengths.empty() ? std::vector<int64_t>{trained, 2 * trained, 4 * trained} : o.lengths;
  options.bos = setup.bos;
  options.seed = o.seed;
  Bar bar("tasks", globals);
  options.progress = bar.progress();
  const double start = now();
  const EvalResult result = evaluate_tasks(*setup.scorer, *setup.loaded.tokenizer, options);
  bar.finish();
  deliver(result, o, setup, now() - start, result.totals);
}

void add_tasks(CLI::App& eval, const Globals& globals) {
  auto o = std::make_shared<TasksCommand>();
  CLI::App* sub = eval.add_subcommand("tasks", "retrieval and variable tracking in RULER's form");
  add_common(*sub, *o, false);
  sub->add_option("--task", o->eval.tasks, "single, multikey, vt")
      ->delimiter(',')
      ->check(CLI::IsMember({"single", "multikey", "vt"}));
  sub->add_option("--window,--length", o->lengths, "prompt lengths (default: 1, 2 and 4 trained windows)")
      ->delimiter(',')
      ->check(kPositive);
  sub->add_option("--trials", o->eval.trials, "prompts per task and length")->check(kPositive)->capture_default_str();
  sub->add_option("--keys", o->eval.keys, "named numbers in multikey")->check(CLI::Range(1, 64))->capture_default_str();
  sub->add_option("--hops", o->eval.hops, "assignments after the first in vt")
      ->check(CLI::Range(1, 4))
      ->capture_default_str();
  sub->add_option("--digits", o->eval.digits, "of every number")->check(CLI::Range(2, 18))->capture_default_str();
  sub->add_flag("--greedy", o->eval.greedy, "generate text, too, and count the expected strings in it");
  sub->callback([o, &globals] { run_tasks(*o, globals); });
}

struct LongBenchCommand : Common {
  std::string file, prompt_file;
  LongBenchOptions eval;
  int64_t window = 0;
};

void run_longbench(const LongBenchCommand& o, const Globals& globals) {
  std::vector<LongBenchItem> items = load_longbench(o.file);
  if (o.documents > 0 && static_cast<int64_t>(items.size()) > o.documents)
    items.resize(static_cast<size_t>(o.documents));
  LongBenchOptions options = o.eval;
  if (!o.prompt_file.empty()) options.prompt = read_file(o.prompt_file);
  Setup setup(o, globals);
  options.window = o.window > 0 ? o.window : setup.loaded.model->config().rope.original_window();
  options.bos = setup.bos;
  options.eos = setup.loaded.tokenizer->eos_id();
  Bar bar("longbench", globals);
  options.progress = bar.progress();
  const double start = now();
  const EvalResult result = evaluate_longbench(*setup.scorer, *setup.loaded.tokenizer, items, options);
  bar.finish();
  deliver(result, o, setup, now() - start, result.totals);
}

void add_longbench(CLI::App& eval, const Globals& globals) {
  auto o = std::make_shared<LongBenchCommand>();
  CLI::App* sub = eval.add_subcommand("longbench", "questions on long texts, generated answers (for larger models)");
  add_common(*sub, *o, false);
  sub->remove_option(sub->get_option("--data"));
  sub->add_option("file", o->file, "LongBench .jsonl: context, input, answers")->required();
  sub->add_option("--documents", o->documents, "only the first N items (0: all)")->check(kCount);
  sub->add_option("--prompt", o->prompt_file, "file with the prompt: {context} and {input} are put in");
  sub->add_option("--metric", o->eval.metric, "f1 or rouge")
      ->check(CLI::IsMember({"f1", "rouge"}))
      ->capture_default_str();
  sub->add_option("--window", o->window, "tokens of prompt and answer; longer prompts lose their middle")
      ->check(kPositive);
  sub->add_option("--tokens", o->eval.max_new, "most tokens of an answer")->check(kPositive)->capture_default_str();
  sub->callback([o, &globals] { run_longbench(*o, globals); });
}

}  // namespace

void add_eval(CLI::App& app, Globals& globals) {
  CLI::App* eval = app.add_subcommand("eval", "Evaluate a model: perplexity, retrieval, tasks");
  eval->require_subcommand(1);
  add_ppl(*eval, globals);
  add_lastk(*eval, globals);
  add_bins(*eval, globals);
  add_passkey(*eval, globals, "passkey", "is a number still known that was read far back?");
  add_passkey(*eval, globals, "needle", "the same over a grid of prompt lengths and depths");
  add_tasks(*eval, globals);
  add_longbench(*eval, globals);
  add_eval_logits(*eval, globals);
}
