// Gemma 3, the text model: Gemma 2 without soft caps of scores, query and key heads normed, a window in five of six
// layers, and a RoPE recipe of their own for these.
#include <nlohmann/json.hpp>

#include "nn/families/families.h"

namespace rw {
namespace {

using nlohmann::json;

/// "rope_parameters" holds a recipe for each layer type; older files have rope_theta, rope_local_base_freq and a
/// rope_scaling that is the full layers'.
void read_ropes(const ConfigReader& in, ModelConfig& c) {
  const json nested = json::parse(in.text_of("rope_parameters")), scaling = json::parse(in.text_of("rope_scaling"));
  check(nested.is_null() || nested.is_object(), "config", "'rope_parameters' must be an object or null");
  check(scaling.is_null() || scaling.is_object(), "config", "'rope_scaling' must be an object or null");
  const auto of = [&](const char* type) {
    const bool given = nested.is_object() && nested.contains(type) && nested[type].is_object();
    return given ? nested[type] : json::object();
  };
  if (nested.is_object()) {
    for (const auto& [key, value] : nested.items()) {
      check(key == "full_attention" || key == "sliding_attention", "config", "'rope_parameters' has '", key,
            "'; Gemma 3 has a recipe each for full_attention and sliding_attention there");
    }
  }
  json full = of("full_attention");
  if (scaling.is_object()) full.update(scaling);
  const int64_t window = in.integer("max_position_embeddings", 131072);
  const auto recipe = [&](const json& parameters, double theta) {
    json text = {{"head_dim", c.head_dim > 0 ? c.head_dim : c.hidden_size / c.num_attention_heads},
                 {"max_position_embeddings", window},
                 {"rope_theta", theta}};
    if (!parameters.empty()) text["rope_parameters"] = parameters;
    return rope_config_from_json(text.dump());
  };
  c.rope = recipe(full, in.number("rope_theta", 1000000));
  c.local_rope = recipe(of("sliding_attention"), in.number("rope_local_base_freq", 10000));
}

void read(const ConfigReader& in, ModelConfig& c) {
  read_gemma(in, c);
  c.block.qk_norm = QkNorm::heads;
  in.refuse_unless("attn_logit_softcapping", "null", "Gemma 3 has no soft cap of scores");
  c.logit_soft_cap = in.number("final_logit_softcapping", 0);
  check(c.logit_soft_cap >= 0, "config", "'final_logit_softcapping' must not be negative, got ", c.logit_soft_cap);
  in.known("_sliding_window_pattern");
  read_layer_types(in, c, read_window(in, 4096), [](const ConfigReader& fields, int64_t i) {
    return (i + 1) % std::max<int64_t>(1, fields.integer("sliding_window_pattern", 6)) != 0;
  });
  in.known("sliding_window_pattern");
  for (LayerDescription& layer : c.layers) layer.local_rope = layer.window > 0;
  read_ropes(in, c);
}

json recipe_json(const RopeConfig& rope) {
  json recipe = json::parse(rope_scaling_to_json(rope));
  if (recipe.is_null()) recipe = {{"rope_type", "default"}};
  recipe["rope_theta"] = rope.rope_theta;
  return recipe;
}

void write(const ModelConfig& c, ConfigWriter& out) {
  write_gemma(c, out);
  if (c.logit_soft_cap > 0) {
    out.set("final_logit_softcapping", c.logit_soft_cap);
  } else {
    out.set_null("final_logit_softcapping");
  }
  out.set_json("rope_parameters",
               json{{"full_attention", recipe_json(c.rope)}, {"sliding_attention", recipe_json(*c.local_rope)}}.dump());
}

}  // namespace

const FamilyRecord kGemma3{.family = Family::gemma3_text,
                           .model_type = "gemma3_text",
                           .architecture = "Gemma3ForCausalLM",
                           .names = gemma_names(),
                           .read = read,
                           .write = write};

}  // namespace rw
