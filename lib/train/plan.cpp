// From a recipe to the model, the positions and the windows that it trains with.
#include "train/plan.h"

#include <algorithm>
#include <cmath>

#include "nn/families/family.h"
#include "nn/io/checkpoint.h"
#include "nn/io/hf.h"
#include "nn/memory_plan.h"
#include "rope/kinds.h"
#include "rope/method_options.h"
#include "tensor/error.h"
#include "tensor/printable.h"
#include "train/toml.h"

namespace rw {
namespace {

constexpr const char* kOp = "train";

/// Before anything is computed from them: sizes that no sum or product of a few can overflow.
void check_sizes(const Recipe& r, int64_t fewest_steps) {
  const auto in = [](const char* option, int64_t value, int64_t low, int64_t high) {
    check(value >= low && value <= high, kOp, option, " must be ", low, " to ", high, ", got ", value);
  };
  constexpr int64_t kLong = int64_t{1} << 40, kTokens = int64_t{1} << 30;
  in("--steps", r.steps, fewest_steps, kLong);
  in("--batch", r.batch, 1, kTokens);
  in("--accumulate", r.accumulate, 1, kTokens);
  in("--window", r.window, 0, kTokens);
  in("--target", r.target, 0, kTokens);
  if (!r.from.empty()) return;
  in("--hidden", r.hidden, 1, 1 << 20);
  in("--layers", r.layers, 1, 1 << 16);
  in("--heads", r.heads, 1, 1 << 16);
  in("--kv-heads", r.kv_heads, 0, 1 << 16);
  in("--head-dim", r.head_dim, 0, kMostHeadDim);
  in("--ffn", r.ffn, 0, 1 << 24);
}

/// The block of another family than LLaMA, by its own config.json: what that leaves out is the family's default.
ModelConfig of_family(const Recipe& r) {
  if (r.family == "llama") return {};
  const FamilyRecord& family = family_named(r.family);
  const int64_t kv_heads = r.kv_heads > 0 ? r.kv_heads : r.heads;
  ConfigWriter out;
  out.set("model_type", r.family);
  for (const char* name : {"vocab_size", family.hidden_size, family.intermediate_size}) out.set(name, r.hidden);
  out.set(family.num_hidden_layers, r.layers);
  out.set(family.num_attention_heads, r.heads);
  out.set(family.max_position_embeddings, int64_t{256});
  check(r.family != "gpt_neox" || kv_heads == r.heads, kOp,
        "family gpt_neox has no grouped queries: leave --kv-heads out");
  if (r.family != "gpt_neox") out.set("num_key_value_heads", kv_heads);
  if (r.nope_interval > 0) out.set("no_rope_layer_interval", r.nope_interval);
  return model_config_from_json(out.text());
}

/// What a new model may be trained with from its first step: kinds that stretch nothing.
RopeConfig begun_with(const Recipe& r, const RopeConfig& plain) {
  const bool is_json = r.scaling.front() == '{';
  const std::string name = is_json ? "" : rope_kind(r.scaling).name();
  RopeConfig out = plain;
  if (is_json) out = rope_recipe_from_json(plain, r.scaling);
  else out.kind = rope_kind(name);
  const RopeKind& kind = out.kind;
  const bool stretches = kind.window_factor() > 1 || !kind.trained() || !kind.sampler().empty() || kind.is<AbfRope>() ||
                         kind.is<LongRope>() ||
                         (!is_json && kind.find("factor") && !kind.is<ProportionalRope>() && !kind.is<NopeRope>() &&
                          !kind.is<ResonanceRope>());
  check(!stretches, kOp, "method plain trains without extension; with scaling '", is_json ? kind.name() : name,
        "' use full, pose or randpos");
  out.max_position_embeddings = plain.max_position_embeddings;
  out.original_max_position_embeddings = plain.original_max_position_embeddings;
  return out;
}

ModelConfig new_model(const Recipe& r, const Tokenizer& tokenizer) {
  ModelConfig m = of_family(r);
  m.vocab_size = tokenizer.vocab_size();
  m.hidden_size = r.hidden;
  m.num_hidden_layers = r.layers;
  m.num_attention_heads = r.heads;
  m.num_key_value_heads = r.kv_heads;
  m.head_dim = r.head_dim;
  m.intermediate_size = r.ffn > 0 ? r.ffn : (r.hidden * 8 / 3 + 31) / 32 * 32;
  m.norm_eps = r.norm_eps;
  m.tie_word_embeddings = !r.untied;
  m.initializer_range = r.init_std > 0 ? r.init_std : 1 / std::sqrt(static_cast<double>(r.hidden));
  m.rope.rope_theta = r.theta;
  m.rope.max_position_embeddings = r.window > 0 ? r.window : 256;
  if (tokenizer.bos_id()) m.bos_token_id = {*tokenizer.bos_id()};
  if (tokenizer.eos_id()) m.eos_token_id = {*tokenizer.eos_id()};
  return m;
}

/// The adapter that a recipe asks for; none without --lora-rank.
std::optional<AdapterDescription> adapter_of(const Recipe& r) {
  if (r.lora_rank == 0) return std::nullopt;
  check(!r.from.empty(), kOp, "--lora-rank trains beside a model: name it with --from");
  AdapterDescription a{
      .rank = r.lora_rank, .alpha = r.lora_alpha, .dropout = r.lora_dropout, .rank_stabilized = r.lora_rslora};
  a.embeddings = r.lora_embeddings;
  a.norms = r.lora_norms;
  a.targets.clear();
  for (size_t begin = 0; begin <= r.lora_targets.size();) {
    const size_t end = std::min(r.lora_targets.find(',', begin), r.lora_targets.size());
    const std::string name = r.lora_targets.substr(begin, end - begin);
    check(!name.empty(), kOp, "--lora-targets must be names with commas between them, got '", r.lora_targets, "'");
    a.targets.push_back(name);
    begin = end + 1;
  }
  check(r.lora_base == "native" || r.matmul == "native", kOp, "--lora-base ", r.lora_base,
        " keeps weights in few bits, which --matmul ", r.matmul, " cannot multiply: give one of them");
  a.base_blocks = base_format(r.lora_base, r.lora_double_scales);
  return a;
}

/// Training without extension.
void plan_plain(const Recipe& r, RunPlan& plan) {
  check(r.target == 0, kOp, "--target without a method: add --method, one of ", joined(method_names()));
  if (!r.scaling.empty() && r.scaling != "default") {
    check(r.from.empty(), kOp, "method plain trains without extension; with scaling '", r.scaling,
          "' use full or another method");
    plan.model.rope = begun_with(r, plan.model.rope);
  }
  check(r.factor == 0, kOp, "--factor has no effect on method plain");
  apply_options(r.method_options, plan.positions, plan.model.rope.kind);
  plan.original_window = plan.model.rope.original_window();
  plan.window = plan.target = r.window > 0 ? r.window : plan.original_window;
  check(r.from.empty() || plan.window <= plan.model.rope.extended_window(), kOp, "--window ", plan.window,
        " is longer than the window of '", r.from, "', ", plan.model.rope.extended_window(),
        ": extend it with --method full --target ", plan.window);
}

/// The method that the recipe names, or the one that it holds as a value.
Method method_of(const Recipe& r, const ModelConfig& base) {
  if (!r.method_value) {
    return method_from_text(
        {.name = r.method, .scaling = r.scaling, .factor = r.factor, .window = r.window, .options = r.method_options},
        base, r.target);
  }
  const Method& method = *r.method_value;
  check(r.method == method_name(method) && r.scaling == method.rope.name() && r.factor == method.factor &&
            r.window == method.window && r.method_options.empty(),
        kOp,
        "the recipe's method, scaling, factor, window or options were changed after its method was set as a value");
  return method;
}

void plan_extension(const Recipe& r, bool trained, RunPlan& plan) {
  check(!r.from.empty(), kOp, "method '", r.method, "' extends a model: name it with --from");
  const Method method = method_of(r, plan.model);
  const Extension e = trained ? extend(plan.model, method, r.target) : extend_untrained(plan.model, method, r.target);
  plan.model = e.config;
  plan.positions = e.sampler;
  plan.window = e.window, plan.target = e.target, plan.original_window = e.original_window, plan.region = e.region;
}

}  // namespace

RunPlan make_plan(const Recipe& r, const Tokenizer& tokenizer, const ModelConfig* base) {
  const bool trained = base == nullptr || r.steps != 0;
  check_sizes(r, trained ? 1 : 0);
  RunPlan plan;
  plan.model = base ? *base : r.from.empty() ? new_model(r, tokenizer) : read_hf_config(model_folder(r.from));
  plan.model.finish();
  if (r.method == "plain") plan_plain(r, plan);
  else plan_extension(r, trained, plan);
  if (trained) plan.model.adapter = adapter_of(r);
  static_cast<void>(make_rope_scaling(plan.model.rope));  // refuses values out of range before anything is read

  auto& d = plan.description;
  d["method"] = r.method;
  d["rope_scaling"] = rope_scaling_to_json(plan.model.rope);
  d["window"] = cat(plan.window);
  d["target"] = cat(plan.target);
  d["original_window"] = cat(plan.original_window);
  for (const auto& [key, value] : plan.positions.texts()) d[key] = value;
  return plan;
}

void set_method(Recipe& recipe, const Method& method, int64_t target) {
  const bool named = why_no_text(method).empty();
  recipe.method_value = named ? std::nullopt : std::optional(method);
  const MethodText text = named ? method_to_text(method)
                                : MethodText{.name = method_name(method),
                                             .scaling = method.rope.name(),
                                             .factor = method.factor,
                                             .window = method.window};
  recipe.method = text.name, recipe.scaling = text.scaling, recipe.factor = text.factor;
  recipe.window = text.window, recipe.method_options = text.options;
  recipe.target = target;
}

std::string to_toml(const std::map<std::string, std::string>& description) {
  std::string text;
  for (const auto& [key, value] : description) text += key + " = " + toml_quote(value) + "\n";
  return text;
}

}  // namespace rw
