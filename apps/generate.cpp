// `ropewalk generate`: text from a model.
#include "nn/generate.h"

#include <cstdio>

#include "common.h"
#include "eval/protocol.h"
#include "prompt.h"

using namespace rw;

namespace {

struct Options {
  std::string model, adapter, prompt, prompt_file, rope, weights, system, chat_template;
  int64_t tokens = 128;
  SamplingChoice sampling;
  bool no_bos = false, special = false, chat = false, ignore_eos = false, stats = false;
};

std::vector<int32_t> prompt_ids(const Options& o, const Tokenizer& tokenizer) {
  const std::string text = prompt_text(o.prompt, o.prompt_file);
  if (o.chat) {
    std::vector<ChatMessage> messages;
    if (!o.system.empty()) messages.push_back({ChatRole::system, o.system});
    messages.push_back({ChatRole::user, text});
    return encode_chat(tokenizer, choose_chat_template(o.chat_template, tokenizer), messages);
  }
  check(o.system.empty() && o.chat_template.empty(), "generate", "--system and --chat-template need --chat");
  std::vector<int32_t> ids = o.special ? tokenizer.encode_special(text) : tokenizer.encode(text);
  const auto bos = o.no_bos ? std::nullopt : tokenizer.bos_id();
  if (bos && (ids.empty() || !o.special || ids[0] != *bos)) ids.insert(ids.begin(), *bos);
  check(!ids.empty(), "generate", "the prompt is empty and the tokenizer has no beginning-of-text token");
  return ids;
}

void run(const Options& o, const Globals& globals) {
  const LoadedModel m = load_model_and_tokenizer(o.model, globals, o.rope, o.adapter);
  apply_weights(*m.model, o.weights);
  m.model->use_bf16_copy();
  const std::vector<int32_t> prompt = prompt_ids(o, *m.tokenizer);
  const int64_t window = serving_window(m.model->config().rope), most = static_cast<int64_t>(prompt.size()) + o.tokens;
  if (most > window) {
    notice(cat("the prompt and ", o.tokens, " new tokens make up to ", most, " tokens, the model's window is ", window,
               ": what comes after it may make no sense"),
           globals);
  }
  GenerateOptions options{.tokens = o.tokens, .sampling = sampling_of(o.sampling, o.model, globals), .stop = {}};
  if (!o.ignore_eos) {
    options.stop = end_tokens(m, o.model);
    // llama2.c's rule too: BOS ends a text, because stories follow each other in training
    if (m.tokenizer->bos_id()) options.stop.push_back(*m.tokenizer->bos_id());
    if (o.chat) {
      for (const int32_t id : chat_ends(*m.tokenizer, choose_chat_template(o.chat_template, *m.tokenizer)))
        options.stop.push_back(id);
    }
  }
  int32_t previous = -1;
  const auto print = [&](int32_t id) {
    if (id >= m.tokenizer->vocab_size()) return true;  // of a padded vocabulary: it says nothing
    const std::string piece = m.tokenizer->piece(previous, id);
    std::fwrite(piece.data(), 1, piece.size(), stdout);
    std::fflush(stdout);
    previous = id;
    return true;
  };
  if (o.chat) previous = prompt.back();  // only the answer is printed
  else
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
  add_adapter(*sub, o.adapter);
  sub->add_option("--prompt", o.prompt, "text to continue (may be empty)")->group(kCommonOptions);
  sub->add_option("--prompt-file", o.prompt_file, "file with the text to continue; - is standard input")
      ->excludes("--prompt");
  sub->add_flag("--chat", o.chat, "the prompt is a question: put it into the model's chat template, print the answer");
  sub->add_option("--system", o.system, "with --chat: what the model is told before");
  add_chat_template(*sub, o.chat_template);
  sub->add_flag("--special", o.special, "special tokens spelled in the prompt are read as such")->excludes("--chat");
  sub->add_option("--tokens", o.tokens, "at most so many new tokens")
      ->check(CLI::NonNegativeNumber)
      ->capture_default_str()
      ->group(kCommonOptions);
  add_sampling(*sub, o.sampling);
  add_rope(*sub, o.rope);
  add_weights(*sub, o.weights);
  sub->add_flag("--no-bos", o.no_bos, "do not begin with the beginning-of-text token");
  sub->add_flag("--ignore-eos", o.ignore_eos, "go on after an end-of-text token");
  sub->add_flag("--stats", o.stats, "print the speed to standard error");
  sub->callback([options, &globals] { run(*options, globals); });
}
