// ModelConfig's checks. Reading and writing config.json is in families/config_json.cpp.
#include "nn/config.h"

#include <algorithm>

namespace rw {

const LayerDescription& ModelConfig::layer(int64_t i) const {
  static const LayerDescription plain;
  return layers.empty() ? plain : layers.at(static_cast<size_t>(i));
}

bool ModelConfig::uniform() const {
  return std::all_of(layers.begin(), layers.end(),
                     [](const LayerDescription& l) { return l.window == 0 && l.rope && !l.local_rope; });
}

void ModelConfig::finish() {
  if (num_key_value_heads == 0) num_key_value_heads = num_attention_heads;
  check(vocab_size > 0 && hidden_size > 0 && intermediate_size > 0 && num_hidden_layers > 0 && num_attention_heads > 0,
        "config",
        "vocab_size, hidden_size, intermediate_size, num_hidden_layers and num_attention_heads must be positive");
  if (head_dim == 0) {
    check(hidden_size % num_attention_heads == 0, "config", "hidden_size ", hidden_size,
          " is not a multiple of num_attention_heads ", num_attention_heads);
    head_dim = hidden_size / num_attention_heads;
  }
  check(num_attention_heads % num_key_value_heads == 0, "config", "num_attention_heads ", num_attention_heads,
        " is not a multiple of num_key_value_heads ", num_key_value_heads);
  check(head_dim % 2 == 0 && head_dim <= kMostHeadDim, "config", "head_dim must be even and at most ", kMostHeadDim,
        ", got ", head_dim);
  check(norm_eps > 0, "config", "the norms' epsilon must be positive, got ", norm_eps);
  rope.head_dim = head_dim;
  check(rope.max_position_embeddings > 0, "config", "max_position_embeddings must be positive");
  check(layers.empty() || static_cast<int64_t>(layers.size()) == num_hidden_layers, "config",
        "layers are described for ", layers.size(), " of ", num_hidden_layers, " layers");
  const bool local = std::any_of(layers.begin(), layers.end(), [](const LayerDescription& l) { return l.local_rope; });
  check(!local || local_rope.has_value(), "config", "layers rotate by local_rope, which is not given");
  if (local_rope) local_rope->head_dim = head_dim;
}

}  // namespace rw
