// ropewalk eval ...: what a model makes of text. One subcommand per protocol; lib/eval has
// their settings, defaults and what they do.
#include <cstdio>
#include <iostream>

#include "common.h"
#include "data/text.h"
#include "eval/protocol.h"
#include "eval/provenance.h"
#include "options.h"
#include "result_file.h"
#include "tensor/file.h"
#include "tensor/gguf.h"
#include "verbs.h"

using namespace rw;

namespace {

struct Call {
  std::shared_ptr<EvalProtocol> protocol;
  std::string model, adapter, rope, weights, json;
};

/// Errors: something is at --json that is not an evaluation.
void check_json_path(const std::string& path) {
  check_result_file("eval", path, "an evaluation", [](const std::string& file) {
    const std::string text = read_file(file);
    if (text.find_first_not_of(" \t\r\n{}") == std::string::npos) return true;  // nothing is lost
    eval_result_from_json(text, file);
    return true;
  });
}

void run(const Call& call, const Globals& globals) {
  EvalProtocol& protocol = *call.protocol;
  EvalOptions& o = protocol.options;
  check_json_path(call.json);
  const LoadedModel loaded = load_model_and_tokenizer(call.model, globals, call.rope, call.adapter);
  const TokenCorpus corpus = o.data.empty() ? TokenCorpus() : load_text(o.data, *loaded.tokenizer, globals);
  o.model = call.model;
  if (!call.json.empty()) {
    o.weights =
        is_gguf_path(call.model) ? file_checksum(call.model) : weights_checksum(model_folder(call.model)).value_or("");
    if (!call.adapter.empty())
      o.weights += " adapter " + file_checksum(adapter_folder(call.adapter) + "/adapter_model.safetensors");
  }
  apply_weights(*loaded.model, call.weights);
  o.weight_format = call.weights;
  EvalSubject subject(*loaded.model, *loaded.tokenizer, corpus, o);
  if (const std::string plan = protocol.plan(subject); !plan.empty()) notice(plan, globals);
  const EvalResult result = protocol.run(subject, progress_bar(protocol.kind(), globals));
  std::cout << to_text_table(result.totals);
  if (!call.json.empty()) write_file_atomic(call.json, to_json(result));
  std::cout << protocol.closing(result) << std::flush;
}

}  // namespace

void add_eval(CLI::App& app, Globals& globals) {
  CLI::App* eval = app.add_subcommand("eval", "Evaluate a model: perplexity, retrieval, tasks");
  eval->require_subcommand(1);
  for (const std::string& kind : eval_kinds()) {
    const auto call = std::make_shared<Call>();
    call->protocol = make_eval_protocol(kind);
    CLI::App* sub = eval->add_subcommand(kind, call->protocol->help());
    add_model(*sub, call->model);
    add_adapter(*sub, call->adapter);
    add_settings(*sub, call->protocol->settings());
    sub->add_option("--json", call->json, "write protocol, rows and totals to this file")->group(kCommonOptions);
    add_rope(*sub, call->rope);
    add_weights(*sub, call->weights);
    sub->callback([call, &globals] { run(*call, globals); });
  }
  add_eval_logits(*eval, globals);
}
