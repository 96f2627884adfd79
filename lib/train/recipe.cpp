// From a run's settings to the model, the positions and the windows that it trains with.
#include "train/recipe.h"

#include <cmath>
#include <nlohmann/json.hpp>
#include <set>

#include "nn/io/checkpoint.h"
#include "nn/io/hf.h"
#include "tensor/json_depth.h"

namespace rw {
namespace {

/// The scaling a method brings when none is named.
std::string default_scaling(const std::string& method) {
  if (method == "pi" || method == "pose" || method == "randpos") return "linear";
  if (method == "e2" || method == "clex") return method;
  return "default";
}

std::string default_sampler(const std::string& method) {
  return method == "pose" || method == "randpos" || method == "e2" || method == "clex" ? method : "contiguous";
}

void check_method(const std::string& method, const std::string& type) {
  static const std::set<std::string> methods = {"plain", "full", "pi", "pose", "randpos", "e2", "clex"};
  check(methods.count(method) > 0, "train", "unknown method '", method,
        "', expected plain, full, pi, pose, randpos, e2 or clex");
  check(
      type != "dynamic" && type != "dynamic_linear", "train", "scaling '", type,
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
  in("--max-factor", c.positions.max_factor, 1, 65536);
  in("--chunks", c.positions.chunks, 1, kTokens);
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
  r.original_window = r.model.rope.original_window();
  const bool full = config.method == "full" || config.method == "pi";
  const bool plain = config.method == "plain";
  if (!plain) {
    check(!config.from.empty(), "train", "method '", config.method, "' extends a model: name it with --from");
    check(config.target > 0 || config.method == "clex" || config.method == "e2", "train", "method '", config.method,
          "' needs --target, the window to extend to");
  }
  check(!plain || config.target == 0, "train",
        "--target without a method: add --method pi, pose, randpos, e2, clex or full");
  r.window = config.window > 0 ? config.window : full ? config.target : r.original_window;
  r.target = config.target > 0 ? config.target : plain ? r.window : r.original_window * config.positions.max_factor;
  check(r.target >= r.window, "train", "--target ", r.target, " is shorter than the training window ", r.window);
  check(config.method != "pose" && config.method != "randpos" ? true : r.target > r.window, "train", "method '",
        config.method, "' trains with windows shorter than the target: --window ", r.window, ", --target ", r.target);

  const std::string scaling = config.scaling.empty() ? default_scaling(config.method) : config.scaling;
  if (!plain) {
    if (scaling.front() == '{') {
      apply_rope_json(r.model, scaling);
    } else {
      RopeConfig rope = r.model.rope;
      RopeConfig fresh;
      fresh.rope_theta = rope.rope_theta, fresh.head_dim = rope.head_dim,
      fresh.partial_rotary_factor = rope.partial_rotary_factor;
      fresh.rope_type = scaling;
      fresh.max_position_embeddings = r.original_window;
      // With no scaling at all (direct fine-tuning) nothing is divided.
      if (scaling != "e2" && scaling != "default" && scaling != "clex") {
        fresh.factor =
            config.factor > 0 ? config.factor : static_cast<double>(r.target) / static_cast<double>(r.original_window);
      }
      if (scaling == "e2") fresh.factor = 0;
      fresh.clex.max_factor = config.positions.max_factor;
      r.model.rope = fresh;
    }
    if (trained || !r.model.rope.rope_type.starts_with("dynamic")) check_method(config.method, r.model.rope.rope_type);
    r.model.rope.original_max_position_embeddings = r.original_window;
    r.model.rope.max_position_embeddings =
        r.model.rope.rope_type == "default" ? r.target : std::max(r.target, r.original_window);
    if (r.model.rope.rope_type == "default") r.model.rope.original_max_position_embeddings = 0;
  } else {
    check_method(config.method, scaling);
  }
  static_cast<void>(make_rope_scaling(r.model.rope));  // refuses values out of range before anything is read

  r.positions = config.positions;
  r.positions.kind = default_sampler(config.method);
  r.region = config.method == "pose" && r.positions.content != "zero"
                 ? r.positions.content_windows * r.window
                 : 0;  // 0: the whole document

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
  if (config.method == "pose") {
    put("chunks", r.positions.chunks);
    put("pose_variant", r.positions.variant);
    put("pose_content", r.positions.content);
  }
  if (config.method == "e2" || config.method == "clex") put("max_factor", r.positions.max_factor);
  if (config.method == "e2" && !r.positions.augment_g) put("fixed_g", "true");
  if (config.method == "e2" && !r.positions.augment_t) put("fixed_t", "true");
  if (config.method == "clex" && r.positions.spread != "random") put("spread", r.positions.spread);
  if (config.retrieval_share > 0) {
    put("retrieval_share", config.retrieval_share);
    put("retrieval_template", config.retrieval_template);
    if (config.retrieval_weight != 1) put("retrieval_weight", config.retrieval_weight);
  }
  if (config.method == "e2" || config.method == "clex") {
    put("continuous_t", config.positions.continuous);
    put("per_step", config.positions.per_step);
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
  if (rope_json.empty()) return;
  check_json_depth(rope_json, "rope", "the recipe");
  const auto scaling = nlohmann::json::parse(rope_json, nullptr, false);
  check(scaling.is_object() || scaling.is_null(), "rope",
        "expected a JSON object like {\"rope_type\":\"linear\",\"factor\":4}, got '", rope_json, "'");
  const int64_t window = config.rope.original_window();
  const nlohmann::json whole = {{"head_dim", config.head_dim},
                                {"rope_theta", config.rope.rope_theta},
                                {"partial_rotary_factor", config.rope.partial_rotary_factor},
                                {"max_position_embeddings", window},
                                {"rope_scaling", scaling}};
  config.rope = rope_config_from_json(whole.dump());
}

}  // namespace rw
