// ropewalk eval ...: what a model makes of text. One subcommand per protocol; eval_protocols.cpp has their options,
// lib/eval what they do.
#include "eval.h"

#include <cstdio>
#include <filesystem>
#include <iostream>

#include "tensor/file.h"
#include "verbs.h"

using namespace rw;

namespace {

/// Before the work, not after it. Errors: the file's folder does not exist.
void check_json_path(const std::string& path) {
  const auto folder = std::filesystem::path(path).parent_path();
  check(path.empty() || folder.empty() || std::filesystem::is_directory(folder), "eval", "cannot write '", path,
        "': no folder '", folder.string(), "'");
}

void run(const EvalProtocol& protocol, const Globals& globals) {
  const EvalOptions& o = protocol.options;
  check_json_path(o.json);
  const LoadedModel loaded = load_model_and_tokenizer(o.model, globals, o.rope);
  const TokenCorpus corpus = o.data.empty() ? TokenCorpus() : load_tokens(o.data, *loaded.tokenizer, globals);
  EvalSubject subject(*loaded.model, *loaded.tokenizer, corpus, o);
  const EvalResult result = protocol.run(subject, globals);
  std::cout << to_text_table(result.totals);
  if (!o.json.empty()) write_file_atomic(o.json, to_json(result));
  std::fputs(protocol.closing(result).c_str(), stdout);
}

}  // namespace

void add_eval(CLI::App& app, Globals& globals) {
  CLI::App* eval = app.add_subcommand("eval", "Evaluate a model: perplexity, retrieval, tasks");
  eval->require_subcommand(1);
  for (const char* kind : {"ppl", "lastk", "bins", "passkey", "needle", "tasks", "longbench"}) {
    const std::shared_ptr<EvalProtocol> protocol = make_eval_protocol(kind);
    CLI::App* sub = eval->add_subcommand(kind, protocol->help());
    EvalOptions& o = protocol->options;
    sub->add_option("--model", o.model, "model folder (Hugging Face layout)")->required();
    sub->add_option("--rope", o.rope,
                    "another rope_scaling for this call, as JSON: '{\"rope_type\":\"linear\",\"factor\":8}'");
    sub->add_option("--json", o.json, "write protocol, rows and totals to this file");
    protocol->add_options(*sub);
    sub->callback([protocol, &globals] { run(*protocol, globals); });
  }
  add_eval_logits(*eval, globals);
}
