#include "nn/config.h"

#include <nlohmann/json.hpp>

#include "tensor/json_depth.h"

namespace rw {
namespace {

using nlohmann::json;

int64_t integer(const json& j, const char* key, std::optional<int64_t> otherwise = std::nullopt) {
  const auto it = j.find(key);
  if (it == j.end() || it->is_null()) {
    check(otherwise.has_value(), "config", "config.json has no '", key, "'");
    return *otherwise;
  }
  check(it->is_number_integer(), "config", "'", key, "' must be an integer, got ", it->dump());
  const int64_t value = it->get<int64_t>();
  check(value >= 0 && value < int64_t{1} << 31, "config", "'", key, "' is out of range: ", value);
  return value;
}

double number(const json& j, const char* key, double otherwise) {
  const auto it = j.find(key);
  if (it == j.end() || it->is_null()) return otherwise;
  check(it->is_number(), "config", "'", key, "' must be a number, got ", it->dump());
  return it->get<double>();
}

bool boolean(const json& j, const char* key, bool otherwise) {
  const auto it = j.find(key);
  if (it == j.end() || it->is_null()) return otherwise;
  check(it->is_boolean(), "config", "'", key, "' must be true or false, got ", it->dump());
  return it->get<bool>();
}

std::optional<int64_t> token_id(const json& j, const char* key) {
  const auto it = j.find(key);
  if (it == j.end() || it->is_null()) return std::nullopt;
  const json& value = it->is_array() && !it->empty() ? it->front() : *it;  // Llama 3 lists several
  check(value.is_number_integer(), "config", "'", key, "' must be a token id, got ", it->dump());
  return value.get<int64_t>();
}

}  // namespace

void ModelConfig::finish() {
  if (num_key_value_heads == 0) num_key_value_heads = num_attention_heads;
  check(vocab_size > 0 && hidden_size > 0 && intermediate_size > 0 && num_hidden_layers > 0 && num_attention_heads > 0,
        "config",
        "vocab_size, hidden_size, intermediate_size, num_hidden_layers and num_attention_heads must be positive");
  if (head_dim == 0) {
    check(hidden_size % num_attention_heads == 0, "config", "hidden_size ", hidden_size,
          " is not a multiple of num_attention_heads ", num_attention_heads);
    head_dim = hidden_size / num_attention_heads;
  }
  check(num_attention_heads % num_key_value_heads == 0, "config", "num_attention_heads ", num_attention_heads,
        " is not a multiple of num_key_value_heads ", num_key_value_heads);
  check(head_dim % 2 == 0 && head_dim <= kMostHeadDim, "config", "head_dim must be even and at most ", kMostHeadDim,
        ", got ", head_dim);
  check(rms_norm_eps > 0, "config", "rms_norm_eps must be positive, got ", rms_norm_eps);
  rope.head_dim = head_dim;
  check(rope.max_position_embeddings > 0, "config", "max_position_embeddings must be positive");
}

ModelConfig model_config_from_json(const std::string& text) {
  check_json_depth(text, "config", "config.json");
  const json j = json::parse(text, nullptr, false);
  check(j.is_object(), "config", "config.json is not a JSON object");
  if (j.contains("model_type")) {
    check(j["model_type"] == "llama", "config", "model_type must be \"llama\", got ", j["model_type"].dump());
  }
  check(!boolean(j, "attention_bias", false) && !boolean(j, "mlp_bias", false), "config",
        "models with attention_bias or mlp_bias are not supported");
  if (j.contains("hidden_act"))
    check(j["hidden_act"] == "silu", "config", "hidden_act must be \"silu\", got ", j["hidden_act"].dump());
  ModelConfig c;
  c.vocab_size = integer(j, "vocab_size");
  c.hidden_size = integer(j, "hidden_size");
  c.intermediate_size = integer(j, "intermediate_size");
  c.num_hidden_layers = integer(j, "num_hidden_layers");
  c.num_attention_heads = integer(j, "num_attention_heads");
  c.num_key_value_heads = integer(j, "num_key_value_heads", 0);
  c.head_dim = integer(j, "head_dim", 0);
  c.rms_norm_eps = number(j, "rms_norm_eps", 1e-6);
  c.tie_word_embeddings = boolean(j, "tie_word_embeddings", false);
  c.initializer_range = number(j, "initializer_range", 0.02);
  c.rope_layout = boolean(j, "rope_interleaved", false) ? RopeLayout::interleaved : RopeLayout::half;
  c.bos_token_id = token_id(j, "bos_token_id");
  c.eos_token_id = token_id(j, "eos_token_id");
  c.rope = rope_config_from_json(text);
  c.finish();
  return c;
}

std::string model_config_to_json(const ModelConfig& c, const std::string& dtype) {
  json j = {{"architectures", {"LlamaForCausalLM"}},
            {"model_type", "llama"},
            {"vocab_size", c.vocab_size},
            {"hidden_size", c.hidden_size},
            {"intermediate_size", c.intermediate_size},
            {"num_hidden_layers", c.num_hidden_layers},
            {"num_attention_heads", c.num_attention_heads},
            {"num_key_value_heads", c.num_key_value_heads},
            {"head_dim", c.head_dim},
            {"rms_norm_eps", c.rms_norm_eps},
            {"tie_word_embeddings", c.tie_word_embeddings},
            {"initializer_range", c.initializer_range},
            {"hidden_act", "silu"},
            {"attention_bias", false},
            {"mlp_bias", false},
            {"rope_theta", c.rope.rope_theta},
            {"max_position_embeddings", c.rope.max_position_embeddings},
            {"rope_scaling", json::parse(rope_scaling_to_json(c.rope))},
            {"torch_dtype", dtype}};
  // HF's version 4 looks for longrope's window of pre-training here, later ones inside the recipe.
  if (c.rope.rope_type() == "longrope" && c.rope.original_max_position_embeddings > 0)
    j["original_max_position_embeddings"] = c.rope.original_max_position_embeddings;
  if (c.rope.partial_rotary_factor != 1.0) j["partial_rotary_factor"] = c.rope.partial_rotary_factor;
  if (c.rope_layout == RopeLayout::interleaved) j["rope_interleaved"] = true;
  if (c.bos_token_id) j["bos_token_id"] = *c.bos_token_id;
  if (c.eos_token_id) j["eos_token_id"] = *c.eos_token_id;
  return j.dump(1) + "\n";
}

}  // namespace rw
