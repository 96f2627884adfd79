// Tells text from what is no text by its first bytes, and unpacks gzip with zlib where the build has it.
#include "data/text_file.h"

#include <algorithm>
#include <nlohmann/json.hpp>
#ifdef ROPEWALK_WITH_ZLIB
#include <zlib.h>
#endif

#include "data/unicode.h"
#include "tensor/error.h"
#include "tensor/file.h"

namespace rw {
namespace {

constexpr const char* kOp = "corpus";

#ifdef ROPEWALK_WITH_ZLIB
/// All members of a gzip file, one after the other. Errors: damaged or cut off; more than 64 GiB.
std::string unpack(std::string_view packed, const std::string& path) {
  constexpr size_t kMost = size_t{64} << 30;
  std::string out, part(1 << 20, '\0');
  z_stream stream{};
  check(inflateInit2(&stream, 15 + 16) == Z_OK, kOp, "zlib cannot start");
  int state = Z_OK;
  const auto fail_with = [&](const char* what) {
    inflateEnd(&stream);
    fail(kOp, "'", path, "' ", what, " after ", out.size(), " bytes of text");
  };
  while (state != Z_STREAM_END || !packed.empty()) {
    if (state == Z_STREAM_END && inflateReset(&stream) != Z_OK) fail_with("is no gzip file that can be read");
    const size_t now = std::min<size_t>(packed.size(), 1 << 20);
    stream.next_in = reinterpret_cast<Bytef*>(const_cast<char*>(packed.data()));
    stream.avail_in = static_cast<uInt>(now);
    stream.next_out = reinterpret_cast<Bytef*>(part.data());
    stream.avail_out = static_cast<uInt>(part.size());
    state = inflate(&stream, Z_NO_FLUSH);
    const size_t used = now - stream.avail_in, made = part.size() - stream.avail_out;
    if (state != Z_OK && state != Z_STREAM_END)
      fail_with(now == 0 ? "is a gzip file that is cut off" : "is damaged gzip");
    packed.remove_prefix(used);
    out.append(part, 0, made);
    if (out.size() > kMost) fail_with("unpacks to more than 64 GiB");
  }
  inflateEnd(&stream);
  return out;
}
#endif

struct Magic {
  std::string_view bytes;
  const char* what;
};

/// Files that people keep text in, or beside it.
constexpr Magic kMagics[] = {{"\x28\xB5\x2F\xFD", "zstd: unpack it with 'zstd -d'"},
                             {"\xFD\x37\x7A\x58\x5A", "xz: unpack it with 'xz -d'"},
                             {"BZh", "bzip2: unpack it with 'bzip2 -d'"},
                             {"PK\x03\x04", "a zip archive: unpack it"},
                             {"PAR1", "Parquet: write its text as .jsonl"},
                             {"ARROW1", "Arrow: write its text as .jsonl"},
                             {"%PDF-", "PDF: take its text out first"},
                             {"version https://git-lfs", "a git-lfs pointer: fetch the file with 'git lfs pull'"},
                             {std::string_view("\xFF\xFE\0\0", 4), "UTF-32: turn it into UTF-8"},
                             {std::string_view("\0\0\xFE\xFF", 4), "UTF-32: turn it into UTF-8"},
                             {"\xFF\xFE", "UTF-16: turn it into UTF-8 with 'iconv -f UTF-16 -t UTF-8'"},
                             {"\xFE\xFF", "UTF-16: turn it into UTF-8 with 'iconv -f UTF-16 -t UTF-8'"}};

/// Bytes that are no UTF-8, and where the first of them is.
struct Foreign {
  size_t count = 0, first = 0;
};

Foreign foreign_bytes(std::string_view text) {
  Foreign out;
  for (size_t at = 0; at < text.size();) {
    if (static_cast<unsigned char>(text[at]) < 0x80) {
      ++at;
      continue;
    }
    const Char c = char_at(text, at);
    if (c.code == kInvalidChar && out.count++ == 0) out.first = at;
    at += c.length;
  }
  return out;
}

bool is_json_structure(std::string_view text) {
  const auto json = nlohmann::json::parse(text, nullptr, /*allow_exceptions=*/false);
  return json.is_structured();
}

}  // namespace

bool is_gzip(std::string_view bytes) { return bytes.starts_with("\x1F\x8B\x08"); }

std::string read_unpacked(const std::string& path) {
  std::string bytes = read_file(path);
  if (!is_gzip(bytes)) return bytes;
#ifdef ROPEWALK_WITH_ZLIB
  return unpack(bytes, path);
#else
  fail(kOp, "'", path, "' is gzip, and this program was built without zlib: unpack it with 'gzip -d'");
#endif
}

std::string_view checked_text(std::string_view bytes, const std::string& path) {
  for (const Magic& magic : kMagics) check(!bytes.starts_with(magic.bytes), kOp, "'", path, "' is ", magic.what);
  const size_t nul = bytes.find('\0');
  check(nul == std::string_view::npos, kOp, "'", path, "' is no text: byte ", nul, " is NUL");
  // A text that was cut off ends within a character, and a few damaged ones are no other encoding.
  const Foreign foreign = foreign_bytes(bytes);
  check(foreign.count <= 8 || foreign.count <= bytes.size() / 1000, kOp, "'", path, "' is no UTF-8: ", foreign.count,
        " bytes are not, the first is byte ", foreign.first,
        ". Turn it into UTF-8, as with 'iconv -f LATIN1 -t UTF-8', if it is text");
  constexpr std::string_view kMark = "\xEF\xBB\xBF";
  if (bytes.starts_with(kMark)) bytes.remove_prefix(kMark.size());
  return bytes;
}

bool looks_like_json(std::string_view text) {
  const size_t begin = std::min(text.find_first_not_of(" \t\r\n"), text.size());
  text.remove_prefix(begin);
  if (!text.starts_with('{') && !text.starts_with('[')) return false;
  // Deep nesting is no text that anybody wrote, and not for a recursive parser.
  int depth = 0, deepest = 0;
  for (const char c : text.substr(0, 1 << 16)) {
    if (c == '{' || c == '[') deepest = std::max(deepest, ++depth);
    if (c == '}' || c == ']') --depth;
  }
  if (deepest > 64) return true;
  const std::string_view line = text.substr(0, text.find('\n'));
  return is_json_structure(line) ? line.starts_with('{') || line.size() == text.size() || is_json_structure(text)
                                 : is_json_structure(text);
}

}  // namespace rw
