// StableLM: LayerNorm, a gated MLP, a quarter of each head rotated; biases of q, k and v, and attention beside the MLP
// under one norm, where the config says so.
#include "nn/families/families.h"

namespace rw {
namespace {

constexpr RopeFieldDefaults kRope{.max_position_embeddings = 4096, .partial_rotary_factor = 0.25};

void read(const ConfigReader& in, ModelConfig& c) {
  in.refuse_unless("qk_layernorm", "false", "LayerNorms of single heads are not supported");
  c.num_key_value_heads = in.integer("num_key_value_heads", 32);
  c.norm_eps = in.number("layer_norm_eps", 1e-5);
  c.tie_word_embeddings = in.boolean("tie_word_embeddings", false);
  BlockDescription& b = c.block;
  b.norm = NormKind::layer;
  b.parallel = b.shared_norm = in.boolean("use_parallel_residual", false);
  b.activation = read_activation(in, "hidden_act", "silu");
  b.qkv_bias = in.boolean("use_qkv_bias", false);
  c.rope = read_rope(in, c, kRope);
}

void write(const ModelConfig& c, ConfigWriter& out) {
  out.set("num_key_value_heads", c.num_key_value_heads);
  out.set("layer_norm_eps", c.norm_eps);
  out.set("use_parallel_residual", c.block.parallel);
  out.set("hidden_act", activation_name(c.block.activation));
  out.set("use_qkv_bias", c.block.qkv_bias);
  out.set("qk_layernorm", false);
  write_rope(c, out, kRope);
}

}  // namespace

const FamilyRecord kStablelm{.family = Family::stablelm,
                             .model_type = "stablelm",
                             .architecture = "StableLmForCausalLM",
                             .names = {},
                             .read = read,
                             .write = write};

}  // namespace rw
