// Mistral: LLaMA's block, and a window of attention in every layer.
#include "nn/families/families.h"

namespace rw {
namespace {

void read(const ConfigReader& in, ModelConfig& c) {
  read_rms_sizes(in, c, {.kv_heads = 8});
  c.block.activation = read_activation(in, "hidden_act", "silu");
  if (const std::optional<int64_t> window = read_window(in, 4096))
    c.layers.assign(static_cast<size_t>(c.num_hidden_layers), {.window = *window});
  c.rope = read_rope(in, c, {.max_position_embeddings = 4096 * 32});
}

void write(const ModelConfig& c, ConfigWriter& out) {
  write_rms_sizes(c, out);
  out.set("hidden_act", activation_name(c.block.activation));
  write_window(out, c.layer(0).window);
  write_rope(c, out);
}

}  // namespace

const FamilyRecord kMistral{.family = Family::mistral,
                            .model_type = "mistral",
                            .architecture = "MistralForCausalLM",
                            .names = {},
                            .read = read,
                            .write = write};

}  // namespace rw
