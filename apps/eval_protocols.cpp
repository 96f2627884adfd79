// The protocols of `ropewalk eval`: options to what lib/eval does.
#include <algorithm>

#include "eval.h"
#include "eval/lastk.h"
#include "eval/longbench.h"
#include "eval/passkey.h"
#include "eval/perplexity.h"
#include "eval/tasks.h"
#include "tensor/file.h"

using namespace rw;

namespace {

// Their messages name both ends, unlike CLI11's own.
const CLI::Range kPositive(int64_t{1}, int64_t{1} << 40), kCount(int64_t{0}, int64_t{1} << 40);

void add_common(CLI::App& sub, EvalOptions& o) {
  sub.add_option("--batch-tokens", o.batch_tokens, "tokens of one forward (0: 4096 on the CPU, 65536 on a GPU)")
      ->check(kCount);
  sub.add_option("--seed", o.seed, "of everything drawn: intervals, keys, depths")->capture_default_str();
  sub.add_flag("--no-bos", o.no_bos, "do not begin with the beginning-of-text token");
}

/// The text that losses are measured on, and add_common's.
void add_text(CLI::App& sub, EvalOptions& o) {
  sub.add_option("--data", o.data, "text: files, folders, .jsonl, or a token file")->required();
  sub.add_option("--documents", o.documents, "only the first N documents that are long enough (0: all)")->check(kCount);
  add_common(sub, o);
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

class Ppl : public EvalProtocol {
 public:
  const char* kind() const override { return "ppl"; }
  const char* help() const override { return "perplexity under sliding windows"; }
  bool needs_data() const override { return true; }

  void add_options(CLI::App& sub) override {
    add_text(sub, options);
    sub.add_option("--max-tokens", options.max_tokens, "only the first N tokens of each document (0: all)")
        ->check(kCount);
    sub.add_option("--window", windows_, "tokens of a window, BOS included, e.g. 512,2048 (default: the trained one)")
        ->delimiter(',')
        ->check(kPositive);
    sub.add_option("--stride", stride_, "tokens from one window to the next (default: window / 8)")->check(kPositive);
    sub.add_option("--as-length", as_length_, "the RoPE scale of sequences of this length at every window")
        ->check(kPositive);
    sub.add_option("--min-tokens", min_tokens_, "leave out documents with fewer tokens")->check(kCount);
    sub.add_option("--weighting", weighting_, "token, or window (the mean of window means, as YaRN's code)")
        ->check(CLI::IsMember({"token", "window"}))
        ->capture_default_str();
    CLI::Option* truncate =
        sub.add_flag("--truncate", truncate_, "one pass over the first window of each document (PoSE Fig. 4)");
    sub.add_flag("--chunked", chunked_, "read the window in chunks over a KV cache (CLEX's evaluation)")
        ->excludes(truncate);
    sub.add_option("--chunk", chunk_, "tokens of a chunk (default: the trained window)")->check(kPositive);
  }

 protected:
  EvalResult evaluate(EvalSubject& s, const Globals& globals) const override {
    const int64_t trained = s.trained_window();
    PerplexityOptions o{.windows = windows_.empty() ? std::vector<int64_t>{trained} : windows_,
                        .stride = stride_ > 0 ? std::optional(stride_) : std::nullopt,
                        .as_length = as_length_,
                        .max_tokens = options.max_tokens,
                        .min_tokens = min_tokens_,
                        .documents = options.documents,
                        .bos = s.bos,
                        .mode = truncate_  ? PerplexityMode::truncate
                                : chunked_ ? PerplexityMode::chunked
                                           : PerplexityMode::sliding,
                        .weighting = weighting_ == "window" ? Weighting::window : Weighting::token,
                        .chunk = chunk_ > 0 ? chunk_ : trained,
                        .seed = options.seed};
    o.byte_count = [&](std::span<const int32_t> ids) { return static_cast<int64_t>(s.tokenizer.decode(ids).size()); };
    Bar bar("perplexity", globals);
    o.progress = bar.progress();
    const PerplexityResult result = evaluate_perplexity(s.scorer, s.corpus, o);
    bar.finish();
    return to_eval_result(result, o);
  }

 private:
  std::vector<int64_t> windows_;
  int64_t stride_ = 0, as_length_ = 0, min_tokens_ = 0, chunk_ = 0;
  std::string weighting_ = "token";
  bool truncate_ = false, chunked_ = false;
};

// --- lastk, bins ----------------------------------------------------------------------------------------------------

class LastK : public EvalProtocol {
 public:
  const char* kind() const override { return "lastk"; }
  const char* help() const override { return "loss of the same last tokens under growing contexts, paired"; }
  bool needs_data() const override { return true; }

  void add_options(CLI::App& sub) override {
    add_text(sub, options);
    sub.add_option("--window,--context", windows_, "contexts, e.g. 128,512,2048 (default: 1/4 to 4 trained windows)")
        ->delimiter(',')
        ->check(kPositive);
    sub.add_option("--last", own_.last, "tokens that are scored")->check(kPositive)->capture_default_str();
    sub.add_option("--targets", own_.targets, "places in each document")->check(kPositive)->capture_default_str();
    sub.add_option("--reference", own_.reference, "context that differences are taken against (default: the trained)");
  }

 protected:
  EvalResult evaluate(EvalSubject& s, const Globals& globals) const override {
    const int64_t trained = s.trained_window();
    LastKOptions o = own_;
    o.contexts = windows_;
    if (windows_.empty()) o.contexts = {trained / 4, trained / 2, trained, 2 * trained, 4 * trained};
    if (o.reference == 0 && std::count(o.contexts.begin(), o.contexts.end(), trained)) o.reference = trained;
    o.documents = options.documents;
    o.bos = s.bos;
    o.seed = options.seed;
    Bar bar("last-K", globals);
    o.progress = bar.progress();
    EvalResult result = to_eval_result(evaluate_last_k(s.scorer, s.corpus, o), o);
    bar.finish();
    return result;
  }

 private:
  std::vector<int64_t> windows_;
  LastKOptions own_;
};

class Bins : public EvalProtocol {
 public:
  const char* kind() const override { return "bins"; }
  const char* help() const override { return "mean loss by token index"; }
  bool needs_data() const override { return true; }

  void add_options(CLI::App& sub) override {
    add_text(sub, options);
    sub.add_option("--window", window_, "tokens read of each document (default: 4 trained windows)")->check(kPositive);
    sub.add_option("--bin", bin_, "token indices in one bin (default: 1/8 of the trained window)")->check(kPositive);
  }

 protected:
  EvalResult evaluate(EvalSubject& s, const Globals& globals) const override {
    const int64_t trained = s.trained_window();
    BinsOptions o{.window = window_ > 0 ? window_ : 4 * trained,
                  .bin = bin_ > 0 ? bin_ : std::max<int64_t>(1, trained / 8),
                  .documents = options.documents,
                  .bos = s.bos,
                  .seed = options.seed};
    Bar bar("bins", globals);
    o.progress = bar.progress();
    EvalResult result = to_eval_result(evaluate_bins(s.scorer, s.corpus, o), o);
    bar.finish();
    return result;
  }

 private:
  int64_t window_ = 0, bin_ = 0;
};

// --- passkey, needle ------------------------------------------------------------------------------------------------

class Passkey : public EvalProtocol {
 public:
  explicit Passkey(bool grid) : needle_(grid) {
    if (grid) trials_ = 10;
  }
  const char* kind() const override { return needle_ ? "needle" : "passkey"; }
  const char* help() const override {
    return needle_ ? "the same over a grid of prompt lengths and depths"
                   : "is a number still known that was read far back?";
  }

  void add_options(CLI::App& sub) override {
    sub.add_option("--data", options.data, "take the filler from these documents instead of the template's sentence");
    add_common(sub, options);
    sub.add_option("--window,--length", lengths_, "prompt lengths, e.g. 512,2048 (default: 1/2 to 4 trained windows)")
        ->delimiter(',')
        ->check(kPositive);
    CLI::Option* depths = sub.add_option("--depth", depths_, "depths of the key in [0, 1], e.g. 0,0.5,1")
                              ->delimiter(',')
                              ->check(CLI::Range(0.0, 1.0));
    if (!needle_) {
      sub.add_option("--distance", distances_, "distances of the key from its answer (default: a uniform depth)")
          ->delimiter(',')
          ->check(kPositive)
          ->excludes(depths);
      sub.add_option("--grid", grid_, "so many distances, evenly up to the longest prompt (PI: 32)")
          ->check(kPositive)
          ->excludes(depths);
    }
    sub.add_option("--trials", trials_, "prompts per length and place")->check(kPositive)->capture_default_str();
    sub.add_option("--template", template_, "default, short, or a JSON file with task, filler, needle, question")
        ->capture_default_str();
    sub.add_flag("--greedy", greedy_, "generate text, too, and compare the first number in it");
  }

  std::string closing(const EvalResult& result) const override {
    const auto number = [&](const char* name) { return result.protocol.integer(name); };
    if (needle_) return cat("effective length (every depth at least 80 %): ", number("effective_length"), "\n");
    std::string text;
    if (!distances_.empty() || grid_ > 0)
      text = cat("k_max (every distance up to it at least 20 %): ", number("k_max_20"), "\n");
    return text + cat("longest length with at least 80 %: ", number("longest_80"), "\n");
  }

 protected:
  EvalResult evaluate(EvalSubject& s, const Globals& globals) const override {
    const int64_t trained = s.trained_window();
    PasskeyOptions o{.lengths = lengths_,
                     .distances = distances_,
                     .depths = depths_,
                     .trials = trials_,
                     .greedy = greedy_,
                     .seed = options.seed};
    if (o.lengths.empty()) o.lengths = {trained / 2, trained, 2 * trained, 4 * trained};
    if (grid_ > 0) o.distances = distance_grid(*std::max_element(o.lengths.begin(), o.lengths.end()), grid_);
    if (needle_ && o.depths.empty()) {
      for (int i = 0; i <= 10; ++i) o.depths.push_back(i / 10.0);
    }
    const bool documents = s.corpus.documents() > 0;
    const RetrievalPrompts prompts(choose_retrieval_template(template_), s.tokenizer, s.bos,
                                   documents ? &s.corpus : nullptr);
    Bar bar(kind(), globals);
    o.progress = bar.progress();
    EvalResult result = to_eval_result(evaluate_passkey(s.scorer, prompts, s.tokenizer, o), o, kind());
    bar.finish();
    result.protocol.set("template", template_);
    result.protocol.set("filler", std::string(documents ? "documents" : "the template's sentence"));
    return result;
  }

 private:
  bool needle_;
  std::vector<int64_t> lengths_, distances_;
  std::vector<double> depths_;
  int64_t grid_ = 0, trials_ = 32;
  std::string template_ = "default";
  bool greedy_ = false;
};

// --- tasks, longbench -----------------------------------------------------------------------------------------------

class Tasks : public EvalProtocol {
 public:
  const char* kind() const override { return "tasks"; }
  const char* help() const override { return "retrieval and variable tracking in RULER's form"; }

  void add_options(CLI::App& sub) override {
    add_common(sub, options);
    sub.add_option("--task", own_.tasks, "single, multikey, vt")
        ->delimiter(',')
        ->check(CLI::IsMember({"single", "multikey", "vt"}));
    sub.add_option("--window,--length", lengths_, "prompt lengths (default: 1, 2 and 4 trained windows)")
        ->delimiter(',')
        ->check(kPositive);
    sub.add_option("--trials", own_.trials, "prompts per task and length")->check(kPositive)->capture_default_str();
    sub.add_option("--keys", own_.keys, "named numbers in multikey")->check(CLI::Range(1, 64))->capture_default_str();
    sub.add_option("--hops", own_.hops, "assignments after the first in vt")
        ->check(CLI::Range(1, 4))
        ->capture_default_str();
    sub.add_option("--digits", own_.digits, "of every number")->check(CLI::Range(2, 18))->capture_default_str();
    sub.add_flag("--greedy", own_.greedy, "generate text, too, and count the expected strings in it");
  }

 protected:
  EvalResult evaluate(EvalSubject& s, const Globals& globals) const override {
    const int64_t trained = s.trained_window();
    TaskOptions o = own_;
    o.lengths = lengths_.empty() ? std::vector<int64_t>{trained, 2 * trained, 4 * trained} : lengths_;
    o.bos = s.bos;
    o.seed = options.seed;
    Bar bar("tasks", globals);
    o.progress = bar.progress();
    EvalResult result = evaluate_tasks(s.scorer, s.tokenizer, o);
    bar.finish();
    return result;
  }

 private:
  std::vector<int64_t> lengths_;
  TaskOptions own_;
};

class LongBench : public EvalProtocol {
 public:
  const char* kind() const override { return "longbench"; }
  const char* help() const override { return "questions on long texts, generated answers (for larger models)"; }

  void add_options(CLI::App& sub) override {
    add_common(sub, options);
    sub.add_option("file", file_, "LongBench .jsonl: context, input, answers")->required();
    sub.add_option("--documents", options.documents, "only the first N items (0: all)")->check(kCount);
    sub.add_option("--prompt", prompt_file_, "file with the prompt: {context} and {input} are put in");
    sub.add_option("--metric", own_.metric, "f1 or rouge")
        ->check(CLI::IsMember({"f1", "rouge"}))
        ->capture_default_str();
    sub.add_option("--window", window_, "tokens of prompt and answer; longer prompts lose their middle")
        ->check(kPositive);
    sub.add_option("--tokens", own_.max_new, "most tokens of an answer")->check(kPositive)->capture_default_str();
  }

 protected:
  EvalResult evaluate(EvalSubject& s, const Globals& globals) const override {
    std::vector<LongBenchItem> items = load_longbench(file_);
    if (options.documents > 0 && static_cast<int64_t>(items.size()) > options.documents)
      items.resize(static_cast<size_t>(options.documents));
    LongBenchOptions o = own_;
    if (!prompt_file_.empty()) o.prompt = read_file(prompt_file_);
    o.window = window_ > 0 ? window_ : s.trained_window();
    o.bos = s.bos;
    o.eos = s.tokenizer.eos_id();
    Bar bar("longbench", globals);
    o.progress = bar.progress();
    EvalResult result = evaluate_longbench(s.scorer, s.tokenizer, items, o);
    bar.finish();
    return result;
  }

 private:
  std::string file_, prompt_file_;
  LongBenchOptions own_;
  int64_t window_ = 0;
};

}  // namespace

std::unique_ptr<EvalProtocol> make_eval_protocol(const std::string& kind) {
  if (kind == "ppl") return std::make_unique<Ppl>();
  if (kind == "lastk") return std::make_unique<LastK>();
  if (kind == "bins") return std::make_unique<Bins>();
  if (kind == "passkey" || kind == "needle") return std::make_unique<Passkey>(kind == "needle");
  if (kind == "tasks") return std::make_unique<Tasks>();
  if (kind == "longbench") return std::make_unique<LongBench>();
  return nullptr;
}

EvalSubject::EvalSubject(const CausalLm& m, const Tokenizer& t, TokenCorpus text, const EvalOptions& o)
    : model(m), tokenizer(t), corpus(std::move(text)), scorer(m, ScorerOptions{.batch_tokens = o.batch_tokens}) {
  if (!o.no_bos) bos = tokenizer.bos_id();
  check(corpus.documents() == 0 || corpus.vocab_size() <= model.config().vocab_size, "eval",
        "the corpus has token ids up to ", corpus.documents() == 0 ? 0 : corpus.vocab_size() - 1,
        ", the model a vocabulary of ", model.config().vocab_size, ": do they belong together?");
}

EvalResult EvalProtocol::run(EvalSubject& subject, const Globals& globals) const {
  const double start = now();
  EvalResult result = evaluate(subject, globals);
  const RopeConfig& rope = subject.model.config().rope;
  result.protocol.set("model", options.model);
  result.protocol.set("rope_type", rope.rope_type());
  result.protocol.set("rope_scaling", rope_scaling_to_json(rope));
  result.protocol.set("trained_window", rope.original_window());
  result.protocol.set("seed", static_cast<int64_t>(options.seed));
  result.protocol.set("seconds", now() - start);
  return result;
}

TokenCorpus load_tokens(const std::vector<std::string>& paths, const Tokenizer& tokenizer, const Globals& globals) {
  if (paths.size() == 1 && is_token_file(paths[0])) return TokenCorpus::open(paths[0]);
  const std::vector<Document> documents = load_corpus(paths);
  int64_t bytes = 0;
  for (const Document& d : documents) bytes += static_cast<int64_t>(d.text.size());
  ProgressBar bar("tokenize", bytes, globals);
  TokenCorpus corpus = tokenize_corpus(documents, tokenizer, [&](int64_t done, int64_t) { bar.update(done); });
  bar.finish(with_commas(corpus.total_tokens()) + " tokens in " + with_commas(corpus.documents()) + " documents");
  return corpus;
}
