// HMAC-SHA256: a keyed hash, by which ranks show each other that they know the same secret without saying it.
#pragma once
#include <array>
#include <cstdint>
#include <string_view>

namespace rw {

using Digest = std::array<uint8_t, 32>;

/// FIPS 180-4.
Digest sha256(std::string_view message);
/// RFC 2104 with SHA-256. A key of any length.
Digest hmac_sha256(std::string_view key, std::string_view message);
/// Whether both are equal, in a time that does not depend on where they differ.
bool same_digest(const Digest& a, const Digest& b);

}  // namespace rw
