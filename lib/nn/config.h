// What a model is made of, as data: its sizes, the structure of its blocks, what each layer attends to, and its RoPE
// recipes. The modules, the decoders and the files of every family read this one description.
#pragma once
#include <optional>
#include <string>
#include <vector>

#include "autograd/ops/activation.h"
#include "autograd/ops/rope.h"
#include "nn/adapter.h"
#include "rope/scaling.h"

namespace rw {

/// The families, by transformers' model_type. lib/nn/families has a file for each.
enum class Family {
  llama,
  mistral,
  qwen2,
  qwen3,
  gpt_neox,
  gptj,
  phi3,
  olmo2,
  smollm3,
  stablelm,
  gemma2,
  gemma3_text,
};

/// The formula of a norm.
enum class NormKind {
  rms,    // RMSNorm: a weight
  layer,  // LayerNorm: a weight and a bias
};

/// Where a block has its norms, S being attention or the MLP.
enum class NormPlace {
  before,  // x + S(norm x)
  after,   // x + norm S(x)
  both,    // x + norm' S(norm x)
};

/// Whether queries and keys are normed (RMSNorm) before RoPE.
enum class QkNorm {
  none,
  heads,   // each head for itself
  across,  // all heads of a token together
};

/// The structure of a block. The defaults are LLaMA's.
struct BlockDescription {
  NormKind norm = NormKind::rms;
  double norm_weight_offset = 0;  // added to every norm's weight: Gemma's files store weight - 1
  NormPlace norm_place = NormPlace::before;
  bool parallel = false;     // x + attention(norm x) + mlp(norm' x), in place of one after the other
  bool shared_norm = false;  // parallel: one norm for attention and MLP
  Activation activation = Activation::silu;
  bool gated = true;  // down(act(gate x) * up x), otherwise down(act(up x))
  bool qkv_bias = false, o_bias = false, mlp_bias = false;
  QkNorm qk_norm = QkNorm::none;
  double attention_scale = 0;  // what scores are multiplied by; 0: 1 / sqrt(head_dim)
  double soft_cap = 0;         // scores become cap * tanh(score / cap); 0: they do not
};

/// What differs from layer to layer.
struct LayerDescription {
  int64_t window = 0;       // a query sees the last so many keys, its own included; 0: all earlier ones
  bool rope = true;         // false: queries and keys are not rotated
  bool local_rope = false;  // rotates by ModelConfig::local_rope
};

/// A whole model, with the names of HF's config.json where it has one.
struct ModelConfig {
  Family family = Family::llama;
  int64_t vocab_size = 0;
  int64_t hidden_size = 0;
  int64_t intermediate_size = 0;
  int64_t num_hidden_layers = 0;
  int64_t num_attention_heads = 0;
  int64_t num_key_value_heads = 0;  // 0: num_attention_heads
  int64_t head_dim = 0;             // 0: hidden_size / num_attention_heads
  double norm_eps = 1e-5;
  bool tie_word_embeddings = true;
  bool head_bias = false;      // of the output head
  double embedding_scale = 1;  // what embedded tokens are multiplied by
  double logit_soft_cap = 0;   // logits become cap * tanh(logit / cap); 0: they do not
  double initializer_range = 0.02;
  RopeLayout rope_layout = RopeLayout::half;  // most HF models are "half"; importers permute weights to it
  BlockDescription block;
  std::vector<LayerDescription> layers;             // one for each layer; empty: all are as LayerDescription's defaults
  std::vector<int64_t> bos_token_id, eos_token_id;  // as in config.json: none, one or several; a text ends at any eos
  RopeConfig rope;                                  // also holds max_position_embeddings
  std::optional<RopeConfig> local_rope;             // of layers with local_rope: fixed, whatever extends `rope`
  std::optional<AdapterDescription> adapter;        // trained beside the frozen model; no part of config.json
  DType file_dtype = DType::f32;  // what its files hold: weights are saved in it unless told otherwise
  std::string other_fields;       // JSON object: what config.json holds beyond this, written again as it was

  const LayerDescription& layer(int64_t i) const;
  /// Whether every layer attends to all earlier tokens and rotates by `rope`.
  bool uniform() const;
  /// Fills in what 0 stands for and copies head_dim to the RoPE recipes. Errors: sizes that do not fit together.
  void finish();
};

/// Reads config.json as transformers does, absent fields by the family's defaults. Errors: not JSON, missing or
/// wrong-typed fields, a family that is not known, a field that changes the computation to something that is not
/// supported; the field is named.
ModelConfig model_config_from_json(const std::string& text);
/// config.json in the family's own fields, as HF reads it. `dtype`: "float32" or "bfloat16".
std::string model_config_to_json(const ModelConfig& config, const std::string& dtype);

}  // namespace rw
