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

void add_text_and_model(std::vector<RecipeField>& f) {
  using enum FieldGroup;
  const auto source = FieldRole::source, decides = FieldRole::decides;
  f.push_back({"data", "text files, .jsonl files or folders, or one token file; demo: built-in stories", text, source,
               at(&Recipe::data)});
  f.push_back({"from", "model folder to start from", text, source, at(&Recipe::from)});
  f.push_back({"tokenizer", "tokenizer folder or file (default: --from's; bytes for a new model)", text, source,
               at(&Recipe::tokenizer)});
  f.push_back({"packed", "join documents with end-of-text tokens (for corpora of short ones)", text, decides,
               at(&Recipe::packed)});
  f.push_back({"no-bos", "no beginning-of-text token in front of samples", text, decides, at(&Recipe::no_bos)});
  f.push_back({"retrieval-share",
               "share of samples in which a number is hidden in the text and asked for (5 to 10 % teach the task)",
               text, decides, at(&Recipe::retrieval_share), 0, 1});
  f.push_back({"retrieval-weight",
               "how many times an answer's tokens count in the loss",
               text,
               decides,
               at(&Recipe::retrieval_weight),
               0,
               kHuge,
               true,
               {},
               with_mix});
  f.push_back(
      {"retrieval-template",
       "wording of the key-retrieval samples: default, short, or a JSON file with task, filler, needle, question",
       text,
       decides,
       at(&Recipe::retrieval_template),
       0,
       0,
       false,
       {},
       with_mix});

  const auto shape = [&](const char* name, const char* help, auto member, double low, double high, bool above = false) {
    f.push_back({name, help, model, decides, at(member), low, high, above, {}, new_model_only});
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
  f.push_back({"family",
               "new model: the family of its blocks, by model_type",
               model,
               decides,
               at(&Recipe::family),
               0,
               0,
               false,
               {"llama", "gpt_neox", "qwen3", "smollm3"},
               new_model_only});
  f.push_back({"nope-interval",
               "new model of family smollm3: every so many-th layer has no RoPE (0: every fourth, as published)",
               model,
               decides,
               at(&Recipe::nope_interval),
               0,
               1 << 16,
               false,
               {},
               with_nope_layers});
}

void add_method(std::vector<RecipeField>& f) {
  using enum FieldGroup;
  const auto decides = FieldRole::decides;
  f.push_back({"method", "plain, " + joined(method_names()), method, decides, at(&Recipe::method)});
  f.push_back({"scaling", "RoPE scaling: " + joined(trained_kinds()) + ", or a JSON object of its fields", method,
               decides, at(&Recipe::scaling)});
  f.push_back({"factor", "scaling factor (0: target / base window)", method, decides, at(&Recipe::factor), 0, 1e9});
  f.push_back({"window",
               "tokens of a sample (0: the base's window; for full and pi: the target)",
               method,
               decides,
               at(&Recipe::window),
               0,
               kTokens,
               false,
               {},
               with_whole_windows});
  f.push_back({"target",
               "context window to extend to",
               method,
               decides,
               at(&Recipe::target),
               0,
               kTokens,
               false,
               {},
               with_target});
  f.push_back({"mask-seams",
               "pose: no loss where one chunk ends and another begins",
               method,
               decides,
               at(&Recipe::mask_seams),
               0,
               1,
               false,
               {},
               with_seams});
}

std::string with_adapter(const Recipe& c) { return c.lora_rank > 0 ? "" : "there is no --lora-rank"; }

void add_adapter(std::vector<RecipeField>& f) {
  const auto setting = [&](const char* name, const char* help, auto member, double low = 0, double high = 1,
                           bool above = false, std::vector<std::string> choices = {}) {
    f.push_back({name, help, FieldGroup::adapter, FieldRole::decides, at(member), low, high, above, std::move(choices),
                 with_adapter});
  };
  f.push_back(
      {"lora-rank",
       "train low-rank adapters (LoRA) of this rank beside --from's frozen weights; 0: the whole model",
       FieldGroup::adapter,
       FieldRole::decides,
       at(&Recipe::lora_rank),
       0,
       65536,
       false,
       {},
       [](const Recipe& c) { return c.lora_rank > 0 ? std::string() : std::string("rank 0 trains the whole model"); }});
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
  f.push_back({"lora-double-scales",
               "int8, nf4: keep the blocks' scales in 8 bits",
               FieldGroup::adapter,
               FieldRole::decides,
               at(&Recipe::lora_double_scales),
               0,
               1,
               false,
               {},
               [](const Recipe& c) {
                 return c.lora_rank > 0 && c.lora_base != "native" ? std::string()
                                                                   : std::string("--lora-base is not int8 or nf4");
               }});
  f.push_back({"lora-from",
               "adapter folder to begin with, ours or PEFT's, of the same rank, scale and layers",
               FieldGroup::adapter,
               FieldRole::source,
               at(&Recipe::lora_from),
               0,
               0,
               false,
               {},
               with_adapter});
}

void add_optimizer(std::vector<RecipeField>& f) {
  using enum FieldGroup;
  const auto decides = FieldRole::decides;
  const auto schedule = [&](const char* name, const char* help, auto member, double low, double high,
                            std::vector<std::string> choices = {}) {
    f.push_back({name, help, optimizer, decides,
                 [member](Recipe& c) -> RecipeField::Ref { return &(c.schedule.*member); }, low, high, false,
                 std::move(choices)});
  };
  const auto adamw = [&](const char* name, const char* help, auto member, double low, double high, bool above = false) {
    f.push_back({name, help, optimizer, decides, [member](Recipe& c) -> RecipeField::Ref { return &(c.adamw.*member); },
                 low, high, above});
  };
  f.push_back({"steps", "optimizer steps", optimizer, decides, at(&Recipe::steps), 0, kLong});
  f.push_back({"batch", "samples of a forward, over all ranks", optimizer, decides, at(&Recipe::batch), 1, kTokens});
  f.push_back({"accumulate", "forwards of a step, weighted by scored tokens", optimizer, decides,
               at(&Recipe::accumulate), 1, kTokens});
  schedule("lr", "peak learning rate", &Schedule::lr, 0, kHuge);
  schedule("schedule", "constant, linear or cosine", &Schedule::kind, 0, 0, {"constant", "linear", "cosine"});
  schedule("warmup", "warm-up steps", &Schedule::warmup, 0, kLong);
  schedule("warmup-start", "share of the peak where warm-up begins", &Schedule::warmup_start, 0, 1);
  schedule("min-ratio", "share of the peak at the end", &Schedule::min_ratio, 0, 1);
  adamw("beta1", "AdamW: decay of the mean of gradients", &AdamWConfig::beta1, 0, 0.999999999);
  adamw("beta2", "AdamW: decay of the mean of their squares", &AdamWConfig::beta2, 0, 0.999999999);
  adamw("eps", "AdamW: added to the divisor", &AdamWConfig::eps, 0, 1, true);
  adamw("weight-decay", "AdamW: on matrices, not on norms", &AdamWConfig::weight_decay, 0, 1e6);
  f.push_back({"clip", "largest global gradient norm (0: off)", optimizer, decides, at(&Recipe::clip), 0, kHuge});
  f.push_back(
      {"seed", "seed of weights, text and positions", optimizer, decides, at(&Recipe::seed), 0, 1.8446744073709552e19});
}

void add_computing(std::vector<RecipeField>& f) {
  using enum FieldGroup;
  const auto decides = FieldRole::decides, kept = FieldRole::kept;
  f.push_back({"dtype",
               "f32, bf16 or auto (bf16 on a GPU)",
               computing,
               kept,
               at(&Recipe::dtype),
               0,
               0,
               false,
               {"auto", "f32", "bf16"}});  // what it comes to decides
  f.push_back(
      {"matmul",
       "the blocks' linear layers: native, or fp8: 8-bit products where their sizes pay (bf16; a GPU of compute "
       "capability 8.9 or later)",
       computing,
       decides,
       at(&Recipe::matmul),
       0,
       0,
       false,
       {"native", "fp8"}});
  f.push_back(
      {"fp8-recompute",
       "with --matmul fp8: backward computes inputs of linear layers again instead of keeping 8-bit copies. The "
       "result is the same; it takes less memory and about 4 % more time",
       computing, kept, at(&Recipe::fp8_recompute)});
  f.back().old_name = "fp8-lean";
  f.push_back(
      {"mlp-tile",
       "tokens that the feed-forward layers take at a time, recomputed in backward: less memory for long "
       "windows (0: all at once)",
       computing,
       decides,
       at(&Recipe::mlp_tile),
       0,
       kTokens,
       false,
       {},
       [](const Recipe& c) { return c.mlp_tile > 0 ? std::string() : std::string("0 takes all tokens at once"); }});
  f.push_back(
      {"memory",
       "what the device's memory may come to, as 24G or 900M: chooses --recompute, --mlp-tile and --offload, and "
       "ends the run with an error where it is exceeded",
       computing, kept, at(&Recipe::memory)});
  f.push_back({"recompute", "recompute each block in backward: less memory, about a third more time", computing, kept,
               at(&Recipe::recompute)});
  f.push_back(
      {"small-state",
       "bf16, one process: 14 bytes for each parameter instead of 18. Master weights lose nothing; gradients are "
       "kept in bf16, which is less exact with --accumulate",
       computing, decides, at(&Recipe::small_state)});
  f.back().old_name = "lean";
  f.push_back({"offload",
               "GPU: what lies in host memory: optimizer (AdamW's moments and f32 weights; it then runs on the CPU), "
               "activations "
               "(the inputs of blocks, with --recompute), all",
               computing,
               kept,
               at(&Recipe::offload),
               0,
               0,
               false,
               {"none", "optimizer", "activations", "all"}});
  f.push_back({"moments",
               "how AdamW's moments are kept: f32 (8 bytes for each parameter), bf16 (4) or int8 (2.1)",
               computing,
               decides,
               at(&Recipe::moments),
               0,
               0,
               false,
               {"f32", "bf16", "int8"}});
  f.push_back({"eager", "GPU: launch every kernel from the host instead of replaying a CUDA graph", computing, kept,
               at(&Recipe::eager)});
  f.push_back({"fast-atomics",
               "GPU: add up some gradients in whatever order they come: faster, but no two runs give the same bits",
               computing, decides, at(&Recipe::fast_atomics)});
}

void add_keeping(std::vector<RecipeField>& f) {
  using enum FieldGroup;
  const auto kept = FieldRole::kept;
  f.push_back(
      {"save-every", "steps between checkpoints (0: by time alone)", keeping, kept, at(&Recipe::save_every), 0, kLong});
  f.push_back({"save-minutes", "minutes of wall time between checkpoints (0: by steps alone)", keeping, kept,
               at(&Recipe::save_minutes), 0, 1e6});
  f.push_back({"keep",
               "checkpoints to keep (0: all)",
               keeping,
               kept,
               at(&Recipe::keep),
               0,
               kLong,
               false,
               {},
               with_checkpoints});
  f.push_back({"save-dtype",
               "dtype of the model's weights on disk: f32, bf16 or auto (--from's, f32 for a new model)",
               keeping,
               kept,
               at(&Recipe::save_dtype),
               0,
               0,
               false,
               {"auto", "f32", "bf16"}});
  f.push_back({"log-every", "steps between lines of metrics.jsonl", keeping, kept, at(&Recipe::log_every), 1, kLong});
  f.push_back({"csv", "write the lines of metrics.jsonl as metrics.csv, too", keeping, kept, at(&Recipe::csv)});
  f.push_back({"validation",
               "text that is not trained on, as --data: its loss under the target window goes to "
               "validation.jsonl",
               validation, FieldRole::source, at(&Recipe::validation)});
  f.push_back({"validate-every",
               "steps between validations (0: only at the end)",
               validation,
               kept,
               at(&Recipe::validate_every),
               0,
               kLong,
               false,
               {},
               with_validation});
  f.push_back({"validation-tokens",
               "tokens of a validation, in whole windows (at least one)",
               validation,
               FieldRole::decides,
               at(&Recipe::validation_tokens),
               1,
               kLong,
               false,
               {},
               with_validation});
}

}  // namespace

const std::vector<RecipeField>& recipe_fields() {
  static const std::vector<RecipeField> all = [] {
    std::vector<RecipeField> f;
    add_text_and_model(f);
    add_method(f);
    add_adapter(f);
    add_optimizer(f);
    add_computing(f);
    add_keeping(f);
    return f;
  }();
  return all;
}

}  // namespace rw
