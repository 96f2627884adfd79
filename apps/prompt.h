// What `generate` and `chat` share: the prompt, chat templates, and the defaults that a model folder states.
#pragma once
#include <string>
#include <vector>

#include "common.h"
#include "data/chat_template.h"
#include "nn/sampling.h"

/// How the next token is chosen, and which of it the user gave.
struct SamplingChoice {
  rw::SamplingOptions options;
  const CLI::Option *temperature = nullptr, *top_k = nullptr, *top_p = nullptr;
};
/// Declares --temperature, --top-k, --top-p and --seed.
void add_sampling(CLI::App& sub, SamplingChoice& choice);
/// What the user did not give is as generation_config.json in the model's folder states it; what it states beyond that is
/// named in a line.
rw::SamplingOptions sampling_of(const SamplingChoice& choice, const std::string& model, const Globals& globals);

/// Tokens that end a text: those that generation_config.json names, else the model's; the tokenizer's if neither does.
std::vector<int32_t> end_tokens(const LoadedModel& m, const std::string& model);

/// The form that --chat-template names, or the folder's own. Errors: no such form, none stated, one that is not known.
rw::ChatTemplate choose_chat_template(const std::string& name, const rw::Tokenizer& tokenizer);

/// Declares --chat-template.
void add_chat_template(CLI::App& sub, std::string& name);

/// `text`, or the bytes of `file`; "-" is standard input. Errors: both are given, a file that cannot be read.
std::string prompt_text(const std::string& text, const std::string& file);
