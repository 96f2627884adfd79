// SmolLM3: LLaMA's block; some layers have no RoPE, and those may have a window.
#include "nn/families/families.h"

namespace rw {
namespace {

/// One number for each layer: 1 with RoPE, 0 without.
std::vector<int64_t> rope_layers(const ConfigReader& in, int64_t layers) {
  std::vector<int64_t> has = in.integers("no_rope_layers");
  const int64_t interval = in.integer("no_rope_layer_interval", 4);
  if (in.has("no_rope_layers")) {
    check(static_cast<int64_t>(has.size()) == layers, "config", "'no_rope_layers' has ", has.size(), " entries for ",
          layers, " layers");
    return has;
  }
  check(interval > 0, "config", "'no_rope_layer_interval' must be positive, got ", interval);
  for (int64_t i = 0; i < layers; ++i) has.push_back((i + 1) % interval != 0);
  return has;
}

void read(const ConfigReader& in, ModelConfig& c) {
  read_rms_sizes(in, c, {.kv_heads = 4, .tied = true});
  c.block.activation = read_activation(in, "hidden_act", "silu");
  c.block.qkv_bias = c.block.o_bias = in.boolean("attention_bias", false);
  c.block.mlp_bias = in.boolean("mlp_bias", false);
  const std::vector<int64_t> has_rope = rope_layers(in, c.num_hidden_layers);
  const bool slides = in.boolean("use_sliding_window", false) && in.has("sliding_window");
  const std::optional<int64_t> window = slides ? read_window(in, std::nullopt) : std::nullopt;
  in.known("sliding_window");
  read_layer_types(in, c, window, [](const ConfigReader&, int64_t) { return false; });
  for (size_t i = 0; i < c.layers.size(); ++i) {
    c.layers[i].rope = has_rope[i] != 0;
    if (slides && !in.has("layer_types") && !c.layers[i].rope) c.layers[i].window = *window;
  }
  c.rope = read_rope(in, c, {.max_position_embeddings = 32768, .theta = 2000000});
}

void write(const ModelConfig& c, ConfigWriter& out) {
  write_rms_sizes(c, out);
  out.set("hidden_act", activation_name(c.block.activation));
  out.set("attention_bias", c.block.qkv_bias);
  out.set("mlp_bias", c.block.mlp_bias);
  std::vector<int64_t> has_rope;
  int64_t window = 0;
  for (int64_t i = 0; i < c.num_hidden_layers; ++i) {
    has_rope.push_back(c.layer(i).rope);
    window = std::max(window, c.layer(i).window);
  }
  out.set_list("no_rope_layers", has_rope);
  out.set("use_sliding_window", window > 0);
  write_window(out, window);
  write_layer_types(c, out);
  write_rope(c, out);
}

}  // namespace

const FamilyRecord kSmollm3{.family = Family::smollm3,
                            .model_type = "smollm3",
                            .architecture = "SmolLM3ForCausalLM",
                            .names = {},
                            .read = read,
                            .write = write};

}  // namespace rw
