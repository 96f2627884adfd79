// Models as llama.cpp stores them: one GGUF file with the sizes, the RoPE recipe, the tokenizer and the weights.
//
// Families: llama, mistral, qwen2, qwen3, gpt_neox, phi3, olmo2, smollm3, stablelm, gemma2 and gemma3_text. llama.cpp fixes
// some choices that a config.json states. A model that chose otherwise is refused by the name of the field.
#pragma once
#include <memory>
#include <string>
#include <utility>
#include <vector>

#include "nn/causal_lm.h"
#include "tensor/gguf.h"

namespace rw {

using GgufMetadata = std::vector<std::pair<std::string, GgufValue>>;

/// Writes the model. Matrices are stored as `type`; norms, biases and RoPE factors as F32. A matrix whose rows are not a
/// multiple of 32 stays F16 under Q8_0. `more` is written behind the model's own keys (the tokenizer's, see
/// data/gguf_tokenizer.h).
///
/// RoPE: linear and yarn are written by name. Other recipes with a fixed table become factors per dimension
/// (`rope_freqs`, for the architectures "llama" and "smollm3"; longrope's two lists for phi3) or, where a new base says
/// the same, rope.freq_base. Errors: a family or a recipe that the format cannot hold, with the reason; a recipe whose
/// table depends on the length ("freeze" it first).
void save_gguf_model(const std::string& path, const CausalLm& model, GgmlType type, const GgufMetadata& more = {});

struct GgufLoadOptions {
  DType compute = DType::f32;
  Device device = kCpu;
};

/// The config that the file's keys state. Errors: an architecture that is not known, keys that are missing.
ModelConfig read_gguf_config(const GgufFile& file);

/// Reads a model: F32, F16, BF16 or Q8_0 weights. Factors per dimension become a `longrope` recipe with equal lists.
/// Errors: as read_gguf_config; tensors that are missing, left over or of another shape or type (named).
std::unique_ptr<CausalLm> load_gguf_model(const GgufFile& file, const GgufLoadOptions& options = {});

}  // namespace rw
