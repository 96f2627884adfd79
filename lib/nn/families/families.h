// The families' records, and what some of them share. For the files of this folder.
#pragma once
#include <algorithm>

#include "nn/families/family.h"

namespace rw {

extern const FamilyRecord kLlama, kMistral, kQwen2, kQwen3, kGptNeox, kGptj, kPhi3, kOlmo2, kSmollm3, kStablelm,
    kGemma2, kGemma3;

/// "sliding_window": null is none. Errors: 0.
std::optional<int64_t> read_window(const ConfigReader& in, std::optional<int64_t> otherwise);
/// 0 is null.
void write_window(ConfigWriter& out, int64_t window);

/// What Mistral and Phi-3 share: LLaMA's fields, and a window for every layer. Defaults: `window`, `positions`.
void read_windowed_llama(const ConfigReader& in, ModelConfig& config, const SizeDefaults& sizes,
                         std::optional<int64_t> window, int64_t positions);
void write_windowed_llama(const ModelConfig& config, ConfigWriter& out);

/// use_sliding_window, sliding_window, max_window_layers and layer_types of Qwen2 and Qwen3.
void read_qwen_windows(const ConfigReader& in, ModelConfig& config);
void write_qwen_windows(const ModelConfig& config, ConfigWriter& out);

/// What Gemma 2 and Gemma 3 share.
const ParameterNames& gemma_names();
void read_gemma(const ConfigReader& in, ModelConfig& config);
void write_gemma(const ModelConfig& config, ConfigWriter& out);

}  // namespace rw
