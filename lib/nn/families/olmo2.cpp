// OLMo 2: RMSNorm after each sublayer, queries and keys normed over all heads together.
#include "nn/families/families.h"

namespace rw {
namespace {

void read(const ConfigReader& in, ModelConfig& c) {
  read_rms_sizes(in, c, {.eps = 1e-5});
  c.block.norm_place = NormPlace::after;
  c.block.activation = read_activation(in, "hidden_act", "silu");
  c.block.qkv_bias = c.block.o_bias = in.boolean("attention_bias", false);
  c.block.qk_norm = QkNorm::across;
  c.rope = read_rope(in, c, {});
}

void write(const ModelConfig& c, ConfigWriter& out) {
  write_rms_sizes(c, out);
  out.set("hidden_act", activation_name(c.block.activation));
  out.set("attention_bias", c.block.qkv_bias);
  write_rope(c, out);
}

}  // namespace

const FamilyRecord kOlmo2{.family = Family::olmo2,
                          .model_type = "olmo2",
                          .architecture = "Olmo2ForCausalLM",
                          .names = {.attention_norm = "",
                                    .attention_out_norm = "post_attention_layernorm",
                                    .mlp_norm = "",
                                    .mlp_out_norm = "post_feedforward_layernorm"},
                          .read = read,
                          .write = write};

}  // namespace rw
