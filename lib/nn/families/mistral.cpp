// Mistral: LLaMA's block, and a window of attention in every layer.
#include "nn/families/families.h"

namespace rw {

void read_windowed_llama(const ConfigReader& in, ModelConfig& c, const SizeDefaults& sizes,
                         std::optional<int64_t> window, int64_t positions) {
  read_rms_sizes(in, c, sizes);
  c.block.activation = read_activation(in, "hidden_act", "silu");
  if (const std::optional<int64_t> stated = read_window(in, window))
    c.layers.assign(static_cast<size_t>(c.num_hidden_layers), {.window = *stated});
  c.rope = read_rope(in, c, {.max_position_embeddings = positions});
}

void write_windowed_llama(const ModelConfig& c, ConfigWriter& out) {
  write_rms_sizes(c, out);
  out.set("hidden_act", activation_name(c.block.activation));
  write_window(out, c.layer(0).window);
  write_rope(c, out);
}

namespace {

void read(const ConfigReader& in, ModelConfig& c) { read_windowed_llama(in, c, {.kv_heads = 8}, 4096, 4096 * 32); }

}  // namespace

const FamilyRecord kMistral{.family = Family::mistral,
                            .model_type = "mistral",
                            .architecture = "MistralForCausalLM",
                            .names = {},
                            .read = read,
                            .write = write_windowed_llama};

}  // namespace rw
