// The shape of a LLaMA, with HF's names.
#pragma once
#include <optional>
#include <string>

#include "autograd/ops/rope.h"
#include "rope/scaling.h"

namespace rw {

struct ModelConfig {
  int64_t vocab_size = 0;
  int64_t hidden_size = 0;
  int64_t intermediate_size = 0;
  int64_t num_hidden_layers = 0;
  int64_t num_attention_heads = 0;
  int64_t num_key_value_heads = 0;  // 0: num_attention_heads
  int64_t head_dim = 0;             // 0: hidden_size / num_attention_heads
  double rms_norm_eps = 1e-5;
  bool tie_word_embeddings = true;
  double initializer_range = 0.02;
  RopeLayout rope_layout = RopeLayout::half;  // HF models are "half"; importers permute weights to it
  std::optional<int64_t> bos_token_id, eos_token_id;
  RopeConfig rope;  // also holds max_position_embeddings

  /// Fills in what 0 stands for and copies head_dim to rope. Errors: sizes that do not fit together.
  void finish();
};

/// Errors: not JSON, missing or wrong-typed fields (named), what is not a LLaMA (biases, another activation).
ModelConfig model_config_from_json(const std::string& text);
/// config.json as HF reads it. `dtype`: "float32" or "bfloat16".
std::string model_config_to_json(const ModelConfig& config, const std::string& dtype);

}  // namespace rw
