// The checkpoint format of llama2.c (version 0: seven int32, then f32 weights).
#pragma once
#include <memory>
#include <string>

#include "nn/causal_lm.h"

namespace rw {

/// Reads a .bin file. q and k rows are permuted from llama2.c's interleaved pairs to the half layout of HF, unless
/// `keep_interleaved`. Errors: truncated or too long a file, header values that are not a model's.
std::unique_ptr<CausalLm> load_llama2c(const std::string& path, DType compute = DType::f32, Device device = kCpu,
                                       bool keep_interleaved = false);

/// Rows of a q or k projection [heads * D, C] from interleaved pairs to halves: row (h, 2i+e) goes to (h, e*D/2 + i).
Tensor interleaved_to_half(const Tensor& weight, int64_t heads);
/// The inverse.
Tensor half_to_interleaved(const Tensor& weight, int64_t heads);

}  // namespace rw
