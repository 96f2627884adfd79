// Internal: adapter_config.json as text.
#pragma once
#include <string>
#include <vector>

#include "nn/io/adapter.h"

namespace rw {

/// Errors: as read_adapter_config; `path` is for messages.
AdapterConfig adapter_config_from_json(const std::string& text, const std::string& path);
/// `targets`: ends of the names of adapted layers; `whole`: of modules that are stored whole.
std::string adapter_config_to_json(const AdapterDescription& description, const std::string& base,
                                   const std::vector<std::string>& targets, const std::vector<std::string>& whole);

}  // namespace rw
