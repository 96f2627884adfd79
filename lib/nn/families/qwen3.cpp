// Qwen3: LLaMA's block, every query and key head normed; the upper layers may have a window.
#include <algorithm>

#include "nn/families/families.h"

namespace rw {

void read_qwen_windows(const ConfigReader& in, ModelConfig& c) {
  const bool used = in.boolean("use_sliding_window", false);
  const std::optional<int64_t> window = used ? read_window(in, 4096) : std::nullopt;
  in.known("sliding_window");
  in.known("max_window_layers");
  read_layer_types(in, c, window, [](const ConfigReader& fields, int64_t layer) {
    return fields.boolean("use_sliding_window", false) && !fields.is_null("sliding_window") &&
           layer >= fields.integer("max_window_layers", 28);
  });
  if (c.uniform()) c.layers.clear();
}

void write_qwen_windows(const ModelConfig& c, ConfigWriter& out) {
  int64_t window = 0, first = 0;
  for (int64_t i = c.num_hidden_layers - 1; i >= 0; --i) {
    if (c.layer(i).window > 0) window = c.layer(i).window, first = i;
  }
  out.set("use_sliding_window", window > 0);
  write_window(out, window);
  if (window > 0) out.set("max_window_layers", first);
  write_layer_types(c, out);
}

namespace {

void read(const ConfigReader& in, ModelConfig& c) {
  read_rms_sizes(in, c, {.kv_heads = 32, .head_dim = 128});
  c.block.activation = read_activation(in, "hidden_act", "silu");
  c.block.qkv_bias = c.block.o_bias = in.boolean("attention_bias", false);
  c.block.qk_norm = QkNorm::heads;
  read_qwen_windows(in, c);
  c.rope = read_rope(in, c, {.max_position_embeddings = 32768});
}

void write(const ModelConfig& c, ConfigWriter& out) {
  write_rms_sizes(c, out);
  out.set("hidden_act", activation_name(c.block.activation));
  out.set("attention_bias", c.block.qkv_bias);
  write_qwen_windows(c, out);
  write_rope(c, out);
}

}  // namespace

const FamilyRecord kQwen3{.family = Family::qwen3,
                          .model_type = "qwen3",
                          .architecture = "Qwen3ForCausalLM",
                          .names = {},
                          .read = read,
                          .write = write};

}  // namespace rw
