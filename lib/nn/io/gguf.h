// Models as llama.cpp stores them: one GGUF file with the sizes, the RoPE recipe, the tokenizer and the weights.
//
// Families: llama, mistral, qwen2, qwen3, gpt_neox, phi3, olmo2, smollm3, stablelm, gemma2 and gemma3_text. llama.cpp
// fixes some choices that a config.json states. A model that chose otherwise is refused by the name of the field.
#pragma once
#include <memory>
#include <string>

#include "nn/causal_lm.h"
#include "nn/io/hf.h"
#include "tensor/gguf.h"

namespace rw {

/// Writes the model. Matrices are stored as `type`; norms, biases and RoPE factors as F32. A matrix whose rows are not
/// a multiple of 32 stays F16 under Q8_0. `more` is written behind the model's own keys (the tokenizer's, see
/// data/tokenizer_gguf.h).
///
/// RoPE: linear and yarn are written by name. Other recipes with a fixed table become rope.freq_base where a new base
/// says the same. Otherwise they become factors per dimension: `rope_freqs` for the architecture "llama", longrope's
/// two lists for "llama" and "phi3". llama.cpp chooses between longrope's lists by the context that a program asks for.
/// Errors: a family or a recipe that the format cannot hold, with the reason; a recipe whose table depends on the
/// length ("freeze" it first).
void save_gguf_model(const std::string& path, const CausalLm& model, GgmlType type, const GgufMetadata& more = {});

/// The config that the file's keys state. Errors: an architecture that is not known, keys that are missing, keys of the
/// architecture that are not known.
ModelConfig read_gguf_config(const GgufFile& file);

/// Reads a model: F32, F16, BF16 or Q8_0 weights. Weights that were written as F32 come back bit for bit, but for
/// Gemma's norms, which files hold with 1 added. Factors per dimension become a `longrope` recipe with equal lists.
/// Errors: as read_gguf_config; tensors that are missing, left over or of another shape or type (named).
std::unique_ptr<CausalLm> load_gguf_model(const GgufFile& file, const LoadOptions& options = {});

}  // namespace rw
