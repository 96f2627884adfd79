// Gemma 2: RMSNorm with 1 + weight on both sides of each sublayer, GELU, soft caps of scores and logits, a window in
// every second layer, embeddings times sqrt(hidden_size).
#include <cmath>

#include "nn/families/families.h"

namespace rw {

const ParameterNames& gemma_names() {
  static const ParameterNames names{.attention_out_norm = "post_attention_layernorm",
                                    .mlp_norm = "pre_feedforward_layernorm",
                                    .mlp_out_norm = "post_feedforward_layernorm"};
  return names;
}

void read_gemma(const ConfigReader& in, ModelConfig& c) {
  read_rms_sizes(in, c, {.kv_heads = 4, .head_dim = 256, .tied = true});
  in.refuse_unless("use_bidirectional_attention", "false", "attention to later tokens is not supported");
  BlockDescription& b = c.block;
  b.norm_weight_offset = 1;
  b.norm_place = NormPlace::both;
  // The published configs of Gemma 1 and 2 state "hidden_act", too; transformers computes by "hidden_activation".
  in.known("hidden_act");
  b.activation = read_activation(in, "hidden_activation", "gelu_pytorch_tanh");
  b.qkv_bias = b.o_bias = in.boolean("attention_bias", false);
  const double scalar = in.number("query_pre_attn_scalar", 256);
  check(scalar > 0, "config", "'query_pre_attn_scalar' must be positive, got ", scalar);
  b.attention_scale = 1 / std::sqrt(scalar);
  c.embedding_scale = std::sqrt(static_cast<double>(c.hidden_size));
}

void write_gemma(const ModelConfig& c, ConfigWriter& out) {
  write_rms_sizes(c, out);
  out.set("hidden_activation", activation_name(c.block.activation));
  out.set("attention_bias", c.block.qkv_bias);
  const double scalar = 1 / (c.block.attention_scale * c.block.attention_scale);
  if (std::abs(scalar - std::round(scalar)) < 1e-9 * scalar) {
    out.set("query_pre_attn_scalar", static_cast<int64_t>(std::llround(scalar)));
  } else {
    out.set("query_pre_attn_scalar", scalar);
  }
  int64_t window = 0;
  for (int64_t i = 0; i < c.num_hidden_layers; ++i) window = std::max(window, c.layer(i).window);
  write_window(out, window > 0 ? window : 4096);  // transformers needs one, also where no layer slides
  write_layer_types(c, out);
}

namespace {

double cap(const ConfigReader& in, const char* key, double otherwise) {
  const double value = in.is_null(key) ? 0 : in.number(key, otherwise);
  check(value >= 0, "config", "'", key, "' must not be negative, got ", value);
  return value;
}

void read(const ConfigReader& in, ModelConfig& c) {
  read_gemma(in, c);
  read_layer_types(in, c, read_window(in, 4096), [](const ConfigReader&, int64_t i) { return (i + 1) % 2 != 0; });
  c.block.soft_cap = cap(in, "attn_logit_softcapping", 50);
  c.logit_soft_cap = cap(in, "final_logit_softcapping", 30);
  c.rope = read_rope(in, c, {.max_position_embeddings = 8192});
}

void write(const ModelConfig& c, ConfigWriter& out) {
  write_gemma(c, out);
  const auto set = [&](const char* key, double value) {
    if (value > 0) {
      out.set(key, value);
    } else {
      out.set_null(key);
    }
  };
  set("attn_logit_softcapping", c.block.soft_cap);
  set("final_logit_softcapping", c.logit_soft_cap);
  write_rope(c, out);
}

}  // namespace

const FamilyRecord kGemma2{.family = Family::gemma2,
                           .model_type = "gemma2",
                           .architecture = "Gemma2ForCausalLM",
                           .names = gemma_names(),
                           .read = read,
                           .write = write};

}  // namespace rw
