// LLaMA: RMSNorm before each sublayer, SwiGLU, all of a head rotated; biases where the config says so.
#include "nn/families/families.h"

namespace rw {
namespace {

void read(const ConfigReader& in, ModelConfig& c) {
  read_rms_sizes(in, c, {});
  c.block.activation = read_activation(in, "hidden_act", "silu");
  c.block.qkv_bias = c.block.o_bias = in.boolean("attention_bias", false);
  c.block.mlp_bias = in.boolean("mlp_bias", false);
  c.rope_layout = in.boolean("rope_interleaved", false) ? RopeLayout::interleaved : RopeLayout::half;
  c.rope = read_rope(in, c, {});
}

void write(const ModelConfig& c, ConfigWriter& out) {
  write_rms_sizes(c, out);
  out.set("hidden_act", activation_name(c.block.activation));
  out.set("attention_bias", c.block.qkv_bias);
  out.set("mlp_bias", c.block.mlp_bias);
  if (c.rope_layout == RopeLayout::interleaved) out.set("rope_interleaved", true);
  write_rope(c, out);
}

}  // namespace

const FamilyRecord kLlama{.family = Family::llama,
                          .model_type = "llama",
                          .architecture = "LlamaForCausalLM",
                          .names = {},
                          .read = read,
                          .write = write};

}  // namespace rw
