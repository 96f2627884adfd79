// The worked example of docs/adding-a-family.md: LLaMA's sizes, with attention and an MLP without a gate side by side
// behind one LayerNorm, and q, k and v in one tensor.
#include "nn/families/families.h"

namespace rw {
namespace {

void read(const ConfigReader& in, ModelConfig& c) {
  c.num_key_value_heads = in.integer("num_kv_heads", 1);
  c.norm_eps = in.number("layer_norm_eps", 1e-5);
  c.tie_word_embeddings = in.boolean("tie_word_embeddings", true);
  c.block.norm = NormKind::layer;
  c.block.parallel = c.block.shared_norm = true;
  c.block.gated = false;
  c.block.activation = read_activation(in, "activation", "gelu");
  in.refuse_unless("multi_query", "false", "the number of key and value heads is stated by num_kv_heads");
  c.rope = read_rope(in, c, {.max_position_embeddings = 2048});
}

void write(const ModelConfig& c, ConfigWriter& out) {
  out.set("num_kv_heads", c.num_key_value_heads);
  out.set("layer_norm_eps", c.norm_eps);
  out.set("activation", activation_name(c.block.activation));
  write_rope(c, out);
}

}  // namespace

const FamilyRecord kToy{.family = Family::toy,
                        .model_type = "toy",
                        .architecture = "ToyForCausalLM",
                        .names = {.embedding = "toy.embed",
                                  .final_norm = "toy.norm",
                                  .layers = "toy.blocks",
                                  .attention_norm = "norm",
                                  .mlp_norm = "",
                                  .qkv = {"attention.qkv"},
                                  .o = "attention.out",
                                  .gate_up = {"mlp.up"},
                                  .down = "mlp.down"},
                        .read = read,
                        .write = write};

}  // namespace rw
