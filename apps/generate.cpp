// `ropewalk generate`: text from a model.
#include "nn/generate.h"

#include <cstdio>

#include "common.h"
#include "eval/protocol.h"

using namespace rw;

namespace {

struct Options {
  std::string model, prompt, rope;
  int64_t tokens = 128;
  SamplingOptions sampling;
  bool no_bos = false, ignore_eos = false, stats = false;
};

void run(const Options& o, const Globals& globals) {
  const LoadedModel m = load_model_and_tokenizer(o.model, globals, o.rope);
  m.model->use_compact_weights();
  const bool bos = !o.no_bos && m.tokenizer->bos_id().has_value();
  std::vector<int32_t> prompt = bos ? m.tokenizer->encode_with_bos(o.prompt) : m.tokenizer->encode(o.prompt);
  check(!prompt.empty(), "generate", "the prompt is empty and the tokenizer has no beginning-of-text token");
  const int64_t window = serving_window(m.model->config().rope), most = static_cast<int64_t>(prompt.size()) + o.tokens;
  if (most > window) {
    notice(cat("the prompt and ", o.tokens, " new tokens make up to ", most, " tokens, the model's window is ", window,
               ": what comes after it may make no sense"),
           globals);
  }
  GenerateOptions options{.tokens = o.tokens, .sampling = o.sampling, .stop = {}};
  if (!o.ignore_eos) {
    // llama2.c's rule too: BOS ends a text, because stories follow each other in training
    if (m.tokenizer->eos_id()) options.stop.push_back(*m.tokenizer->eos_id());
    if (m.tokenizer->bos_id()) options.stop.push_back(*m.tokenizer->bos_id());
  }
  int32_t previous = -1;
  const auto print = [&](int32_t id) {
    const std::string piece = m.tokenizer->piece(previous, id);
    std::fwrite(piece.data(), 1, piece.size(), stdout);
    std::fflush(stdout);
    previous = id;
    return true;
  };
  for (int32_t id : prompt) print(id);
  const double start = now();
  const int64_t made = generate(*m.model, prompt, options, print);
  std::printf("\n");
  if (o.stats)
    std::fprintf(stderr, "%lld tokens, %.1f tok/s\n", static_cast<long long>(made),
                 static_cast<double>(made) / (now() - start));
}

}  // namespace

void add_generate(CLI::App& app, Globals& globals) {
  auto options = std::make_shared<Options>();
  CLI::App* sub = app.add_subcommand("generate", "Continue a text");
  auto& o = *options;
  add_model(*sub, o.model);
  sub->add_option("--prompt", o.prompt, "text to continue (may be empty)")->group(kCommonOptions);
  sub->add_option("--tokens", o.tokens, "at most so many new tokens")
      ->check(CLI::NonNegativeNumber)
      ->capture_default_str()
      ->group(kCommonOptions);
  sub->add_option("--temperature", o.sampling.temperature, "0: the most likely token")->capture_default_str();
  sub->add_option("--top-k", o.sampling.top_k, "choose among the k most likely (0: all)")->capture_default_str();
  sub->add_option("--top-p", o.sampling.top_p, "choose among the most likely that reach this probability")
      ->capture_default_str();
  sub->add_option("--seed", o.sampling.seed, "repeats a text")->capture_default_str();
  add_rope(*sub, o.rope);
  sub->add_flag("--no-bos", o.no_bos, "do not begin with the beginning-of-text token");
  sub->add_flag("--ignore-eos", o.ignore_eos, "go on after an end-of-text token");
  sub->add_flag("--stats", o.stats, "print the speed to standard error");
  sub->callback([options, &globals] { run(*options, globals); });
}
