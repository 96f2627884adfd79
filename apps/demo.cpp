// `ropewalk demo`: the whole story on built-in text, in a few minutes on two cores.
//
//   a tokenizer -> a small LLaMA with a window of 128 -> direct extrapolation to 512 fails -> PI and PoSE extend it
//   -> perplexity by window for each -> out/demo/report.html -> a sample
#include <cstdio>

#include "common.h"
#include "data/bpe_train.h"
#include "data/demo_corpus.h"
#include "eval/perplexity.h"
#include "eval/report.h"
#include "interrupt.h"
#include "nn/generate.h"
#include "nn/io/hf.h"
#include "tensor/file.h"
#include "tensor/printable.h"
#include "train.h"
#include "train/run_folder.h"

using namespace rw;

namespace {

constexpr int64_t kWindow = 128, kTarget = 512;

struct Options {
  std::string out = "out/demo";
  int64_t steps = 600;
  uint64_t seed = 1;
};

void say(const std::string& text) {
  std::printf("\n-- %s\n", text.c_str());
  std::fflush(stdout);
}

/// What the base and its extensions share.
Recipe common_config(const Options& o, const std::string& name) {
  Recipe c;
  c.out = o.out + "/" + name;
  c.tokenizer = o.out + "/tokenizer";
  c.batch = 16;
  c.seed = o.seed;
  return c;
}

Recipe base_config(const Options& o) {
  Recipe c = common_config(o, "base");
  c.hidden = 128, c.layers = 2, c.heads = 4, c.ffn = 256;
  c.window = kWindow, c.steps = o.steps;
  c.schedule = {.kind = "cosine", .lr = 3e-3, .warmup = 30, .min_ratio = 0.1};
  return c;
}

/// An extension of the base: the same number of tokens a step, a sixth of the base's steps.
Recipe extension(const Options& o, const std::string& name, const std::string& method) {
  Recipe c = common_config(o, name);
  c.from = o.out + "/base";
  c.method = method;
  c.target = kTarget;
  c.steps = std::max<int64_t>(o.steps / 6, 1);
  if (method == "pi") c.batch = 16 * kWindow / kTarget;
  c.schedule = {.kind = "cosine", .lr = 1.5e-3, .warmup = 10, .min_ratio = 0.1};
  return c;
}

/// A demo replaces the runs of an earlier one, and nobody else's.
void run_demo(Recipe config, const Globals& globals, const std::vector<Document>& documents) {
  config.overwrite = run_maker(config.out) == "demo";
  config.save_minutes = 0;
  const TrainResult result = run_training(config, globals, {.documents = documents, .maker = "demo"});
  if (result.end == TrainEnd::stopped) throw Interrupted{interrupted()};
}

/// Perplexity by window; the rows also go to FOLDER/eval-ppl.json, where `ropewalk report` finds them.
std::vector<PerplexityTotal> evaluate(const std::string& name, const std::string& folder, const std::string& rope,
                                      const std::string& results, const std::vector<Document>& documents,
                                      const Globals& globals) {
  const LoadedModel m = load_model_and_tokenizer(folder, globals, rope);
  const TokenCorpus corpus = tokenize_corpus(documents, *m.tokenizer);
  ModelScorer scorer(*m.model);
  ProgressBar bar("evaluate " + name, 1, globals);
  PerplexityOptions options;
  options.windows = {kWindow / 2, kWindow, 2 * kWindow, kTarget};
  options.stride = kWindow / 4;
  options.max_tokens = 1536;
  options.bos = m.tokenizer->bos_id();
  const PerplexityResult result = evaluate_perplexity(scorer, corpus, options);
  bar.finish();
  make_folder("demo", results);
  write_file_atomic(results + "/eval-ppl.json", to_json(to_eval_result(result, options)) + "\n");
  return result.totals;
}

std::string sample(const std::string& folder, const std::string& prompt, const Globals& globals) {
  const LoadedModel m = load_model_and_tokenizer(folder, globals);
  const std::vector<int32_t> ids = m.tokenizer->encode_with_bos(prompt);
  std::string text = m.tokenizer->decode(ids);
  int32_t previous = ids.back();
  const SamplingOptions sampling{.temperature = 0.7, .top_p = 0.95, .seed = 4};
  generate(*m.model, ids, {.tokens = 80, .sampling = sampling, .stop = {*m.tokenizer->eos_id()}}, [&](int32_t id) {
    text += m.tokenizer->piece(previous, id);
    previous = id;
    return true;
  });
  return text;
}

void run(const Options& o, const Globals& globals) {
  const double start = now();
  catch_interrupts("\nropewalk: interrupted; the demo begins again when it is started again\n");
  make_folder("demo", o.out);
  const std::vector<Document> train = make_demo_corpus(o.seed, 200, 12000),
                              held_out = make_demo_corpus(o.seed + 1000, 6, 12000);

  say("tokenizer: byte-level BPE of 640 tokens");
  make_folder("demo", o.out + "/tokenizer");
  train_bpe(train, 640)->save(o.out + "/tokenizer");

  say(cat("base model: window ", kWindow, ", ", o.steps, " steps"));
  run_demo(base_config(o), globals, train);
  say(cat("position interpolation: ", extension(o, "pi", "pi").steps, " steps on full sequences of ", kTarget));
  run_demo(extension(o, "pi", "pi"), globals, train);
  say(cat("PoSE: ", extension(o, "pose", "pose").steps, " steps on sequences of ", kWindow, " that imitate ", kTarget));
  run_demo(extension(o, "pose", "pose"), globals, train);

  say("perplexity of held-out stories by window");
  const std::string linear = cat(R"({"rope_type":"linear","factor":)", kTarget / kWindow, "}");
  struct Arm {
    std::string name, folder, rope, results;
  };
  const std::vector<Arm> arms = {{"base, extrapolating", "base", "", "base"},
                                 {"PI without training", "base", linear, "pi-zero-shot"},
                                 {"PI", "pi", "", "pi"},
                                 {"PoSE", "pose", "", "pose"}};
  std::vector<std::vector<PerplexityTotal>> totals;
  for (const Arm& a : arms)
    totals.push_back(evaluate(a.name, o.out + "/" + a.folder, a.rope, o.out + "/" + a.results, held_out, globals));
  std::printf("%-22s", "window");
  for (const PerplexityTotal& t : totals[0]) std::printf("%10lld", static_cast<long long>(t.window));
  std::printf("\n");
  for (size_t i = 0; i < arms.size(); ++i) {
    std::printf("%-22s", arms[i].name.c_str());
    for (const PerplexityTotal& t : totals[i]) std::printf("%10.2f", t.ppl());
    std::printf("\n");
  }

  // Windows: half, all and twice that of training, and the target.
  const double base_best = std::min(totals[0][0].ppl(), totals[0][1].ppl()), base_far = totals[0].back().ppl();
  const double pi = totals[2].back().ppl(), pose = totals[3].back().ppl();
  std::printf(
      "\nA lower figure is better. At %lld tokens the base has %.2f, %s its %.2f at %lld. "
      "Extended it has %.2f by PI and %.2f by PoSE.\n%s\n",
      static_cast<long long>(kTarget), base_far, base_far > base_best ? "worse than" : "not worse than", base_best,
      static_cast<long long>(totals[0][1].ppl() <= totals[0][0].ppl() ? kWindow : kWindow / 2), pi, pose,
      std::max(pi, pose) < base_best  ? "Both extended models read a long text better than the base reads any."
      : std::min(pi, pose) < base_far ? "An extended model reads a long text better than the base does."
                                      : "No extension has paid off: train longer with --steps.");

  say("a sample from the PoSE model");
  const std::string text = sample(o.out + "/pose", held_out[0].text.substr(0, 90), globals);
  std::printf("%s\n", text.c_str());

  std::vector<ReportRun> runs;
  for (const Arm& a : arms) {
    runs.push_back(load_run(o.out + "/" + a.results));
    runs.back().name = a.name;
    runs.back().baseline = a.results == "base";
    runs.back().trained_window = kWindow;
    runs.back().target_window = kTarget;
  }
  write_report(o.out + "/report.html", runs,
               {.title = "A window of 128, extended to 512",
                .subtitle = cat("A LLaMA of 0.4 M parameters trained on built-in stories (", o.steps,
                                " steps), then extended by PI and by PoSE."),
                .texts = {{"A sample from the PoSE model", text}}});
  std::printf("\nreport %s/report.html  time %s\n", printable(o.out).c_str(), duration(now() - start).c_str());
}

}  // namespace

void add_demo(CLI::App& app, Globals& globals) {
  auto options = std::make_shared<Options>();
  CLI::App* sub =
      app.add_subcommand("demo", "Train, extend and compare on built-in text: the main job in a few minutes");
  sub->add_option("--out", options->out, "folder for models and report.html")->capture_default_str();
  sub->add_option("--steps", options->steps, "training steps of the base model")
      ->check(CLI::PositiveNumber)
      ->capture_default_str();
  sub->add_option("--seed", options->seed, "of text and weights")->capture_default_str();
  sub->callback([options, &globals] { run(*options, globals); });
}
