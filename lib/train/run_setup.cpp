// Reading what a run needs, and telling what identifies it.
#include "train/run_setup.h"

#include <cstdio>
#include <nlohmann/json.hpp>

#include "data/demo_corpus.h"
#include "nn/io/checkpoint.h"
#include "nn/io/hf.h"
#include "tensor/file.h"
#include "tensor/hash.h"
#include "train/recipe_fields.h"
#include "train/text.h"

namespace rw {
namespace {

constexpr const char* kOp = "train";

void notice(const TrainCallbacks& callbacks, const std::string& line) {
  if (callbacks.on_notice && !line.empty()) callbacks.on_notice(line);
}

std::unique_ptr<Tokenizer> choose_tokenizer(const TrainConfig& config) {
  if (!config.tokenizer.empty()) return load_tokenizer(config.tokenizer);
  if (!config.from.empty()) return load_tokenizer(model_folder(config.from));
  return make_byte_tokenizer();
}

/// The built-in stories that a new user trains on: --data demo, or no --data.
bool is_demo(const TrainConfig& config) {
  return config.data.empty() || (config.data.size() == 1 && config.data[0] == "demo");
}

TokenCorpus text_of(const TrainConfig& config, const std::vector<Document>& given, const Tokenizer& tokenizer,
                    const TrainCallbacks& callbacks) {
  const bool demo = given.empty() && is_demo(config);
  if (demo && config.data.empty())
    notice(callbacks, "no --data: training on built-in stories (--data demo says so without this line)");
  const TokenCorpus corpus =
      demo            ? tokenize_corpus(make_demo_corpus(config.seed, 64, 20000), tokenizer, callbacks.on_tokenize)
      : given.empty() ? load_tokens(config.data, tokenizer, callbacks.on_tokenize)
                      : tokenize_corpus(given, tokenizer, callbacks.on_tokenize);
  if (!config.packed) return corpus;
  check(tokenizer.eos_id().has_value(), kOp, "--packed needs a tokenizer with an end-of-text token");
  return corpus.packed(*tokenizer.eos_id(), tokenizer.bos_id());
}

/// Documents that no sample can come from.
std::string unused_text(const TokenCorpus& corpus, int64_t window) {
  int64_t documents = 0, tokens = 0;
  for (int64_t d = 0; d < corpus.documents(); ++d) {
    if (corpus.length(d) > window) continue;
    ++documents;
    tokens += corpus.length(d);
  }
  if (documents == 0) return "";
  char share[32];
  std::snprintf(share, sizeof share, "%.3g", 100.0 * static_cast<double>(tokens) / static_cast<double>(corpus.total_tokens()));
  return cat(documents, " of ", corpus.documents(), " documents (", share,
             " % of the text) are shorter than a window of ", window,
             " tokens and its last target, and are not used; --packed joins documents");
}

/// The model that a run begins with: new, or --from's under the recipe's configuration.
std::unique_ptr<CausalLm> make_model(const TrainConfig& config, const Recipe& recipe, DType dtype, Device device) {
  const ArenaMemory memory = config.lean ? ArenaMemory::lean() : ArenaMemory{};
  if (config.from.empty()) return std::make_unique<CausalLm>(recipe.model, dtype, device, config.seed, memory);
  return load_hf(model_folder(config.from), {.compute = dtype,
                                             .device = device,
                                             .adjust = [&](ModelConfig& c) { c = recipe.model; },
                                             .seed = config.seed,
                                             .memory = memory});
}

BatchShare share_of(const TrainConfig& config, const Communicator* comm) {
  const int64_t ranks = comm ? comm->size() : 1;
  check(config.batch % ranks == 0, kOp, "--batch ", config.batch, " does not divide by ", ranks, " ranks");
  check(!config.lean || ranks == 1, kOp, "--lean is for one process, got ", ranks, " ranks");
  const int64_t count = config.batch / ranks;
  return {comm ? comm->rank() * count : 0, count};
}

/// Everything that decides the result: the settings, what the method comes to, the whole config of the model, and what
/// the files hold that the run reads.
Identity identify(const TrainConfig& config, const RunSetup& setup, const TokenCorpus* validation) {
  Identity id = deciding_settings(config);
  for (const auto& [key, value] : setup.recipe.description) id[key] = value;
  id.erase("from");
  const auto model = nlohmann::json::parse(model_config_to_json(setup.recipe.model, ""));
  for (const auto& [key, value] : model.items()) id["config." + key] = value.dump();
  id["dtype"] = setup.dtype == DType::bf16 ? "bf16" : "f32";
  id["data"] = fingerprint(setup.corpus);
  if (validation) id["validation"] = fingerprint(*validation);
  if (!config.from.empty()) id["from"] = "model " + model_checksum(model_folder(config.from));
  if (config.retrieval_share > 0) {
    const RetrievalTemplate words = choose_retrieval_template(config.retrieval_template);
    id["retrieval_template"] = cat(words.task, "|", words.filler, "|", words.needle, "|", words.question);
  }
  return id;
}

}  // namespace

std::vector<std::string> sources_of(const TrainConfig& config) {
  std::vector<std::string> out;
  for (const std::string& path : {config.from, config.tokenizer}) {
    if (!path.empty()) out.push_back(path);
  }
  return out;
}

RunSetup set_up_run(const TrainConfig& config, const TrainPlace& place, const TrainCallbacks& callbacks) {
  const bool root = !place.ranks || place.ranks->root();
  RunSetup s;
  const BatchShare share = share_of(config, place.ranks);
  s.tokenizer = choose_tokenizer(config);
  s.recipe = make_recipe(config, *s.tokenizer);
  s.dtype = config.dtype == "bf16" || (config.dtype == "auto" && place.device.is_cuda()) ? DType::bf16 : DType::f32;
  check(!config.lean || s.dtype == DType::bf16, kOp, "--lean needs --dtype bf16, got ", s.dtype);
  check(!config.lean || config.method != "clex", kOp,
        "--lean: the frequencies that clex learns are f32, expected another --method");
  s.bos = config.no_bos ? std::nullopt : s.tokenizer->bos_id();
  s.corpus = text_of(config, place.documents, *s.tokenizer, callbacks);
  s.loader = std::make_unique<Loader>(config, s.recipe, *s.tokenizer, s.corpus, s.bos, share);
  notice(callbacks, unused_text(s.corpus, s.recipe.window));
  std::optional<TokenCorpus> validation;
  if (!config.validation.empty()) {
    validation = load_tokens(config.validation, *s.tokenizer, callbacks.on_tokenize);
    s.validation.emplace(*validation, ValidationOptions{
                                          .window = s.recipe.target, .tokens = config.validation_tokens, .bos = s.bos});
    notice(callbacks, s.validation->notice());
  }
  s.model = make_model(config, s.recipe, s.dtype, place.device);
  s.identity = identify(config, s, validation ? &*validation : nullptr);
  if (!root) s.validation.reset();
  return s;
}

DType saved_dtype(const TrainConfig& config) {
  if (config.save_dtype != "auto") return config.save_dtype == "bf16" ? DType::bf16 : DType::f32;
  if (config.from.empty()) return DType::f32;
  const auto json =
      nlohmann::json::parse(read_file(model_folder(config.from) + "/config.json"), nullptr, /*allow_exceptions=*/false);
  for (const char* key : {"torch_dtype", "dtype"}) {
    if (json.is_object() && json.contains(key) && json[key] == "bfloat16") return DType::bf16;
  }
  return DType::f32;
}

}  // namespace rw
