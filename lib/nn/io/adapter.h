// Adapters as PEFT stores them: adapter_config.json and adapter_model.safetensors.
//
//   save_adapter("lora", model, {.base = "base"});
//   auto merged = load_merged("base", "lora");
//
// Beside PEFT's two files an adapter of ours has model_config.json. That is the config.json of its model, with the RoPE
// recipe of the training. Where RoPE has learned (CLEX), there is rope_parameters.safetensors, too. PEFT reads neither:
// it takes the base's config, to which that recipe must be given.
#pragma once
#include <memory>
#include <optional>
#include <string>

#include "nn/io/hf.h"

namespace rw {

/// Whether the folder holds an adapter, as PEFT names its files.
bool is_adapter_folder(const std::string& folder);

/// What adapter_config.json says, and of which base: as read, with `base_blocks` unset.
struct AdapterConfig {
  AdapterDescription description;
  std::string base;   // base_model_name_or_path; may be empty
  bool rest = false;  // whole parameters (modules_to_save) are stored beside the adapters
};
/// Errors: not PEFT's format; an adapter of another kind than LoRA; a field that changes the computation and is not
/// supported, or is not known and not empty, by its name.
AdapterConfig read_adapter_config(const std::string& folder);

struct AdapterSaveOptions {
  std::string base;            // folder of the base model, as base_model_name_or_path
  std::optional<DType> dtype;  // of the tensors; none: f32, the exact master values
};
/// Writes what `model` trains into `folder` (made if needed), adapter_config.json last. Errors: a model without an
/// adapter.
void save_adapter(const std::string& folder, const CausalLm& model, const AdapterSaveOptions& options);

/// Sets what a model with an adapter trains from a folder that save_adapter() or PEFT wrote. Errors: another rank,
/// scale or other layers than the model's adapter has; tensors that are missing or left over.
void load_adapter(const std::string& folder, CausalLm& model);

/// W += scale b a for every adapter of the folder, and the parameters that are stored whole, into a model without
/// adapters. Errors: layers that the model does not have, shapes that do not fit.
void merge_adapter(const std::string& folder, CausalLm& model);

/// The base under the adapter's RoPE recipe (the base's own, if the folder states none), with the adapter merged.
/// options.adjust comes after that recipe.
std::unique_ptr<CausalLm> load_merged(const std::string& base, const std::string& adapter,
                                      const LoadOptions& options = {});

}  // namespace rw
