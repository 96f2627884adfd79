// Models as HF transformers stores them: config.json with the whole RoPE recipe, and safetensors, sharded or not.
#pragma once
#include <functional>
#include <memory>
#include <string>

#include "nn/causal_lm.h"

namespace rw {

struct LoadOptions {
  DType compute = DType::f32;
  Device device = kCpu;
  /// Changes the recipe before the model is built: how a window is extended. Parameters that the new recipe adds (CLEX)
  /// and the files lack are initialised from `seed`.
  std::function<void(ModelConfig&)> adjust;
  uint64_t seed = 0;
  ArenaMemory memory = {};  // how the model's arena keeps the weights
};

/// The config of a model folder. Errors: no config.json, or one that model_config_from_json refuses.
ModelConfig read_hf_config(const std::string& folder);

/// Reads config.json and model.safetensors, or the shards that model.safetensors.index.json names. bf16, f16, f32
/// and f64 files are accepted. An output head that differs from the embedding is used, whatever
/// tie_word_embeddings says. Errors: missing files, tensors that are missing, left over or quantized (named),
/// shapes that do not fit, weights in another format.
std::unique_ptr<CausalLm> load_hf(const std::string& folder, const LoadOptions& options = {});

struct SaveOptions {
  std::optional<DType> dtype;  // f32 (exact), bf16 or f64; none: ModelConfig::file_dtype, what was loaded
  int64_t max_shard_bytes = int64_t{4} << 30;
  std::string generation;  // the text of generation_config.json, "" for none
};

/// The text of generation_config.json in a model folder, which is kept as it is; "" if there is none.
std::string generation_file(const std::string& folder);

/// Writes config.json and the weights into `folder` (made if needed); every file appears
/// whole or not at all, and config.json last.
void save_hf(const std::string& folder, const CausalLm& model, const SaveOptions& options = {});

/// `write` makes files in the folder that it is given. They take the place of a model folder in one step
/// (FolderWriter): whoever opens `path` finds the old model or the new one. Files of the old model and its tokenizer
/// are removed, and all others stay. Errors: FolderWriter's, and those of `write`. Then the old folder is untouched.
void replace_model_folder(const std::string& path, const std::function<void(const std::string& folder)>& write);

/// Sets the model's master weights by name, from tensors as the family's files have them; an undefined one leaves the
/// parameter as it is. Errors: another shape.
void assign_weights(CausalLm& model, const std::function<Tensor(const std::string& name)>& find);

}  // namespace rw
