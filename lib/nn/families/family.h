// One record for each family of models: how its config.json states the description in nn/config.h, and what its
// parameters are called. docs/adding-a-family.md says how to add one.
#pragma once
#include <string>
#include <vector>

#include "nn/config.h"
#include "nn/families/fields.h"
#include "tensor/tensor.h"

namespace rw {

/// Parameters' names without ".weight" and ".bias"; those of a block are below `layers`.<index>. Empty: the family has
/// no such parameter. A fused tensor stands alone in its list.
struct ParameterNames {
  std::string embedding = "model.embed_tokens", final_norm = "model.norm", head = "lm_head", layers = "model.layers";
  std::string attention_norm = "input_layernorm";     // before attention
  std::string attention_out_norm;                     // after it
  std::string mlp_norm = "post_attention_layernorm";  // before the MLP
  std::string mlp_out_norm;                           // after it
  std::vector<std::string> qkv = {"self_attn.q_proj", "self_attn.k_proj", "self_attn.v_proj"};
  std::string o = "self_attn.o_proj", q_norm = "self_attn.q_norm", k_norm = "self_attn.k_norm";
  std::vector<std::string> gate_up = {"mlp.gate_proj", "mlp.up_proj"};  // or the only one of an MLP without a gate
  std::string down = "mlp.down_proj";
};

struct FamilyRecord {
  Family family = Family::llama;
  const char* model_type = "";    // in config.json
  const char* architecture = "";  // transformers' class
  ParameterNames names;
  /// Fields -> description. The common sizes, token ids and initializer_range have been read.
  void (*read)(const ConfigReader& in, ModelConfig& config) = nullptr;
  /// Description -> fields, beyond the same common ones.
  void (*write)(const ModelConfig& config, ConfigWriter& out) = nullptr;
  /// Where a file orders a tensor's rows in another way than the model does: the row of the file for each row of the
  /// model. Empty: the same order. nullptr: no tensor is reordered.
  std::vector<int64_t> (*file_rows)(const ModelConfig& config, const std::string& name) = nullptr;
  /// Names of the common sizes.
  const char *hidden_size = "hidden_size", *intermediate_size = "intermediate_size",
             *num_hidden_layers = "num_hidden_layers", *num_attention_heads = "num_attention_heads",
             *max_position_embeddings = "max_position_embeddings";
  /// A tensor that files may hold and the model does not need (a mask, a table of RoPE): a part of its name.
  std::vector<std::string> unneeded = {"rotary_emb.inv_freq"};
};

const FamilyRecord& family_record(Family family);
/// Errors: no family of that model_type; the message lists the known ones.
const FamilyRecord& family_named(const std::string& model_type);
/// All of them, in the order of the enum.
const std::vector<const FamilyRecord*>& all_families();

/// `value`, named `name`, from the order of rows in the family's files to the model's, or back.
Tensor from_file_rows(const ModelConfig& config, const std::string& name, const Tensor& value);
Tensor to_file_rows(const ModelConfig& config, const std::string& name, const Tensor& value);

/// What fields of the families with RMSNorm and grouped queries default to; 0: as ModelConfig.
struct SizeDefaults {
  int64_t kv_heads = 0, head_dim = 0;
  double eps = 1e-6;
  bool tied = false;
};
/// num_key_value_heads, head_dim, rms_norm_eps and tie_word_embeddings.
void read_rms_sizes(const ConfigReader& in, ModelConfig& config, const SizeDefaults& defaults);
void write_rms_sizes(const ModelConfig& config, ConfigWriter& out);

/// What RoPE fields default to where config.json does not state them.
struct RopeFieldDefaults {
  int64_t max_position_embeddings = 2048;
  double theta = 10000;
  double partial_rotary_factor = 1;
  const char* theta_field = "rope_theta";
  const char* partial_field = "partial_rotary_factor";
};
/// The recipe of "rope_scaling" or "rope_parameters" with the family's defaults; needs head_dim.
RopeConfig read_rope(const ConfigReader& in, const ModelConfig& config, const RopeFieldDefaults& defaults);
/// rope_theta and rope_scaling (and partial_rotary_factor where a part rotates).
void write_rope(const ModelConfig& config, ConfigWriter& out, const RopeFieldDefaults& defaults = {});

/// "silu", "gelu", "gelu_new", ... Errors: an activation that is not supported, by its field.
Activation read_activation(const ConfigReader& in, const char* field, const char* otherwise);
const char* activation_name(Activation activation);

/// Layers whose "layer_types" say "sliding_attention" get the window. `otherwise(i)`: whether layer i slides where the
/// field is absent. Errors: another type.
void read_layer_types(const ConfigReader& in, ModelConfig& config, std::optional<int64_t> window,
                      bool (*otherwise)(const ConfigReader& in, int64_t layer));
/// "layer_types" of the layers' windows.
void write_layer_types(const ModelConfig& config, ConfigWriter& out);

}  // namespace rw
