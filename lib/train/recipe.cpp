// From a run's settings to the model, the positions and the windows that it trains with.
#include "train/recipe.h"

#include <cmath>
#include <set>

#include "nn/io/checkpoint.h"
#include "nn/io/hf.h"
#include "rope/extend.h"
#include "rope/kinds.h"
#include "rope/method_options.h"
#include "rope/samplers.h"

namespace rw {
namespace {

/// The scaling a method brings when none is named.
std::string default_scaling(const std::string& method) {
  if (method == "pi" || method == "pose" || method == "randpos") return "linear";
  if (method == "e2" || method == "clex") return method;
  return "default";
}

PositionConfig default_sampler(const std::string& method) {
  for (const PositionConfig& sampler : position_samplers()) {
    if (sampler.name() == method) return sampler;
  }
  return {};
}

/// The largest scale factor, for samplers that have one.
int64_t max_factor_of(const PositionConfig& positions) {
  return positions.find("max_factor") ? std::stoll(positions.text("max_factor")) : 1;
}

/// The options of the method go to its sampler and, where the scaling has them too, to that. CLEX's largest t is one
/// number for both; a JSON scaling states it.
void use_options(const TrainConfig& config, bool scaling_is_json, PositionConfig& positions, RopeKind& kind) {
  const RopeKind stated = kind;
  apply_options(config.method_options, positions, kind);
  auto* sampler = positions.get<ClexPositions>();
  const auto* clex = kind.get<ClexRope>();
  if (!sampler || !clex || !scaling_is_json) return;
  check(stated == kind, "train", "--max-factor is ", sampler->max_factor, ", the scaling's max_factor ",
        stated.text("max_factor"));
  sampler->max_factor = clex->max_factor;
}

void check_method(const std::string& method, const RopeKind& kind) {
  static const std::set<std::string> methods = {"plain", "full", "pi", "pose", "randpos", "e2", "clex"};
  check(methods.count(method) > 0, "train", "unknown method '", method,
        "', expected plain, full, pi, pose, randpos, e2 or clex");
  const std::string type = kind.name();
  check(
      kind.trained(), "train", "scaling '", type,
      "' chooses frequencies by length at inference and is not trained; train with another and set it in config.json");
  check((method == "clex") == (type == "clex"), "train",
        "method clex and scaling clex go together: the sampler draws the scale factor t that the learned frequencies "
        "are solved for (method '",
        method, "', scaling '", type, "')");
  check((method == "e2") == (type == "e2"), "train",
        "method e2 and scaling e2 go together: its positions are divided by g in training already (method '", method,
        "', scaling '", type, "')");
  check(method != "pi" || type == "linear", "train", "method pi is linear scaling; for '", type,
        "' at full length use method full");
  check(method != "plain" || type == "default", "train", "method plain trains without extension; with scaling '", type,
        "' use full, pose or randpos");
}

/// Before anything is computed from them: sizes that no sum or product of a few can overflow.
void check_sizes(const TrainConfig& c, int64_t fewest_steps) {
  const auto in = [](const char* option, int64_t value, int64_t low, int64_t high) {
    check(value >= low && value <= high, "train", option, " must be ", low, " to ", high, ", got ", value);
  };
  constexpr int64_t kLong = int64_t{1} << 40, kTokens = int64_t{1} << 30;
  in("--steps", c.steps, fewest_steps, kLong);
  in("--batch", c.batch, 1, kTokens);
  in("--accumulate", c.accumulate, 1, kTokens);
  in("--window", c.window, 0, kTokens);
  in("--target", c.target, 0, kTokens);
  if (!c.from.empty()) return;
  in("--hidden", c.hidden, 1, 1 << 20);
  in("--layers", c.layers, 1, 1 << 16);
  in("--heads", c.heads, 1, 1 << 16);
  in("--kv-heads", c.kv_heads, 0, 1 << 16);
  in("--head-dim", c.head_dim, 0, kMostHeadDim);
  in("--ffn", c.ffn, 0, 1 << 24);
}

ModelConfig new_model(const TrainConfig& c, const Tokenizer& tokenizer) {
  ModelConfig m;
  m.vocab_size = tokenizer.vocab_size();
  m.hidden_size = c.hidden;
  m.num_hidden_layers = c.layers;
  m.num_attention_heads = c.heads;
  m.num_key_value_heads = c.kv_heads;
  m.head_dim = c.head_dim;
  m.intermediate_size = c.ffn > 0 ? c.ffn : (c.hidden * 8 / 3 + 31) / 32 * 32;
  m.norm_eps = c.norm_eps;
  m.tie_word_embeddings = !c.untied;
  m.initializer_range = c.init_std > 0 ? c.init_std : 1 / std::sqrt(static_cast<double>(c.hidden));
  m.rope.rope_theta = c.theta;
  m.rope.max_position_embeddings = c.window > 0 ? c.window : 256;
  if (tokenizer.bos_id()) m.bos_token_id = {*tokenizer.bos_id()};
  if (tokenizer.eos_id()) m.eos_token_id = {*tokenizer.eos_id()};
  return m;
}

}  // namespace

Recipe make_recipe(const TrainConfig& config, const Tokenizer& tokenizer, const ModelConfig* base) {
  const bool trained = base == nullptr || config.steps != 0;
  check_sizes(config, trained ? 1 : 0);
  Recipe r;
  r.model = base                  ? *base
            : config.from.empty() ? new_model(config, tokenizer)
                                  : read_hf_config(model_folder(config.from));
  r.model.finish();
  check(tokenizer.vocab_size() <= r.model.vocab_size, "train", "the tokenizer has ", tokenizer.vocab_size(),
        " tokens, the model ", r.model.vocab_size);
  const RopeConfig base_rope = r.model.rope;
  r.original_window = rope_origin(base_rope).window;
  const bool full = config.method == "full" || config.method == "pi";
  const bool plain = config.method == "plain";
  if (!plain) {
    check(!config.from.empty(), "train", "method '", config.method, "' extends a model: name it with --from");
    check(config.target > 0 || config.method == "clex" || config.method == "e2", "train", "method '", config.method,
          "' needs --target, the window to extend to");
  }
  check(!plain || config.target == 0, "train",
        "--target without a method: add --method pi, pose, randpos, e2, clex or full");
  const std::string scaling = config.scaling.empty() ? default_scaling(config.method) : config.scaling;
  const bool is_json = scaling.front() == '{';
  check(!is_json || config.factor == 0, "train", "--factor has no effect on a JSON scaling, which states its own");
  if (is_json) r.model.rope = extend_rope(base_rope, scaling, std::max(config.target, r.original_window));
  RopeKind kind = is_json ? r.model.rope.kind : rope_kind(scaling);
  if (trained || kind.trained()) check_method(config.method, kind);
  r.positions = default_sampler(config.method);
  use_options(config, is_json, r.positions, kind);
  r.window = config.window > 0 ? config.window : full ? config.target : r.original_window;
  r.target = config.target > 0 ? config.target : plain ? r.window : r.original_window * max_factor_of(r.positions);
  check(r.target >= r.window, "train", "--target ", r.target, " is shorter than the training window ", r.window);
  check(config.method != "pose" && config.method != "randpos" ? true : r.target > r.window, "train", "method '",
        config.method, "' trains with windows shorter than the target: --window ", r.window, ", --target ", r.target);

  if (!plain && !is_json) r.model.rope = extend_rope(base_rope, kind, r.target, config.factor);
  if (!plain) r.model.rope.max_position_embeddings = r.target;
  static_cast<void>(make_rope_scaling(r.model.rope));  // refuses values out of range before anything is read

  const auto* pose = r.positions.get<PosePositions>();
  r.region = pose && pose->content != PoseContent::zero ? pose->content_windows * r.window : 0;  // 0: whole documents

  auto& d = r.description;
  const auto put = [&](const char* key, const auto& value) { d[key] = cat(value); };
  put("method", config.method);
  put("rope_scaling", rope_scaling_to_json(r.model.rope));
  put("window", r.window);
  put("target", r.target);
  put("original_window", r.original_window);
  put("steps", config.steps);
  put("batch", config.batch);
  put("accumulate", config.accumulate);
  put("lr", config.schedule.lr);
  put("schedule", config.schedule.kind);
  put("warmup", config.schedule.warmup);
  put("weight_decay", config.adamw.weight_decay);
  put("clip", config.clip);
  put("seed", config.seed);
  for (const auto& [key, value] : r.positions.texts()) put(key.c_str(), value);
  if (config.retrieval_share > 0) {
    put("retrieval_share", config.retrieval_share);
    put("retrieval_template", config.retrieval_template);
    if (config.retrieval_weight != 1) put("retrieval_weight", config.retrieval_weight);
  }
  put("beta1", config.adamw.beta1);
  put("beta2", config.adamw.beta2);
  put("eps", config.adamw.eps);
  put("warmup_start", config.schedule.warmup_start);
  put("min_ratio", config.schedule.min_ratio);
  put("mask_seams", config.mask_seams);
  put("bos", !config.no_bos);
  put("packed", config.packed);
  if (!config.from.empty()) put("from", config.from);
  return r;
}

std::string to_toml(const std::map<std::string, std::string>& description) {
  std::string text;
  for (const auto& [key, value] : description) {
    std::string quoted;
    for (char c : value) quoted += c == '"' || c == '\\' ? std::string("\\") + c : std::string(1, c);
    text += key + " = \"" + quoted + "\"\n";
  }
  return text;
}

std::string difference(const std::map<std::string, std::string>& then, const std::map<std::string, std::string>& now) {
  for (const auto& [key, value] : then) {
    const auto it = now.find(key);
    if (it == now.end()) return key + " was " + value;
    if (it->second != value) return key + " was " + value + ", now " + it->second;
  }
  for (const auto& [key, value] : now) {
    if (!then.count(key)) return key + " is new: " + value;
  }
  return "nothing";
}

void apply_rope_json(ModelConfig& config, const std::string& rope_json) {
  if (!rope_json.empty()) config.rope = rope_recipe_from_json(config.rope, rope_json);
}

}  // namespace rw
