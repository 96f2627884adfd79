// Unicode normalization forms (UAX #15): NFC, NFD, NFKC and NFKD.
#pragma once
#include <cstdint>
#include <string>
#include <string_view>

namespace rw {

enum class NormalForm : uint8_t { nfc, nfd, nfkc, nfkd };

/// `text` in a normalization form. Bytes that are no UTF-8 stay as they are. Linear in the text, but for sorting the
/// combining marks that follow one character. Only a compatibility form makes text longer than three times its bytes
/// (U+FDFA becomes eleven times as long).
std::string normalized(std::string_view text, NormalForm form);

}  // namespace rw
