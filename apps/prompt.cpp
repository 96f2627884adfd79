// Prompts, chat templates and sampling defaults for `generate` and `chat`.
#include "prompt.h"

#include <iostream>
#include <iterator>

#include "nn/io/generation_config.h"
#include "tensor/file.h"
#include "tensor/gguf.h"

using namespace rw;

namespace {

/// What generation_config.json states; a GGUF file has none.
GenerationConfig stated_generation(const std::string& model) {
  return is_gguf_path(model) ? GenerationConfig{} : read_generation_config(model_folder(model));
}

}  // namespace

void add_sampling(CLI::App& sub, SamplingChoice& choice) {
  SamplingOptions& s = choice.options;
  choice.temperature =
      sub.add_option("--temperature", s.temperature, "0: the most likely token")->capture_default_str();
  choice.top_k = sub.add_option("--top-k", s.top_k, "choose among the k most likely (0: all)")->capture_default_str();
  choice.top_p = sub.add_option("--top-p", s.top_p, "choose among the most likely that reach this probability")
                     ->capture_default_str();
  sub.add_option("--seed", s.seed, "seed of the choice: the same seed gives the same text")->capture_default_str();
}

SamplingOptions sampling_of(const SamplingChoice& choice, const std::string& model, const Globals& globals) {
  SamplingOptions out = choice.options;
  const GenerationConfig stated = stated_generation(model);
  if (choice.temperature->count() == 0) {
    if (stated.temperature) out.temperature = *stated.temperature;
    if (stated.do_sample == false) out.temperature = 0;
  }
  std::string unused;
  for (const std::string& setting : stated.unused) unused += (unused.empty() ? "" : ", ") + setting;
  if (!unused.empty()) notice("generation_config.json: not applied: " + unused, globals);
  if (choice.top_k->count() == 0 && stated.top_k) out.top_k = *stated.top_k;
  if (choice.top_p->count() == 0 && stated.top_p) out.top_p = *stated.top_p;
  return out;
}

std::vector<int32_t> end_tokens(const LoadedModel& m, const std::string& model) {
  std::vector<int32_t> out = stated_generation(model).eos;
  if (out.empty()) {
    for (const int64_t id : m.model->config().eos_token_id) out.push_back(static_cast<int32_t>(id));
  }
  if (out.empty() && m.tokenizer->eos_id()) out.push_back(*m.tokenizer->eos_id());
  return out;
}

void add_chat_template(CLI::App& sub, std::string& name) {
  sub.add_option("--chat-template", name,
                 "plain, chatml, llama2, llama3, mistral or gemma (default: what the model folder states)");
}

ChatTemplate choose_chat_template(const std::string& name, const Tokenizer& tokenizer) {
  if (!name.empty()) return chat_template_named(name);
  const std::string stated = stated_chat_template(tokenizer);
  check(!stated.empty(), "chat", "the model folder states no chat template: name a form with --chat-template");
  return recognise_chat_template(stated);
}

std::string prompt_text(const std::string& text, const std::string& file) {
  check(text.empty() || file.empty(), "generate", "--prompt and --prompt-file exclude each other");
  if (file.empty()) return text;
  if (file == "-") return std::string(std::istreambuf_iterator<char>(std::cin), {});
  return read_file(file, rw::limits::prompt);
}
