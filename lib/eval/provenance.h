// Where a number comes from: which weights, which text, which program, when and on what.
#pragma once
#include <optional>
#include <string>

#include "tensor/device.h"

namespace rw {

/// A checksum of a model folder's weights (model.safetensors, or its shards by name), 16 hex digits; nullopt where the
/// folder has none. It tells weights apart; it is no protection against forgery. Errors: unreadable files.
std::optional<std::string> weights_checksum(const std::string& folder);

/// "0.2.0", with the commit behind it where the build knew one: "0.2.0+0c72ad7".
std::string program_version();

/// The moment in UTC: "2031-04-05 06:07".
std::string date_now();

/// "cpu, 16 threads", or the name of the GPU where it is known.
std::string device_text(Device device);

}  // namespace rw
