// Text files as people have them: plain or compressed, and what is no text refused by what it is.
#pragma once
#include <functional>
#include <string>
#include <string_view>

namespace rw {

/// The bytes of a file; gzip is unpacked. Errors: unreadable, damaged gzip, gzip in a build without zlib.
std::string read_unpacked(const std::string& path);

/// Checks that bytes are text: UTF-8 or any other encoding that holds ASCII. Errors: UTF-16 and
/// UTF-32, NUL bytes, archives and other known binary files, git-lfs pointers, each named with `path`.
/// Returns the text without a UTF-8 byte order mark.
std::string_view checked_text(std::string_view bytes, const std::string& path);

/// True if the bytes begin as gzip does.
bool is_gzip(std::string_view bytes);

/// True if plain text is in truth JSON: one document, or an object a line.
bool looks_like_json(std::string_view text);

}  // namespace rw
