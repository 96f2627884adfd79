// GPT-J: one LayerNorm for attention and MLP side by side, pairs of neighbours rotated, a bias of the output head. Its
// config.json has no place for a RoPE recipe; ours has "rope_scaling", which transformers does not read.
#include "nn/families/families.h"

namespace rw {
namespace {

void read(const ConfigReader& in, ModelConfig& c) {
  c.norm_eps = in.number("layer_norm_epsilon", 1e-5);
  c.tie_word_embeddings = in.boolean("tie_word_embeddings", false);
  c.head_bias = true;
  if (c.intermediate_size == 0) c.intermediate_size = 4 * c.hidden_size;
  BlockDescription& b = c.block;
  b.norm = NormKind::layer;
  b.parallel = b.shared_norm = true;
  b.activation = read_activation(in, "activation_function", "gelu_new");
  b.gated = false;
  b.mlp_bias = true;
  c.rope_layout = RopeLayout::interleaved;
  const int64_t head_dim = c.hidden_size / std::max<int64_t>(1, c.num_attention_heads);
  const int64_t rotary = in.is_null("rotary_dim") ? head_dim : in.integer("rotary_dim", 64);
  check(rotary >= 2 && rotary % 2 == 0 && rotary <= head_dim, "config", "'rotary_dim' must be even and at most ",
        head_dim, ", got ", rotary);
  c.rope = read_rope(in, c, {.partial_rotary_factor = static_cast<double>(rotary) / static_cast<double>(head_dim)});
}

void write(const ModelConfig& c, ConfigWriter& out) {
  out.set("layer_norm_epsilon", c.norm_eps);
  out.set("activation_function", activation_name(c.block.activation));
  out.set("rotary_dim", c.rope.rotary_dim());
  if (c.rope.rope_theta != 10000) out.set("rope_theta", c.rope.rope_theta);
  if (c.rope.rope_type() != "default" || c.rope.logn != LogN::none)
    out.set_json("rope_scaling", rope_scaling_to_json(c.rope));
}

}  // namespace

const FamilyRecord kGptj{.family = Family::gptj,
                         .model_type = "gptj",
                         .architecture = "GPTJForCausalLM",
                         .names = {.embedding = "transformer.wte",
                                   .final_norm = "transformer.ln_f",
                                   .layers = "transformer.h",
                                   .attention_norm = "ln_1",
                                   .mlp_norm = "",
                                   .qkv = {"attn.q_proj", "attn.k_proj", "attn.v_proj"},
                                   .o = "attn.out_proj",
                                   .gate_up = {"mlp.fc_in"},
                                   .down = "mlp.fc_out"},
                         .read = read,
                         .write = write,
                         .hidden_size = "n_embd",
                         .intermediate_size = "n_inner",
                         .num_hidden_layers = "n_layer",
                         .num_attention_heads = "n_head",
                         .max_position_embeddings = "n_positions",
                         .unneeded = {"attn.bias", "attn.masked_bias", "embed_positions"}};

}  // namespace rw
