// The protocols that ask for something in the text: passkey, needle, tasks and longbench. Settings and defaults;
// passkey.h, tasks.h and longbench.h say what is counted.
#include <algorithm>

#include "data/retrieval_template.h"
#include "eval/longbench.h"
#include "eval/passkey.h"
#include "eval/protocol.h"
#include "eval/tasks.h"
#include "tensor/error.h"
#include "tensor/file.h"

namespace rw {
namespace {

/// L, 2L, 4L, ... below the model's own window, and that window; for a model that was never extended up to `beyond` L.
std::vector<int64_t> lengths_of(const EvalSubject& s, int64_t beyond) {
  const int64_t trained = s.trained_window(), most = s.window() > trained ? s.window() : beyond * trained;
  std::vector<int64_t> out;
  for (int64_t n = trained; n < most; n *= 2) out.push_back(n);
  out.push_back(most);
  return out;
}

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

  std::vector<Setting> settings() override {
    std::vector<Setting> s;
    s.push_back({.name = "data",
                 .help = "take the filler from these documents instead of the template's sentence",
                 .target = &options.data});
    protocols::add_common(s, options);
    protocols::add_generation(s, options);
    s.push_back({.name = "window",
                 .other_name = "length",
                 .help = "prompt lengths, e.g. 512,2048 (default: half the trained window, and doublings of it up to "
                         "the model's own window; 4 trained windows for a model that is not extended)",
                 .target = &lengths_,
                 .low = 1,
                 .high = kMostCount,
                 .common = true});
    s.push_back({.name = "depth",
                 .help = "depths of the key in [0, 1], e.g. 0,0.5,1",
                 .target = &depths_,
                 .low = 0,
                 .high = 1});
    if (!needle_) {
      s.push_back({.name = "distance",
                   .help = "distances of the key from its answer (default: a uniform depth)",
                   .target = &distances_,
                   .low = 1,
                   .high = kMostCount,
                   .excludes = {"depth"}});
      s.push_back({.name = "grid",
                   .help = "so many distances, evenly up to the longest prompt (PI: 32)",
                   .target = &grid_,
                   .low = 1,
                   .high = 65536,
                   .excludes = {"depth"}});
    }
    s.push_back({.name = "trials",
                 .help = "prompts per length and place",
                 .target = &trials_,
                 .low = 1,
                 .high = kMostCount,
                 .shows_default = true,
                 .common = true});
    s.push_back({.name = "template",
                 .help = "default, short, or a JSON file with task, filler, needle, question",
                 .target = &template_,
                 .shows_default = true});
    s.push_back(
        {.name = "greedy", .help = "generate text, too, and compare the first number in it", .target = &greedy_});
    return s;
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
  EvalResult evaluate(EvalSubject& s, const Progress& progress) const override {
    PasskeyOptions o{.lengths = lengths_,
                     .distances = distances_,
                     .depths = depths_,
                     .trials = trials_,
                     .greedy = greedy_,
                     .seed = options.seed,
                     .progress = progress};
    if (o.lengths.empty()) {
      o.lengths = lengths_of(s, 4);
      o.lengths.insert(o.lengths.begin(), s.trained_window() / 2);
    }
    if (grid_ > 0) o.distances = distance_grid(*std::max_element(o.lengths.begin(), o.lengths.end()), grid_);
    if (needle_ && o.depths.empty()) {
      for (int i = 0; i <= 10; ++i) o.depths.push_back(i / 10.0);
    }
    const bool documents = s.corpus.documents() > 0;
    const RetrievalPrompts prompts(choose_retrieval_template(template_), s.tokenizer, s.bos,
                                   documents ? &s.corpus : nullptr);
    EvalResult result = to_eval_result(evaluate_passkey(s.scorer, prompts, s.tokenizer, o), o, kind());
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

class Tasks : public EvalProtocol {
 public:
  const char* kind() const override { return "tasks"; }
  const char* help() const override { return "retrieval and variable tracking in RULER's form"; }

  std::vector<Setting> settings() override {
    std::vector<Setting> s;
    protocols::add_common(s, options);
    protocols::add_generation(s, options);
    s.push_back({.name = "task",
                 .help = "single, multikey, vt (default: all three)",
                 .target = &own_.tasks,
                 .choices = {"single", "multikey", "vt"},
                 .common = true});
    s.push_back({.name = "window",
                 .other_name = "length",
                 .help = "prompt lengths (default: the trained window, and doublings of it up to the model's own; 4 "
                         "trained windows for a model that is not extended)",
                 .target = &lengths_,
                 .low = 1,
                 .high = kMostCount,
                 .common = true});
    s.push_back({.name = "trials",
                 .help = "prompts per task and length",
                 .target = &own_.trials,
                 .low = 1,
                 .high = kMostCount,
                 .shows_default = true,
                 .common = true});
    s.push_back({.name = "keys",
                 .help = "named numbers in multikey",
                 .target = &own_.keys,
                 .low = 1,
                 .high = 64,
                 .shows_default = true});
    s.push_back({.name = "hops",
                 .help = "assignments after the first in vt",
                 .target = &own_.hops,
                 .low = 1,
                 .high = 4,
                 .shows_default = true});
    s.push_back({.name = "digits",
                 .help = "of every number",
                 .target = &own_.digits,
                 .low = 2,
                 .high = 18,
                 .shows_default = true});
    s.push_back(
        {.name = "greedy", .help = "generate text, too, and count the expected strings in it", .target = &own_.greedy});
    return s;
  }

 protected:
  EvalResult evaluate(EvalSubject& s, const Progress& progress) const override {
    TaskOptions o = own_;
    o.lengths = lengths_.empty() ? lengths_of(s, 4) : lengths_;
    o.bos = s.bos;
    o.seed = options.seed;
    o.progress = progress;
    return evaluate_tasks(s.scorer, s.tokenizer, o);
  }

 private:
  std::vector<int64_t> lengths_;
  TaskOptions own_;
};

class LongBench : public EvalProtocol {
 public:
  const char* kind() const override { return "longbench"; }
  const char* help() const override { return "questions on long texts, generated answers (for larger models)"; }

  std::vector<Setting> settings() override {
    std::vector<Setting> s;
    protocols::add_common(s, options);
    protocols::add_generation(s, options);
    s.push_back(protocols::items_file("LongBench .jsonl: context, input, answers", file_));
    s.push_back(protocols::first_items(options));
    s.push_back(
        {.name = "prompt", .help = "file with the prompt: {context} and {input} are put in", .target = &prompt_file_});
    s.push_back({.name = "metric",
                 .help =
                     "f1; rouge: LongBench's ROUGE-L; rouge-score: ROUGE-1, -2 and -L of summaries, as that package "
                     "counts them",
                 .target = &own_.metric,
                 .choices = {"f1", "rouge", "rouge-score"},
                 .shows_default = true});
    s.push_back({.name = "stem", .help = "rouge-score: count Porter's stems of words", .target = &own_.stem});
    s.push_back({.name = "window",
                 .help = "tokens of prompt and answer; longer prompts lose their middle (default: the model's own "
                         "window)",
                 .target = &window_,
                 .low = 1,
                 .high = kMostCount,
                 .common = true});
    s.push_back({.name = "tokens",
                 .help = "most tokens of an answer",
                 .target = &own_.max_new,
                 .low = 1,
                 .high = kMostCount,
                 .shows_default = true});
    return s;
  }

 protected:
  EvalResult evaluate(EvalSubject& s, const Progress& progress) const override {
    std::vector<LongBenchItem> items = load_longbench(file_);
    if (options.documents > 0 && static_cast<int64_t>(items.size()) > options.documents)
      items.resize(static_cast<size_t>(options.documents));
    LongBenchOptions o = own_;
    if (!prompt_file_.empty()) o.prompt = read_file(prompt_file_, limits::prompt);
    o.window = window_ > 0 ? window_ : s.window();
    o.bos = s.bos;
    o.eos = s.tokenizer.eos_id();
    o.progress = progress;
    EvalResult result = evaluate_longbench(s.scorer, s.tokenizer, items, o);
    protocols::set_file(result.protocol, "file", file_);
    return result;
  }

 private:
  std::string file_, prompt_file_;
  LongBenchOptions own_;
  int64_t window_ = 0;
};

}  // namespace

namespace protocols {

std::unique_ptr<EvalProtocol> passkey(bool grid) { return std::make_unique<Passkey>(grid); }
std::unique_ptr<EvalProtocol> tasks() { return std::make_unique<Tasks>(); }
std::unique_ptr<EvalProtocol> longbench() { return std::make_unique<LongBench>(); }

}  // namespace protocols
}  // namespace rw
