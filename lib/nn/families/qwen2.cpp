// Qwen2: LLaMA's block with biases of q, k and v; the upper layers may have a window.
#include "nn/families/families.h"

namespace rw {
namespace {

void read(const ConfigReader& in, ModelConfig& c) {
  read_rms_sizes(in, c, {.kv_heads = 32});
  c.head_dim = in.integer("head_dim", 0);
  c.block.activation = read_activation(in, "hidden_act", "silu");
  c.block.qkv_bias = true;
  read_qwen_windows(in, c);
  c.rope = read_rope(in, c, {.max_position_embeddings = 32768});
}

void write(const ModelConfig& c, ConfigWriter& out) {
  write_rms_sizes(c, out);
  out.set("hidden_act", activation_name(c.block.activation));
  write_qwen_windows(c, out);
  write_rope(c, out);
}

}  // namespace

const FamilyRecord kQwen2{.family = Family::qwen2,
                          .model_type = "qwen2",
                          .architecture = "Qwen2ForCausalLM",
                          .names = {},
                          .read = read,
                          .write = write};

}  // namespace rw
