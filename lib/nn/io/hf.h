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

/// The config of a model folder. Errors: no config.json, or one that is not a LLaMA's.
ModelConfig read_hf_config(const std::string& folder);

/// Reads config.json and model.safetensors, or the shards that model.safetensors.index.json names. bf16, f16 and f32
/// files are accepted. Errors: missing files or tensors (named), shapes that do not fit, a token embedding for another
/// vocabulary.
std::unique_ptr<CausalLm> load_hf(const std::string& folder, const LoadOptions& options = {});

struct SaveOptions {
  DType dtype = DType::f32;  // f32 (exact) or bf16
  int64_t max_shard_bytes = int64_t{4} << 30;
};

/// Writes config.json and the weights into `folder` (made if needed); every file appears whole or not at all, and
/// config.json last.
void save_hf(const std::string& folder, const CausalLm& model, const SaveOptions& options = {});

/// Sets the model's master weights by name. Errors: a parameter that `find` does not give, or of another shape.
void assign_weights(CausalLm& model, const std::function<Tensor(const std::string& name)>& find);

}  // namespace rw
