// The table of a run's settings: one entry each, in groups.
#include "tensor/printable.h"
#include "train/recipe_fields.h"

namespace rw {
namespace {

constexpr double kLong = 1099511627776.0, kTokens = 1073741824.0, kHuge = 1e300;

std::string new_model_only(const Recipe& c) { return c.from.empty() ? "" : "the shape of the model is that of --from"; }
std::string with_nope_layers(const Recipe& c) {
  if (!c.from.empty()) return new_model_only(c);
  return c.family == "smollm3" ? "" : "family '" + c.family + "' has RoPE in every layer; smollm3 has layers without";
}
std::string with_mix(const Recipe& c) { return c.retrieval_share > 0 ? "" : "there is no --retrieval-share"; }
std::string with_validation(const Recipe& c) { return c.validation.empty() ? "there is no --validation" : ""; }
std::string with_seams(const Recipe& c) {
  if (c.method_value && c.method_value->sampler.has_seams()) return "";
  for (const PositionConfig& sampler : position_samplers()) {
    if (sampler.name() == c.method && sampler.has_seams()) return "";
  }
  return "method '" + c.method + "' has no chunks";
}
std::string with_target(const Recipe& c) {
  return c.method == "plain" ? "method plain extends nothing; add --method, one of " + joined(method_names()) : "";
}
std::string with_checkpoints(const Recipe& c) {
  return c.save_every > 0 || c.save_minutes > 0 ? "" : "no checkpoint is written";
}
std::string with_whole_windows(const Recipe& c) {
  const bool full = c.method == "full" || c.method == "pi";
  return full && c.window != c.target ? "method '" + c.method + "' trains on windows of --target tokens" : "";
}

std::vector<std::string> trained_kinds() {
  std::vector<std::string> names;
  for (const RopeKind& kind : rope_kinds()) {
    if (kind.trained()) names.push_back(kind.name());
  }
  return names;
}

template <class M>
auto at(M Recipe::*member) {
  return [member](Recipe& c) -> RecipeField::Ref { return &(c.*member); };
}

void add_text(std::vector<RecipeField>& f) {
  using enum FieldGroup;
  const auto source = FieldRole::source, decides = FieldRole::decides;
  f.push_back({.name = "data",
               .help = "text files, .jsonl files or folders, or one token file; demo: built-in stories",
               .group = text,
               .role = source,
               .at = at(&Recipe::data)});
  f.push_back(
      {.name = "from", .help = "model folder to start from", .group = text, .role = source, .at = at(&Recipe::from)});
  f.push_back({.name = "tokenizer",
               .help = "tokenizer folder or file (default: --from's; bytes for a new model)",
               .group = text,
               .role = source,
               .at = at(&Recipe::tokenizer)});
  f.push_back({.name = "packed",
               .help = "join documents with end-of-text tokens (for corpora of short ones)",
               .group = text,
               .role = decides,
               .at = at(&Recipe::packed)});
  f.push_back({.name = "no-bos",
               .help = "no beginning-of-text token in front of samples",
               .group = text,
               .role = decides,
               .at = at(&Recipe::no_bos)});
  f.push_back(
      {.name = "retrieval-share",
       .help = "share of samples in which a number is hidden in the text and asked for (5 to 10 % teach the task)",
       .group = text,
       .role = decides,
       .at = at(&Recipe::retrieval_share),
       .low = 0,
       .high = 1});
  f.push_back({.name = "retrieval-weight",
               .help = "how many times an answer's tokens count in the loss",
               .group = text,
               .role = decides,
               .at = at(&Recipe::retrieval_weight),
               .low = 0,
               .high = kHuge,
               .above = true,
               .idle = with_mix});
  f.push_back(
      {.name = "retrieval-template",
       .help =
           "wording of the key-retrieval samples: default, short, or a JSON file with task, filler, needle, question",
       .group = text,
       .role = decides,
       .at = at(&Recipe::retrieval_template),
       .idle = with_mix});
}

void add_model(std::vector<RecipeField>& f) {
  using enum FieldGroup;
  const auto decides = FieldRole::decides;
  const auto shape = [&](const char* name, const char* help, auto member, double low, double high, bool above = false) {
    f.push_back({.name = name,
                 .help = help,
                 .group = model,
                 .role = decides,
                 .at = at(member),
                 .low = low,
                 .high = high,
                 .above = above,
                 .idle = new_model_only});
  };
  shape("hidden", "new model: hidden size", &Recipe::hidden, 1, 1 << 20);
  shape("layers", "new model: blocks", &Recipe::layers, 1, 1 << 16);
  shape("heads", "new model: attention heads", &Recipe::heads, 1, 1 << 16);
  shape("kv-heads", "new model: key/value heads (0: as many as heads)", &Recipe::kv_heads, 0, 1 << 16);
  shape("head-dim", "new model: size of a head (0: hidden / heads)", &Recipe::head_dim, 0, 65536);
  shape("ffn", "new model: feed-forward size (0: 8/3 hidden, to a multiple of 32)", &Recipe::ffn, 0, 1 << 24);
  shape("theta", "new model: RoPE base", &Recipe::theta, 0, kHuge, true);
  shape("init-std", "new model: standard deviation of weights (0: 1 / sqrt(hidden))", &Recipe::init_std, 0, 1e6);
  shape("untied", "new model: an output head of its own", &Recipe::untied, 0, 1);
  f.push_back({.name = "family",
               .help = "new model: the family of its blocks, by model_type",
               .group = model,
               .role = decides,
               .at = at(&Recipe::family),
               .choices = {"llama", "gpt_neox", "qwen3", "smollm3"},
               .idle = new_model_only});
  f.push_back(
      {.name = "nope-interval",
       .help = "new model of family smollm3: every so many-th layer has no RoPE (0: every fourth, as published)",
       .group = model,
       .role = decides,
       .at = at(&Recipe::nope_interval),
       .low = 0,
       .high = 1 << 16,
       .idle = with_nope_layers});
}

void add_method(std::vector<RecipeField>& f) {
  using enum FieldGroup;
  const auto decides = FieldRole::decides;
  f.push_back({.name = "method",
               .help = "plain, " + joined(method_names()),
               .group = method,
               .role = decides,
               .at = at(&Recipe::method)});
  f.push_back({.name = "scaling",
               .help = "RoPE scaling: " + joined(trained_kinds()) + ", or a JSON object of its fields",
               .group = method,
               .role = decides,
               .at = at(&Recipe::scaling)});
  f.push_back({.name = "factor",
               .help = "scaling factor (0: target / base window)",
               .group = method,
               .role = decides,
               .at = at(&Recipe::factor),
               .low = 0,
               .high = 1e9});
  f.push_back({.name = "window",
               .help = "tokens of a sample (0: the base's window; for full and pi: the target)",
               .group = method,
               .role = decides,
               .at = at(&Recipe::window),
               .low = 0,
               .high = kTokens,
               .idle = with_whole_windows});
  f.push_back({.name = "target",
               .help = "context window to extend to",
               .group = method,
               .role = decides,
               .at = at(&Recipe::target),
               .low = 0,
               .high = kTokens,
               .idle = with_target});
  f.push_back({.name = "mask-seams",
               .help = "pose: no loss where one chunk ends and another begins",
               .group = method,
               .role = decides,
               .at = at(&Recipe::mask_seams),
               .low = 0,
               .high = 1,
               .idle = with_seams});
}

std::string with_adapter(const Recipe& c) { return c.lora_rank > 0 ? "" : "there is no --lora-rank"; }

void add_adapter(std::vector<RecipeField>& f) {
  const auto setting = [&](const char* name, const char* help, auto member, double low = 0, double high = 1,
                           bool above = false, std::vector<std::string> choices = {}) {
    f.push_back({.name = name,
                 .help = help,
                 .group = FieldGroup::adapter,
                 .role = FieldRole::decides,
                 .at = at(member),
                 .low = low,
                 .high = high,
                 .above = above,
                 .choices = std::move(choices),
                 .idle = with_adapter});
  };
  f.push_back({.name = "lora-rank",
               .help = "train low-rank adapters (LoRA) of this rank beside --from's frozen weights; 0: the whole model",
               .group = FieldGroup::adapter,
               .role = FieldRole::decides,
               .at = at(&Recipe::lora_rank),
               .low = 0,
               .high = 65536,
               .idle = [](const Recipe& c) {
                 return c.lora_rank > 0 ? std::string() : std::string("rank 0 trains the whole model");
               }});
  setting("lora-alpha", "what an adapter's product is multiplied by, over the rank", &Recipe::lora_alpha, 0, kHuge,
          true);
  setting("lora-dropout", "share of an adapter's inputs that training leaves out", &Recipe::lora_dropout, 0, 0.999999);
  setting("lora-targets", "linear layers with an adapter: all, or names with commas between them (q_proj,v_proj)",
          &Recipe::lora_targets);
  setting("lora-rslora", "divide --lora-alpha by the root of the rank (rsLoRA)", &Recipe::lora_rslora);
  setting("lora-embeddings", "train the embedding, too (with --lora-norms: LongLoRA)", &Recipe::lora_embeddings);
  setting("lora-norms", "train the norms, too", &Recipe::lora_norms);
  setting("lora-base", "how the blocks' frozen linear layers are kept: native, or int8 or nf4: blocks of 64 (QLoRA)",
          &Recipe::lora_base, 0, 0, false, {"native", "int8", "nf4"});
  f.push_back({.name = "lora-double-scales",
               .help = "int8, nf4: keep the blocks' scales in 8 bits",
               .group = FieldGroup::adapter,
               .role = FieldRole::decides,
               .at = at(&Recipe::lora_double_scales),
               .low = 0,
               .high = 1,
               .idle = [](const Recipe& c) {
                 return c.lora_rank > 0 && c.lora_base != "native" ? std::string()
                                                                   : std::string("--lora-base is not int8 or nf4");
               }});
  f.push_back({.name = "lora-from",
               .help = "adapter folder to begin with, ours or PEFT's, of the same rank, scale and layers",
               .group = FieldGroup::adapter,
               .role = FieldRole::source,
               .at = at(&Recipe::lora_from),
               .idle = with_adapter});
}

void add_optimizer(std::vector<RecipeField>& f) {
  using enum FieldGroup;
  const auto decides = FieldRole::decides;
  const auto schedule = [&](const char* name, const char* help, auto member, double low, double high,
                            std::vector<std::string> choices = {}) {
    f.push_back({.name = name,
                 .help = help,
                 .group = optimizer,
                 .role = decides,
                 .at = [member](Recipe& c) -> RecipeField::Ref { return &(c.schedule.*member); },
                 .low = low,
                 .high = high,
                 .choices = std::move(choices)});
  };
  const auto adamw = [&](const char* name, const char* help, auto member, double low, double high, bool above = false) {
    f.push_back({.name = name,
                 .help = help,
                 .group = optimizer,
                 .role = decides,
                 .at = [member](Recipe& c) -> RecipeField::Ref { return &(c.adamw.*member); },
                 .low = low,
                 .high = high,
                 .above = above});
  };
  f.push_back({.name = "steps",
               .help = "optimizer steps",
               .group = optimizer,
               .role = decides,
               .at = at(&Recipe::steps),
               .low = 0,
               .high = kLong});
  f.push_back({.name = "batch",
               .help = "samples of a forward, over all ranks",
               .group = optimizer,
               .role = decides,
               .at = at(&Recipe::batch),
               .low = 1,
               .high = kTokens});
  f.push_back({.name = "accumulate",
               .help = "forwards of a step, weighted by scored tokens",
               .group = optimizer,
               .role = decides,
               .at = at(&Recipe::accumulate),
               .low = 1,
               .high = kTokens});
  schedule("lr", "peak learning rate", &Schedule::lr, 0, kHuge);
  schedule("schedule", "constant, linear or cosine", &Schedule::kind, 0, 0, {"constant", "linear", "cosine"});
  schedule("warmup", "warm-up steps", &Schedule::warmup, 0, kLong);
  schedule("warmup-start", "share of the peak where warm-up begins", &Schedule::warmup_start, 0, 1);
  schedule("min-ratio", "share of the peak at the end", &Schedule::min_ratio, 0, 1);
  adamw("beta1", "AdamW: decay of the mean of gradients", &AdamWConfig::beta1, 0, 0.999999999);
  adamw("beta2", "AdamW: decay of the mean of their squares", &AdamWConfig::beta2, 0, 0.999999999);
  adamw("eps", "AdamW: added to the divisor", &AdamWConfig::eps, 0, 1, true);
  adamw("weight-decay", "AdamW: on matrices, not on norms", &AdamWConfig::weight_decay, 0, 1e6);
  f.push_back({.name = "clip",
               .help = "largest global gradient norm (0: off)",
               .group = optimizer,
               .role = decides,
               .at = at(&Recipe::clip),
               .low = 0,
               .high = kHuge});
  f.push_back({.name = "seed",
               .help = "seed of weights, text and positions",
               .group = optimizer,
               .role = decides,
               .at = at(&Recipe::seed),
               .low = 0,
               .high = 1.8446744073709552e19});
}

void add_computing(std::vector<RecipeField>& f) {
  using enum FieldGroup;
  const auto decides = FieldRole::decides, kept = FieldRole::kept;
  f.push_back({.name = "dtype",
               .help = "f32, bf16 or auto (bf16 on a GPU)",
               .group = computing,
               .role = kept,
               .at = at(&Recipe::dtype),
               .choices = {"auto", "f32", "bf16"}});  // what it comes to decides
  f.push_back(
      {.name = "matmul",
       .help =
           "the blocks' linear layers: native; fp8: 8-bit products where their sizes pay; fp8-all: wherever sizes are "
           "multiples of 16 (bf16; a GPU of compute capability 8.9 or later)",
       .group = computing,
       .role = decides,
       .at = at(&Recipe::matmul),
       .choices = {"native", "fp8", "fp8-all"}});
  f.push_back(
      {.name = "fp8-recompute",
       .help =
           "with --matmul fp8: backward computes inputs of linear layers again instead of keeping 8-bit copies. The "
           "result is the same; it takes less memory and about 4 % more time",
       .group = computing,
       .role = kept,
       .at = at(&Recipe::fp8_recompute),
       .old_name = "fp8-lean"});
  f.push_back({.name = "eager",
               .help = "GPU: launch every kernel from the host instead of replaying a CUDA graph",
               .group = computing,
               .role = kept,
               .at = at(&Recipe::eager)});
  f.push_back(
      {.name = "fast-atomics",
       .help = "GPU: add up some gradients in whatever order they come: faster, but no two runs give the same bits",
       .group = computing,
       .role = decides,
       .at = at(&Recipe::fast_atomics)});
}

/// What is given up for memory.
void add_memory(std::vector<RecipeField>& f) {
  using enum FieldGroup;
  const auto decides = FieldRole::decides, kept = FieldRole::kept;
  f.push_back({.name = "mlp-tile",
               .help =
                   "tokens that the feed-forward layers take at a time, recomputed in backward: less memory for long "
                   "windows (0: all at once)",
               .group = computing,
               .role = decides,
               .at = at(&Recipe::mlp_tile),
               .low = 0,
               .high = kTokens,
               .idle = [](const Recipe& c) {
                 return c.mlp_tile > 0 ? std::string() : std::string("0 takes all tokens at once");
               }});
  f.push_back({.name = "memory",
               .help =
                   "what the device's memory may come to, as 24G or 900M: chooses --recompute-inputs, --recompute, "
                   "--keep-attention, --mlp-tile and --offload, and ends the run with an error where it is exceeded",
               .group = computing,
               .role = kept,
               .at = at(&Recipe::memory)});
  for (const auto& [name, help, member] :
       {std::tuple{"recompute", "recompute each block in backward: less memory, about a third more time",
                   &Recipe::recompute},
        std::tuple{"keep-attention",
                   "with --recompute: keep what attention gives instead of computing it again; for long windows",
                   &Recipe::keep_attention},
        std::tuple{"recompute-inputs", "recompute outputs of norms and activations in backward instead of keeping them",
                   &Recipe::recompute_inputs}})
    f.push_back({.name = name, .help = help, .group = computing, .role = kept, .at = at(member)});
  f.push_back(
      {.name = "small-state",
       .help =
           "bf16, one process: 14 bytes for each parameter instead of 18. Master weights lose nothing; gradients are "
           "kept in bf16, which is less exact with --accumulate",
       .group = computing,
       .role = decides,
       .at = at(&Recipe::small_state),
       .old_name = "lean"});
  f.push_back(
      {.name = "offload",
       .help = "GPU: what lies in host memory: optimizer (AdamW's moments and f32 weights; it then runs on the CPU), "
               "activations (the inputs of blocks, with --recompute), all",
       .group = computing,
       .role = kept,
       .at = at(&Recipe::offload),
       .choices = {"none", "optimizer", "activations", "all"}});
  f.push_back({.name = "moments",
               .help = "how AdamW's moments are kept: f32 (8 bytes for each parameter), bf16 (4) or int8 (2.1)",
               .group = computing,
               .role = decides,
               .at = at(&Recipe::moments),
               .choices = {"f32", "bf16", "int8"}});
}

void add_keeping(std::vector<RecipeField>& f) {
  using enum FieldGroup;
  const auto kept = FieldRole::kept;
  f.push_back({.name = "save-every",
               .help = "steps between checkpoints (0: by time alone)",
               .group = keeping,
               .role = kept,
               .at = at(&Recipe::save_every),
               .low = 0,
               .high = kLong});
  f.push_back({.name = "save-minutes",
               .help = "minutes of wall time between checkpoints (0: by steps alone)",
               .group = keeping,
               .role = kept,
               .at = at(&Recipe::save_minutes),
               .low = 0,
               .high = 1e6});
  f.push_back({.name = "keep",
               .help = "checkpoints to keep (0: all)",
               .group = keeping,
               .role = kept,
               .at = at(&Recipe::keep),
               .low = 0,
               .high = kLong,
               .idle = with_checkpoints});
  f.push_back({.name = "save-dtype",
               .help = "dtype of the model's weights on disk: f32, bf16 or auto (--from's, f32 for a new model)",
               .group = keeping,
               .role = kept,
               .at = at(&Recipe::save_dtype),
               .choices = {"auto", "f32", "bf16"}});
  f.push_back({.name = "log-every",
               .help = "steps between lines of metrics.jsonl",
               .group = keeping,
               .role = kept,
               .at = at(&Recipe::log_every),
               .low = 1,
               .high = kLong});
  f.push_back({.name = "csv",
               .help = "write the lines of metrics.jsonl as metrics.csv, too",
               .group = keeping,
               .role = kept,
               .at = at(&Recipe::csv)});
  f.push_back({.name = "validation",
               .help = "text that is not trained on, as --data: its loss under the target window goes to "
                       "validation.jsonl",
               .group = validation,
               .role = FieldRole::source,
               .at = at(&Recipe::validation)});
  f.push_back({.name = "validate-every",
               .help = "steps between validations (0: only at the end)",
               .group = validation,
               .role = kept,
               .at = at(&Recipe::validate_every),
               .low = 0,
               .high = kLong,
               .idle = with_validation});
  f.push_back({.name = "validation-tokens",
               .help = "tokens of a validation, in whole windows (at least one)",
               .group = validation,
               .role = FieldRole::decides,
               .at = at(&Recipe::validation_tokens),
               .low = 1,
               .high = kLong,
               .idle = with_validation});
}

}  // namespace

const std::vector<RecipeField>& recipe_fields() {
  static const std::vector<RecipeField> all = [] {
    std::vector<RecipeField> f;
    add_text(f);
    add_model(f);
    add_method(f);
    add_adapter(f);
    add_optimizer(f);
    add_computing(f);
    add_memory(f);
    add_keeping(f);
    return f;
  }();
  return all;
}

}  // namespace rw
