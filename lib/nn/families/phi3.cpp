// Phi-3: LLaMA's block with q, k and v in one tensor, gate and up in another, and a window of attention in every layer
// where the config gives one. transformers reads plain RoPE and LongRoPE in it; other recipes are ours alone.
#include "nn/families/families.h"

namespace rw {
namespace {

void read(const ConfigReader& in, ModelConfig& c) {
  read_rms_sizes(in, c, {.eps = 1e-5});
  c.block.activation = read_activation(in, "hidden_act", "silu");
  if (const std::optional<int64_t> window = read_window(in, std::nullopt))
    c.layers.assign(static_cast<size_t>(c.num_hidden_layers), {.window = *window});
  c.rope = read_rope(in, c, {.max_position_embeddings = 4096});
}

void write(const ModelConfig& c, ConfigWriter& out) {
  write_rms_sizes(c, out);
  out.set("hidden_act", activation_name(c.block.activation));
  write_window(out, c.layer(0).window);
  write_rope(c, out);
}

}  // namespace

const FamilyRecord kPhi3{.family = Family::phi3,
                         .model_type = "phi3",
                         .architecture = "Phi3ForCausalLM",
                         .names = {.qkv = {"self_attn.qkv_proj"}, .gate_up = {"mlp.gate_up_proj"}},
                         .read = read,
                         .write = write};

}  // namespace rw
