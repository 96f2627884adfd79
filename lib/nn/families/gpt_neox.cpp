// GPT-NeoX (Pythia): LayerNorm, biases, attention and MLP side by side, a quarter of each head rotated. Its files hold
// q, k and v in one tensor, head by head.
#include "nn/families/families.h"

namespace rw {
namespace {

constexpr RopeFieldDefaults kRope{
    .partial_rotary_factor = 0.25, .theta_field = "rotary_emb_base", .partial_field = "rotary_pct"};

void read(const ConfigReader& in, ModelConfig& c) {
  c.norm_eps = in.number("layer_norm_eps", 1e-5);
  c.tie_word_embeddings = in.boolean("tie_word_embeddings", false);
  BlockDescription& b = c.block;
  b.norm = NormKind::layer;
  b.parallel = in.boolean("use_parallel_residual", true);
  b.activation = read_activation(in, "hidden_act", "gelu");
  b.gated = false;
  b.qkv_bias = b.o_bias = in.boolean("attention_bias", true);
  b.mlp_bias = true;
  c.rope = read_rope(in, c, kRope);
}

void write(const ModelConfig& c, ConfigWriter& out) {
  out.set("layer_norm_eps", c.norm_eps);
  out.set("use_parallel_residual", c.block.parallel);
  out.set("hidden_act", activation_name(c.block.activation));
  out.set("attention_bias", c.block.qkv_bias);
  write_rope(c, out, kRope);
}

/// The model has all heads of q, then k, then v; the file has q, k and v of each head.
std::vector<int64_t> file_rows(const ModelConfig& c, const std::string& name) {
  if (name.find(".query_key_value.") == std::string::npos) return {};
  std::vector<int64_t> rows;
  for (int64_t part = 0; part < 3; ++part) {
    for (int64_t head = 0; head < c.num_attention_heads; ++head) {
      for (int64_t i = 0; i < c.head_dim; ++i) rows.push_back((head * 3 + part) * c.head_dim + i);
    }
  }
  return rows;
}

}  // namespace

const FamilyRecord kGptNeox{.family = Family::gpt_neox,
                            .model_type = "gpt_neox",
                            .architecture = "GPTNeoXForCausalLM",
                            .names = {.embedding = "gpt_neox.embed_in",
                                      .final_norm = "gpt_neox.final_layer_norm",
                                      .head = "embed_out",
                                      .layers = "gpt_neox.layers",
                                      .qkv = {"attention.query_key_value"},
                                      .o = "attention.dense",
                                      .gate_up = {"mlp.dense_h_to_4h"},
                                      .down = "mlp.dense_4h_to_h"},
                            .read = read,
                            .write = write,
                            .file_rows = file_rows,
                            .unneeded = {"rotary_emb.inv_freq", "attention.bias", "attention.masked_bias"}};

}  // namespace rw
