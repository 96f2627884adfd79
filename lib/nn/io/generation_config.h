// generation_config.json: how a model's makers want text to be made.
#pragma once
#include <cstdint>
#include <optional>
#include <string>
#include <vector>

namespace rw {

struct GenerationConfig {
  std::vector<int32_t> eos;  // a text ends at any of them
  std::optional<bool> do_sample;
  std::optional<double> temperature, top_p;
  std::optional<int64_t> top_k;
  std::vector<std::string> unused;  // what the file asks for beyond this, as "repetition_penalty 1.05"
};

/// Reads the file in a model folder; empty if there is none. Errors: not JSON, values of another type, a negative
/// temperature, top_p outside (0, 1], a negative top_k, each named by its key.
GenerationConfig read_generation_config(const std::string& folder);

}  // namespace rw
