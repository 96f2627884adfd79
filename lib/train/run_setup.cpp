// Reading what a run needs, and telling what identifies it.
#include "train/run_setup.h"

#include <cstdio>
#include <nlohmann/json.hpp>

#include "autograd/ops/detail/linear_fp8.h"
#include "data/demo_corpus.h"
#include "data/text.h"
#include "eval/provenance.h"
#include "nn/io/adapter.h"
#include "nn/io/checkpoint.h"
#include "nn/io/hf.h"
#include "tensor/file.h"
#include "tensor/folder.h"
#include "tensor/hash.h"
#include "train/recipe_fields.h"
#include "train/text.h"

namespace rw {
namespace {

constexpr const char* kOp = "train";

void notice(const TrainCallbacks& callbacks, const std::string& line) {
  if (callbacks.on_notice && !line.empty()) callbacks.on_notice(line);
}

std::unique_ptr<Tokenizer> choose_tokenizer(const Recipe& recipe) {
  if (!recipe.tokenizer.empty()) return load_tokenizer(recipe.tokenizer);
  if (!recipe.from.empty()) return load_tokenizer(model_folder(recipe.from));
  return make_byte_tokenizer();
}

/// The built-in stories that a new user trains on: --data demo, or no --data.
bool is_demo(const Recipe& recipe) { return recipe.data.empty() || names_demo_corpus(recipe.data); }

TokenCorpus tokens_of(const std::vector<TokenDocument>& given, const Tokenizer& tokenizer) {
  std::vector<std::string> names;
  std::vector<std::vector<int32_t>> ids;
  for (const TokenDocument& document : given) names.push_back(document.name), ids.push_back(document.ids);
  return TokenCorpus(names, ids, tokenizer.vocab_size());
}

TokenCorpus text_of(const Recipe& recipe, const TrainPlace& place, const Tokenizer& tokenizer,
                    const TrainCallbacks& callbacks) {
  const std::vector<Document>& given = place.documents;
  const bool demo = given.empty() && place.tokens.empty() && is_demo(recipe);
  if (demo && recipe.data.empty())
    notice(callbacks, "no --data: training on built-in stories (--data demo says so without this line)");
  const TokenCorpus corpus =
      demo ? tokenize_corpus(make_demo_corpus(recipe.seed, 64, 20000), tokenizer, callbacks.on_tokenize)
      : !place.tokens.empty() ? tokens_of(place.tokens, tokenizer)
      : given.empty()         ? load_tokens(recipe.data, tokenizer, callbacks.on_tokenize)
                              : tokenize_corpus(given, tokenizer, callbacks.on_tokenize);
  if (!recipe.packed) return corpus;
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
  std::snprintf(share, sizeof share, "%.3g",
                100.0 * static_cast<double>(tokens) / static_cast<double>(corpus.total_tokens()));
  return cat(documents, " of ", corpus.documents(), " documents (", share,
             " % of the text) are shorter than a window of ", window,
             " tokens and its last target, and are not used; --packed joins documents");
}

/// How the model's arena keeps its weights. On the host masters are whole.
ArenaMemory arena_of(const Recipe& recipe, const MemoryChoice& choice) {
  ArenaMemory memory = recipe.small_state ? ArenaMemory::small_state() : ArenaMemory{};
  memory.host_state = choice.offload_optimizer;
  memory.split_master = memory.split_master && !choice.offload_optimizer;
  memory.moments = moment_format(recipe.moments);
  return memory;
}

/// The model that a run begins with: new, or --from's under the recipe's configuration.
std::unique_ptr<CausalLm> make_model(const Recipe& recipe, const RunPlan& plan, DType dtype, Device device,
                                     const ArenaMemory& memory) {
  if (recipe.from.empty()) return std::make_unique<CausalLm>(plan.model, dtype, device, recipe.seed, memory);
  auto model = load_hf(model_folder(recipe.from), {.compute = dtype,
                                                   .device = device,
                                                   .adjust = [&](ModelConfig& c) { c = plan.model; },
                                                   .seed = recipe.seed,
                                                   .memory = memory});
  if (!recipe.lora_from.empty()) load_adapter(adapter_folder(recipe.lora_from), *model);
  return model;
}

/// What a run with an adapter trains.
std::string adapter_line(const CausalLm& model) {
  int64_t adapters = 0;
  for (const ParamArena::Segment& s : model.arena().segments())
    adapters += is_adapter_parameter(s.spec.name) ? s.numel : 0;
  const int64_t trained = model.arena().trained_count();
  return cat("adapter of rank ", model.config().adapter->rank, ": ", trained, " of ", model.arena().parameter_count(),
             " parameters are trained, ", trained - adapters, " of them not low-rank");
}

/// Which of the blocks' linear layers multiply in 8 bits where a run asks for it by `matmul`.
std::string fp8_layers(const std::string& matmul, const CausalLm& model, int64_t tokens) {
  const auto takes = matmul == "fp8" ? fp8_pays : fp8_fits;
  int64_t all = 0, taking = 0;
  for (const Block& block : model.blocks()) {
    for (const Linear* layer :
         {&block.attention().qkv(), &block.attention().output(), &block.mlp().up(), &block.mlp().down()}) {
      ++all;
      taking += takes(tokens, layer->rows(), layer->inputs());
    }
  }
  const char* why =
      matmul == "fp8" ? "; the others would gain less than they cost" : "; sizes of the others are not multiples of 16";
  return cat("--matmul ", matmul, ": ", taking, " of the blocks' ", all, " linear layers multiply in 8 bits at ",
             tokens, " tokens a forward", taking < all ? why : "");
}

/// Settings that were chosen and change nothing, one line each.
std::vector<std::string> without_effect(const Recipe& recipe, Device device) {
  static const Recipe defaults;
  const Schedule &rate = recipe.schedule, &usual = defaults.schedule;
  std::vector<std::string> out;
  if (rate.warmup > recipe.steps) {
    char reached[32];
    std::snprintf(reached, sizeof reached, "%.3g", rate(recipe.steps - 1));
    out.push_back(cat("--warmup ", rate.warmup, " is longer than the run of ", recipe.steps,
                      " steps: the rate ends at ", reached, " and never reaches --lr ", rate.lr));
  }
  if (rate.warmup == 0 && rate.warmup_start != usual.warmup_start)
    out.push_back("--warmup-start has no effect without --warmup");
  if (rate.kind == "constant" && rate.min_ratio != usual.min_ratio)
    out.push_back("--min-ratio has no effect on the constant schedule");
  if (recipe.validate_every > recipe.steps && !recipe.validation.empty())
    out.push_back(cat("--validate-every ", recipe.validate_every, " is beyond the run of ", recipe.steps,
                      " steps: it is validated at the end alone"));
  if (!device.is_cuda() && recipe.eager) out.push_back("--eager has no effect on the CPU");
  if (!device.is_cuda() && recipe.fast_atomics) out.push_back("--fast-atomics has no effect on the CPU");
  return out;
}

/// A run that goes on from another one's model as that one went: samples follow from the seed and the step.
std::string same_samples(const Recipe& recipe) {
  const std::string path = recipe.from + "/recipe.toml";
  if (recipe.from.empty() || !is_file(path)) return "";
  Recipe before;
  try {
    before = recipe_from_toml(read_file(path, limits::recipe), path);
  } catch (const Error&) {
    return "";  // another program's, or a newer one's
  }
  if (before.seed != recipe.seed || before.data != recipe.data || before.method != recipe.method ||
      before.window != recipe.window || before.target != recipe.target)
    return "";
  return cat("'", recipe.from, "' was trained in this way on this text with --seed ", recipe.seed,
             ": the same samples come again; another --seed draws others");
}

/// The base's files may be gone when the run ends.
DType saved_dtype(const Recipe& recipe) {
  if (recipe.save_dtype != "auto") return recipe.save_dtype == "bf16" ? DType::bf16 : DType::f32;
  if (recipe.from.empty()) return DType::f32;
  const auto json = nlohmann::json::parse(read_file(model_folder(recipe.from) + "/config.json", limits::config),
                                          nullptr, /*allow_exceptions=*/false);
  for (const char* key : {"torch_dtype", "dtype"}) {
    if (json.is_object() && json.contains(key) && json[key] == "bfloat16") return DType::bf16;
  }
  return DType::f32;
}

BatchShare share_of(const Recipe& recipe, const Communicator* comm) {
  const int64_t ranks = comm ? comm->size() : 1;
  check(recipe.batch % ranks == 0, kOp, "--batch ", recipe.batch, " does not divide by ", ranks, " ranks");
  check(!recipe.fp8_recompute || recipe.matmul != "native", kOp, "--fp8-recompute has no effect without --matmul fp8");
  check(!recipe.small_state || ranks == 1, kOp, "--small-state is for one process, got ", ranks, " ranks");
  check(recipe.offload == "none" || ranks == 1, kOp, "--offload is for one process, got ", ranks, " ranks");
  check(recipe.moments == "f32" || ranks == 1, kOp, "--moments ", recipe.moments, " is for one process, got ", ranks,
        " ranks");
  const int64_t count = recipe.batch / ranks;
  return {comm ? comm->rank() * count : 0, count};
}

/// What the recipe says of memory by hand.
MemoryChoice stated_choice(const Recipe& recipe) {
  check(recipe.mlp_tile == 0 || recipe.matmul == "native", kOp, "--mlp-tile with --matmul ", recipe.matmul,
        ": each tile would have a scale of its own, which is not supported");
  const bool all = recipe.offload == "all";
  const MemoryChoice stated{.recompute = recipe.recompute,
                            .mlp_tile = recipe.mlp_tile,
                            .offload_activations = all || recipe.offload == "activations",
                            .offload_optimizer = all || recipe.offload == "optimizer",
                            .keep_attention = recipe.keep_attention,
                            .recompute_inputs = recipe.recompute_inputs};
  check(!stated.recompute_inputs || recipe.matmul == "native", kOp, "--recompute-inputs with --matmul ", recipe.matmul,
        ": use --fp8-recompute");
  check(!stated.recompute_inputs || recipe.lora_rank == 0, kOp,
        "--recompute-inputs has no effect with --lora-rank: adapters keep their inputs, and frozen layers keep none");
  check(!stated.keep_attention || stated.recompute, kOp,
        "--keep-attention keeps attention's outputs of recomputed blocks: add --recompute, or leave both to --memory");
  const bool by_hand = recipe.memory.empty() || recipe.mlp_tile > 0 || recipe.recompute_inputs;
  check(!stated.offload_activations || stated.recompute || !by_hand, kOp, "--offload ", recipe.offload,
        " keeps the inputs of recomputed blocks on the host: add --recompute");
  return stated;
}

/// Errors: what does not go with the choice.
void check_choice(const Recipe& recipe, const RunSetup& s, const MemoryTask& task) {
  const std::string kind = s.plan.model.rope.rope_type();
  const bool learned = !make_rope_scaling(s.plan.model.rope)->parameter_specs().empty();
  check(!learned || !task.choice.offload_optimizer, kOp, "--offload optimizer: the frequencies that ", kind,
        " learns stay on the device, expected another --method",
        recipe.offload == "none" ? ", a larger --memory or a smaller --batch or --window" : "");
  check(!learned || !task.cuda || recipe.moments != "int8", kOp, "--moments int8: the frequencies that ", kind,
        " learns are updated apart, expected bf16 or f32");
  if (!task.cuda || !(task.choice.offload_optimizer || task.choice.offload_activations)) return;
  if (!memory_is_planned(task.model)) return;
  const int64_t bytes = plan_memory(task).host_bytes, there = host_memory_size();
  check(bytes < there, kOp, "--offload takes ", memory_text(bytes), " of host memory, of which there are ",
        memory_text(there), ": use --moments int8, --small-state, or a smaller --batch or --window");
}

std::string choice_text(const MemoryChoice& choice) {
  std::string text = choice.recompute ? "every block recomputed" : "no block recomputed";
  if (choice.keep_attention) text += " except its attention";
  if (choice.offload_activations) text += ", its input on the host";
  if (choice.recompute_inputs) text += ", outputs of norms and activations recomputed";
  if (choice.mlp_tile > 0) text += cat(", MLPs in tiles of ", choice.mlp_tile, " tokens");
  if (choice.offload_optimizer) text += ", the optimizer on the host";
  return text;
}

/// What is given up for memory: by hand, or so that the plan stays within --memory.
MemoryChoice memory_of(const Recipe& recipe, const MemoryChoice& stated, const RunSetup& s, const TrainPlace& place,
                       const TrainCallbacks& callbacks) {
  MemoryTask task{.model = s.plan.model,
                  .compute = s.dtype,
                  .cuda = place.device.is_cuda(),
                  .batch = s.share.count,
                  .length = s.plan.window,
                  .arena = arena_of(recipe, stated),
                  .choice = stated};
  if (!recipe.memory.empty()) {
    const int64_t limit = memory_size(recipe.memory);
    if (!stated.recompute && !stated.recompute_inputs && stated.mlp_tile == 0)
      task.choice = choose_memory(task, limit, recipe.matmul == "native", /*host=*/place.ranks == nullptr);
    task.arena = arena_of(recipe, task.choice);
    const MemoryPlan plan = plan_memory(task);
    check(plan.bytes <= limit, kOp, "--memory ", recipe.memory, ": the settings come to ", memory_text(plan.bytes),
          "; leave --recompute, --keep-attention, --recompute-inputs and --mlp-tile to --memory, or use a smaller "
          "--batch or --window");
    std::string line = cat("--memory ", recipe.memory, ": the peak will be about ", memory_text(plan.bytes), " ",
                           plan.moment, ", with ", choice_text(task.choice));
    if (plan.host_bytes > 0) line += cat("; ", memory_text(plan.host_bytes), " of host memory");
    notice(callbacks, line);
  }
  check_choice(recipe, s, task);
  if (!task.cuda && recipe.offload != "none")
    notice(callbacks, cat("--offload ", recipe.offload, " saves nothing on the CPU: its memory is the host's"));
  return task.choice;
}

/// Everything that decides the result: the settings, what the method comes to, the whole recipe of the model, and what
/// the files hold that the run reads.
Identity identify(const Recipe& recipe, const RunSetup& setup, const TokenCorpus* validation) {
  Identity id = deciding_settings(recipe);
  for (const auto& [key, value] : setup.plan.description) id[key] = value;
  id.erase("from");
  const auto model = nlohmann::json::parse(model_config_to_json(setup.plan.model, ""));
  for (const auto& [key, value] : model.items()) id["config." + key] = value.dump();
  if (setup.memory.mlp_tile > 0) id["mlp_tile"] = cat(setup.memory.mlp_tile);
  if (setup.memory.offload_optimizer) id["offload"] = "optimizer";  // AdamW of the CPU
  id["dtype"] = setup.dtype == DType::bf16 ? "bf16" : "f32";
  id["data"] = fingerprint(setup.corpus);
  if (validation) id["validation"] = fingerprint(*validation);
  if (!recipe.from.empty()) {
    const std::string base = model_folder(recipe.from);
    id["from"] =
        cat("weights ", weights_checksum(base).value_or("none"), " config ", file_checksum(base + "/config.json"));
  }
  if (!recipe.lora_from.empty())
    id["lora_from"] = file_checksum(adapter_folder(recipe.lora_from) + "/adapter_model.safetensors");
  if (recipe.retrieval_share > 0) {
    const RetrievalTemplate words = choose_retrieval_template(recipe.retrieval_template);
    id["retrieval_template"] = cat(words.task, "|", words.filler, "|", words.needle, "|", words.question);
  }
  return id;
}

}  // namespace

std::vector<std::string> sources_of(const Recipe& recipe) {
  std::vector<std::string> out;
  for (const std::string& path : {recipe.from, recipe.tokenizer, recipe.lora_from}) {
    if (!path.empty()) out.push_back(path);
  }
  return out;
}

RunSetup set_up_run(const Recipe& recipe, const TrainPlace& place, const TrainCallbacks& callbacks) {
  const bool root = !place.ranks || place.ranks->root();
  RunSetup s;
  const BatchShare share = s.share = share_of(recipe, place.ranks);
  const MemoryChoice stated = stated_choice(recipe);
  s.tokenizer = choose_tokenizer(recipe);
  s.plan = make_plan(recipe, *s.tokenizer);
  constexpr int64_t kMostInForward = INT32_MAX;  // of a micro-batch: kernels count them in 32 bits
  check(share.count <= kMostInForward / s.plan.window, kOp, "--batch ", recipe.batch, " with windows of ",
        s.plan.window, " tokens is more than ", kMostInForward,
        " tokens at a time: use a smaller one and --accumulate");
  const int64_t vocabulary = s.plan.model.vocab_size;
  s.tokenizer->fit_model(vocabulary);
  s.dtype = recipe.dtype == "bf16" || (recipe.dtype == "auto" && place.device.is_cuda()) ? DType::bf16 : DType::f32;
  s.save_dtype = saved_dtype(recipe);
  if (!recipe.from.empty()) s.generation = generation_file(model_folder(recipe.from));
  for (const std::string& line : without_effect(recipe, place.device)) notice(callbacks, line);
  check(!recipe.small_state || s.dtype == DType::bf16, kOp, "--small-state needs --dtype bf16, got ", s.dtype);
  check(!recipe.small_state || make_rope_scaling(s.plan.model.rope)->parameter_specs().empty(), kOp,
        "--small-state: the frequencies that ", s.plan.model.rope.rope_type(),
        " learns are f32, expected another --method");
  s.bos = recipe.no_bos ? std::nullopt : s.tokenizer->bos_id();
  check(!s.bos || *s.bos < vocabulary, kOp, "the tokenizer's BOS has id ", s.bos.value_or(0),
        ", the model a vocabulary of ", vocabulary, ": expected another tokenizer, or --no-bos");
  s.corpus = text_of(recipe, place, *s.tokenizer, callbacks);
  check_vocabulary(s.corpus, vocabulary);
  s.loader = std::make_unique<Loader>(recipe, s.plan, *s.tokenizer, s.corpus, s.bos, share);
  s.loader->next(0, 0);  // what a sampler refuses is said before anything is written
  notice(callbacks, unused_text(s.corpus, s.plan.window));
  notice(callbacks, same_samples(recipe));
  std::optional<TokenCorpus> validation;
  if (!recipe.validation.empty()) {
    validation = load_tokens(recipe.validation, *s.tokenizer, callbacks.on_tokenize);
    check_vocabulary(*validation, vocabulary);
    s.validation.emplace(*validation,
                         ValidationOptions{.window = s.plan.target, .tokens = recipe.validation_tokens, .bos = s.bos});
    notice(callbacks, s.validation->notice());
  }
  s.memory = memory_of(recipe, stated, s, place, callbacks);
  check(!s.plan.model.adapter || place.maker == "train" || place.maker == "compare", kOp,
        "--lora-rank is for ropewalk train and compare, and not for ", place.maker);
  s.model = make_model(recipe, s.plan, s.dtype, place.device, arena_of(recipe, s.memory));
  if (s.plan.model.adapter) notice(callbacks, adapter_line(*s.model));
  if (recipe.matmul != "native") notice(callbacks, fp8_layers(recipe.matmul, *s.model, share.count * s.plan.window));
  s.identity = identify(recipe, s, validation ? &*validation : nullptr);
  if (!root) s.validation.reset();
  return s;
}

}  // namespace rw
