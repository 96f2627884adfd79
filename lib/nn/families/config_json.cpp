// config.json <-> ModelConfig: what all families share. What is a family's own is in its file.
#include <cmath>

#include "nn/families/family.h"

namespace rw {
namespace {

/// Fields of other architectures, or of ways to store weights, that would change the computation.
void refuse_foreign_fields(const ConfigReader& in) {
  constexpr const char* kOther = "this model computes something that is not supported";
  for (const char* key : {"quantization_config", "compression_config", "quantization"}) {
    check(!in.has(key), "config", "'", key, "' is ", in.text_of(key).substr(0, 120),
          ": the weights are quantized, which is not supported; convert the model to bfloat16 or float32 first");
  }
  for (const char* key : {"num_experts", "num_local_experts", "n_routed_experts", "moe_intermediate_size"})
    check(!in.has(key), "config", "'", key, "' is ", in.text_of(key), ": mixtures of experts are not supported");
  for (const char* key : {"embedding_multiplier", "residual_multiplier", "attention_multiplier", "logits_scaling",
                          "logit_scale", "scale_emb", "scale_depth", "mup_embeddings_multiplier", "pretraining_tp"})
    in.refuse_unless(key, "1", kOther);
  for (const char* key : {"alibi", "use_alibi", "parallel_attn", "use_mup", "is_encoder_decoder", "add_cross_attention",
                          "use_bidirectional_attention"})
    in.refuse_unless(key, "false", kOther);
  in.refuse_unless("is_causal", "true", "attention to later tokens is not supported");
  for (const char* key : {"clip_qkv", "per_layer_projections", "attention_chunk_size"})
    check(!in.has(key), "config", "'", key, "' is ", in.text_of(key), ": ", kOther);
  in.refuse_unless("position_embedding_type", "\"rotary\"", kOther);
}

/// Fields that change the computation in families that have them, in a family that does not read them: another program
/// may have meant them, and this one would drop them. Values that change nothing are let through.
void refuse_unread_structure(const ConfigReader& in, const FamilyRecord& record) {
  const auto refuse_unless = [&](const char* key, auto neutral) {
    const std::optional<std::string> value = in.unread(key);
    check(!value || neutral(*value), "config", "'", key, "' is ", value.value_or("").substr(0, 120), ", but a ",
          record.model_type, " model has no such part; remove the field if the model was trained without it");
  };
  const auto is_false = [](const std::string& value) { return value == "false"; };
  for (const char* key :
       {"attention_bias", "qkv_bias", "use_qkv_bias", "mlp_bias", "use_qk_norm", "qk_layernorm", "qk_norm",
        "parallel_residual", "use_parallel_residual", "use_parallel_attn", "no_rope_layers", "final_logit_softcapping",
        "attn_logit_softcapping", "query_pre_attn_scalar", "rope_local_base_freq", "rotary_dim", "rotary_pct"})
    refuse_unless(key, is_false);
  if (in.unread("use_sliding_window").value_or("true") == "true") refuse_unless("sliding_window", is_false);
  refuse_unless("layer_types",
                [](const std::string& v) { return v.find("sliding") == v.npos && v.find("chunk") == v.npos; });
}

/// Sizes, token ids and what is written anew.
void read_common(const ConfigReader& in, const FamilyRecord& record, ModelConfig& c) {
  c.family = record.family;
  c.vocab_size = in.integer("vocab_size");
  c.hidden_size = in.integer(record.hidden_size);
  c.intermediate_size = in.integer(record.intermediate_size, 0);
  c.num_hidden_layers = in.integer(record.num_hidden_layers);
  c.num_attention_heads = in.integer(record.num_attention_heads);
  check(c.num_hidden_layers <= int64_t{1} << 20, "config", "'", record.num_hidden_layers,
        "' is out of range: ", c.num_hidden_layers);
  c.initializer_range = in.number("initializer_range", 0.02);
  c.bos_token_id = in.integers("bos_token_id");
  c.eos_token_id = in.integers("eos_token_id");
  for (const char* key : {"architectures", "model_type", "dtype", "torch_dtype"}) in.known(key);
}

}  // namespace

ModelConfig model_config_from_json(const std::string& text) {
  const ConfigReader in(text);
  const FamilyRecord& record = family_named(in.string("model_type", "llama"));
  refuse_foreign_fields(in);
  ModelConfig c;
  read_common(in, record, c);
  record.read(in, c);
  refuse_unread_structure(in, record);
  check(c.intermediate_size > 0, "config", "config.json has no '", record.intermediate_size, "'");
  const std::string dtype = in.string("dtype", in.string("torch_dtype", "float32"));
  if (dtype == "bfloat16") c.file_dtype = DType::bf16;
  c.other_fields = in.rest();
  c.finish();
  return c;
}

std::string model_config_to_json(const ModelConfig& c, const std::string& dtype) {
  const FamilyRecord& record = family_record(c.family);
  ConfigWriter out;
  out.set("architectures", std::vector<std::string>{record.architecture});
  out.set("model_type", record.model_type);
  out.set("vocab_size", c.vocab_size);
  out.set(record.hidden_size, c.hidden_size);
  out.set(record.intermediate_size, c.intermediate_size);
  out.set(record.num_hidden_layers, c.num_hidden_layers);
  out.set(record.num_attention_heads, c.num_attention_heads);
  out.set(record.max_position_embeddings, c.rope.max_position_embeddings);
  out.set("tie_word_embeddings", c.tie_word_embeddings);
  out.set("initializer_range", c.initializer_range);
  out.set("torch_dtype", dtype);
  out.set_ids("bos_token_id", c.bos_token_id);
  out.set_ids("eos_token_id", c.eos_token_id);
  record.write(c, out);
  out.add_rest(c.other_fields);
  return out.text();
}

RopeConfig read_rope(const ConfigReader& in, const ModelConfig& c, const RopeFieldDefaults& defaults) {
  const FamilyRecord& record = family_record(c.family);
  ConfigWriter recipe;
  recipe.set("head_dim", c.head_dim > 0 ? c.head_dim : c.hidden_size / std::max<int64_t>(1, c.num_attention_heads));
  recipe.set("max_position_embeddings", in.integer(record.max_position_embeddings, defaults.max_position_embeddings));
  recipe.set("rope_theta", in.number(defaults.theta_field, defaults.theta));
  recipe.set("partial_rotary_factor", in.number(defaults.partial_field, defaults.partial_rotary_factor));
  for (const char* key : {"rope_scaling", "rope_parameters"}) {
    if (in.has(key)) recipe.set_json(key, in.text_of(key));
  }
  if (in.has("max_sequence_length")) recipe.set("max_sequence_length", in.integer("max_sequence_length"));
  if (!in.has("original_max_position_embeddings")) return rope_config_from_json(recipe.text());
  const std::string without = recipe.text();
  recipe.set("original_max_position_embeddings", in.integer("original_max_position_embeddings"));
  const RopeConfig rope = rope_config_from_json(recipe.text());
  // Phi-3 states it of plain RoPE, too, where it means nothing.
  return rope.rope_type() == "default" ? rope_config_from_json(without) : rope;
}

void write_rope(const ModelConfig& c, ConfigWriter& out, const RopeFieldDefaults& defaults) {
  const RopeConfig& rope = c.rope;
  if (rope.rope_type() != "default") out.drop("original_max_position_embeddings");
  out.set(defaults.theta_field, rope.rope_theta);
  out.set_json("rope_scaling", rope_scaling_to_json(rope));
  // HF's version 4 looks for longrope's window of pre-training here, later ones inside the recipe.
  if (rope.rope_type() == "longrope" && rope.original_max_position_embeddings > 0)
    out.set("original_max_position_embeddings", rope.original_max_position_embeddings);
  if (rope.partial_rotary_factor != defaults.partial_rotary_factor || rope.partial_rotary_factor != 1)
    out.set(defaults.partial_field, rope.partial_rotary_factor);
}

void read_rms_sizes(const ConfigReader& in, ModelConfig& c, const SizeDefaults& defaults) {
  c.num_key_value_heads = in.integer("num_key_value_heads", in.is_null("num_key_value_heads") ? 0 : defaults.kv_heads);
  c.head_dim = in.integer("head_dim", in.is_null("head_dim") ? 0 : defaults.head_dim);
  c.norm_eps = in.number("rms_norm_eps", defaults.eps);
  c.tie_word_embeddings = in.boolean("tie_word_embeddings", defaults.tied);
}

void write_rms_sizes(const ModelConfig& c, ConfigWriter& out) {
  out.set("num_key_value_heads", c.num_key_value_heads);
  out.set("head_dim", c.head_dim);
  out.set("rms_norm_eps", c.norm_eps);
}

Activation read_activation(const ConfigReader& in, const char* field, const char* otherwise) {
  const std::string name = in.string(field, otherwise);
  if (name == "silu" || name == "swish") return Activation::silu;
  if (name == "gelu") return Activation::gelu;
  if (name == "gelu_new" || name == "gelu_pytorch_tanh" || name == "gelu_fast") return Activation::gelu_tanh;
  fail("config", "'", field, "' must be silu, gelu, gelu_new or gelu_pytorch_tanh, got \"", name, "\"");
}

const char* activation_name(Activation activation) {
  switch (activation) {
    case Activation::silu:
      return "silu";
    case Activation::gelu:
      return "gelu";
    case Activation::gelu_tanh:
      break;
  }
  return "gelu_pytorch_tanh";
}

void read_layer_types(const ConfigReader& in, ModelConfig& c, std::optional<int64_t> window,
                      bool (*otherwise)(const ConfigReader& in, int64_t layer)) {
  const std::vector<std::string> types = in.strings("layer_types");
  check(types.empty() || static_cast<int64_t>(types.size()) == c.num_hidden_layers, "config", "'layer_types' has ",
        types.size(), " entries for ", c.num_hidden_layers, " layers");
  c.layers.resize(static_cast<size_t>(c.num_hidden_layers));
  for (size_t i = 0; i < c.layers.size(); ++i) {
    if (!types.empty()) {
      check(types[i] == "full_attention" || types[i] == "sliding_attention", "config",
            "'layer_types' must be full_attention or sliding_attention, got \"", types[i], "\"");
    }
    const bool slides = types.empty() ? otherwise(in, static_cast<int64_t>(i)) : types[i] == "sliding_attention";
    if (!slides) continue;
    check(window.has_value() && *window > 0, "config", "layer ", i, " has sliding attention, but 'sliding_window' is ",
          in.text_of("sliding_window"));
    c.layers[i].window = *window;
  }
}

void write_layer_types(const ModelConfig& c, ConfigWriter& out) {
  std::vector<std::string> types;
  for (int64_t i = 0; i < c.num_hidden_layers; ++i)
    types.emplace_back(c.layer(i).window > 0 ? "sliding_attention" : "full_attention");
  out.set("layer_types", types);
}

}  // namespace rw
