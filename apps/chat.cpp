// `ropewalk chat`: a conversation in the terminal. The history and its keys and values are kept, answers are printed as
// they are made, and Ctrl-C stops an answer without ending the conversation.
#include <csignal>
#include <cstdio>
#include <iostream>

#include "common.h"
#include "nn/session.h"
#include "prompt.h"

using namespace rw;

namespace {

struct Options {
  std::string model, adapter, rope, weights, system, chat_template;
  int64_t tokens = 512, context = 0;
  SamplingChoice sampling;
};

volatile std::sig_atomic_t interrupted = 0;

/// While it lives, Ctrl-C sets `interrupted` instead of ending the program.
class InterruptGuard {
 public:
  InterruptGuard() {
    interrupted = 0;
    struct sigaction action {};
    action.sa_handler = [](int) { interrupted = 1; };
    ::sigaction(SIGINT, &action, &before_);
  }
  ~InterruptGuard() { ::sigaction(SIGINT, &before_, nullptr); }

 private:
  struct sigaction before_ {};
};

class Conversation {
 public:
  Conversation(const Options& o, const Globals& globals)
      : options_(o),
        loaded_(load_model_and_tokenizer(o.model, globals, o.rope, o.adapter)),
        form_(choose_chat_template(o.chat_template, *loaded_.tokenizer)),
        session_(prepared(*loaded_.model, o.weights), capacity()) {
    generate_ = {.tokens = o.tokens, .sampling = sampling_of(o.sampling, o.model, globals), .stop = {}};
    generate_.stop = end_tokens(loaded_, o.model);
    for (const int32_t id : chat_ends(*loaded_.tokenizer, form_)) generate_.stop.push_back(id);
    clear();
    encode_chat(*loaded_.tokenizer, form_, with({ChatRole::user, "?"}));  // a form that does not fit is an error now
  }

  void clear() {
    messages_.clear();
    if (!options_.system.empty()) messages_.push_back({ChatRole::system, options_.system});
  }

  void say(const std::string& words) {
    std::vector<int32_t> ids = encode_chat(*loaded_.tokenizer, form_, with({ChatRole::user, words}));
    while (static_cast<int64_t>(ids.size()) >= session_.capacity() && forget())
      ids = encode_chat(*loaded_.tokenizer, form_, with({ChatRole::user, words}));
    std::string answer;
    int32_t previous = ids.back();
    const InterruptGuard guard;
    session_.answer(ids, generate_, [&](int32_t id) {
      if (interrupted) return false;
      const std::string piece = loaded_.tokenizer->piece(previous, id);
      previous = id;
      answer += piece;
      std::fwrite(piece.data(), 1, piece.size(), stdout);
      std::fflush(stdout);
      return true;
    });
    std::printf("\n");
    std::fflush(stdout);
    messages_.push_back({ChatRole::user, words});
    messages_.push_back({ChatRole::assistant, answer});
  }

 private:
  static CausalLm& prepared(CausalLm& model, const std::string& weights) {
    apply_weights(model, weights);
    model.use_bf16_copy();
    return model;
  }
  int64_t capacity() const {
    const RopeConfig& rope = loaded_.model->config().rope;
    return options_.context > 0 ? options_.context : std::max(rope.extended_window(), rope.original_window());
  }
  std::vector<ChatMessage> with(ChatMessage next) const {
    std::vector<ChatMessage> all = messages_;
    all.push_back(std::move(next));
    return all;
  }
  /// Leaves out the oldest question and answer; false if there is none.
  bool forget() {
    const size_t first = messages_.empty() || messages_[0].role != ChatRole::system ? 0 : 1;
    if (messages_.size() < first + 2) return false;
    const auto begin = messages_.begin() + static_cast<std::ptrdiff_t>(first);
    messages_.erase(begin, begin + 2);
    std::fprintf(stderr, "(the window of %lld tokens is full: the oldest question and answer are forgotten)\n",
                 static_cast<long long>(session_.capacity()));
    return true;
  }

  const Options& options_;
  LoadedModel loaded_;
  ChatTemplate form_;
  Session session_;
  GenerateOptions generate_;
  std::vector<ChatMessage> messages_;
};

void run(const Options& o, const Globals& globals) {
  Conversation conversation(o, globals);
  const bool quiet = globals.quiet;
  if (!quiet) std::fprintf(stderr, "Ctrl-C stops an answer, Ctrl-D ends, /clear begins anew\n");
  for (std::string words;;) {
    if (!quiet) std::fprintf(stderr, "> ");
    if (!std::getline(std::cin, words)) break;
    if (words.find_first_not_of(" \t\r") == std::string::npos) continue;
    if (words == "/clear") conversation.clear();
    else if (words == "/quit") break;
    else conversation.say(words);
  }
}

}  // namespace

void add_chat(CLI::App& app, Globals& globals) {
  auto options = std::make_shared<Options>();
  auto& o = *options;
  CLI::App* sub = app.add_subcommand("chat", "Talk with a model in its own chat template");
  add_model(*sub, o.model);
  add_adapter(*sub, o.adapter);
  sub->add_option("--system", o.system, "what the model is told before the conversation")->group(kCommonOptions);
  sub->add_option("--tokens", o.tokens, "at most so many tokens in an answer")
      ->check(CLI::PositiveNumber)
      ->capture_default_str();
  sub->add_option("--context", o.context, "room for the conversation, in tokens (0: the model's window)")
      ->check(CLI::NonNegativeNumber);
  add_chat_template(*sub, o.chat_template);
  add_rope(*sub, o.rope);
  add_weights(*sub, o.weights);
  add_sampling(*sub, o.sampling);
  sub->callback([options, &globals] { run(*options, globals); });
}
