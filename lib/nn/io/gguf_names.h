// What GGUF calls our parameters, and how it orders their rows. Internal to nn/io.
#pragma once
#include <string>

#include "nn/config.h"
#include "tensor/tensor.h"

namespace rw::gguf {

/// Divisors of the frequencies, one for each pair.
inline constexpr const char *kFactors = "rope_freqs.weight", *kLongFactors = "rope_factors_long.weight",
                            *kShortFactors = "rope_factors_short.weight";

/// How llama.cpp treats a family.
struct Architecture {
  Family family;
  const char* name;        // general.architecture, and the prefix of its keys
  bool interleaved;        // RoPE pairs neighbours: q and k rows of each head are stored in that order
  bool frequency_factors;  // reads "rope_freqs.weight"
  bool own_head;           // wants "output.weight" though it is tied to the embedding
};

/// Errors: llama.cpp has no such family.
const Architecture& architecture_of(Family family);
/// Errors: an architecture that this library has no family for.
const Architecture& architecture_named(const std::string& name);

/// "model.layers.3.self_attn.q_proj.weight" -> "blk.3.attn_q.weight". Errors: a parameter that GGUF has no name for.
std::string name_of(const ModelConfig& config, const std::string& parameter);

/// A parameter's values as the file has them, and back: rows of q and k in the order of interleaved RoPE, norms with
/// their offset added (Gemma).
Tensor to_file(const ModelConfig& config, const Architecture& a, const std::string& parameter, const Tensor& values);
Tensor from_file(const ModelConfig& config, const Architecture& a, const std::string& parameter, const Tensor& values);

}  // namespace rw::gguf
