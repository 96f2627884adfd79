// TokenCorpus: token ids in memory, in a file, or packed into one stream; and the file's format:
//
//   header (64 bytes)   magic, version, bytes per id, vocabulary, documents, tokens, bytes of names, checksum
//   i64 [documents + 1] where each document begins, in tokens
//   names               u32 length and bytes, each; zeros up to a multiple of 8
//   u16 or u32 [tokens] the ids, little-endian
//
// The checksum covers header and tables. Ids are checked when they are read, so
// opening a large file touches none of them.
#include <algorithm>
#include <cstring>

#include "data/corpus.h"
#include "tensor/error.h"
#include "tensor/file.h"

namespace rw {

struct TokenCorpus::Source {
  std::string name_text;               // all names, one behind the other
  std::vector<int64_t> name_ends;      // of each in it
  std::vector<int64_t> offsets = {0};  // of documents, and the end
  int32_t vocab = 0;
  int width = 2;                   // bytes per id
  std::vector<unsigned char> ids;  // in memory
  FileReader file;                 // or in a file, from this byte on
  int64_t ids_begin = 0;

  // a packed view of another corpus has these instead of ids; its single document is the whole stream
  std::shared_ptr<const Source> base;
  std::vector<int64_t> starts;  // of each of base's documents in the stream
  int32_t eos = 0;
  std::optional<int32_t> bos;

  int64_t documents() const { return static_cast<int64_t>(name_ends.size()); }
  std::string name(int64_t document) const {
    const int64_t begin = document == 0 ? 0 : name_ends[document - 1];
    return name_text.substr(begin, name_ends[document] - begin);
  }
  void add_name(std::string_view name) {
    name_text += name;
    name_ends.push_back(static_cast<int64_t>(name_text.size()));
  }
  int64_t length(int64_t document) const { return offsets[document + 1] - offsets[document]; }
  void read(int64_t document, int64_t begin, std::span<int32_t> out) const;
  uint32_t read_ids(int64_t begin, std::span<int32_t> out) const;
  void read_packed(int64_t begin, std::span<int32_t> out) const;
};

namespace {

struct Header {
  char magic[8];
  uint32_t version, width;
  uint64_t vocab, documents, tokens, name_bytes, checksum, reserved;
};
static_assert(sizeof(Header) == 64);
constexpr char kMagic[8] = {'R', 'W', 'T', 'O', 'K', 'E', 'N', 'S'};
constexpr uint32_t kVersion = 1;

uint64_t fnv1a(uint64_t hash, const void* bytes, size_t n) {
  const auto* p = static_cast<const unsigned char*>(bytes);
  for (size_t i = 0; i < n; ++i) hash = (hash ^ p[i]) * 0x100000001B3u;
  return hash;
}

uint64_t checksum_of(Header header, const void* tables, size_t n) {
  header.checksum = 0;
  return fnv1a(fnv1a(0xCBF29CE484222325u, &header, sizeof header), tables, n);
}

size_t padded(size_t n) { return (n + 7) / 8 * 8; }

/// Copies ids of `width` bytes and returns the largest.
template <class Id>
uint32_t widen(const unsigned char* from, std::span<int32_t> out) {
  uint32_t largest = 0;
  for (size_t i = 0; i < out.size(); ++i) {
    Id id;
    std::memcpy(&id, from + i * sizeof(Id), sizeof(Id));
    largest = std::max<uint32_t>(largest, id);
    out[i] = static_cast<int32_t>(id);
  }
  return largest;
}

}  // namespace

void TokenCorpus::Source::read(int64_t document, int64_t begin, std::span<int32_t> out) const {
  check(document >= 0 && document < documents(), "corpus", "document ", document, " of ", documents());
  const int64_t n = static_cast<int64_t>(out.size());
  check(begin >= 0 && begin <= length(document) - n, "corpus", "tokens [", begin, ", ", begin + n, ") of document '",
        name(document), "', which has ", length(document));
  if (base) return read_packed(begin, out);
  if (out.empty() || read_ids(offsets[document] + begin, out) < static_cast<uint32_t>(vocab)) return;
  const auto bad = std::find_if(out.begin(), out.end(), [this](int32_t id) { return id < 0 || id >= vocab; });
  fail("corpus", file.path(), file.path().empty() ? "" : ": ", "token ", begin + (bad - out.begin()), " of document '",
       name(document), "' is ", static_cast<uint32_t>(*bad), ", beyond the vocabulary of ", vocab);
}

/// Copies the ids from the corpus's token `begin` on and returns the largest, taken as unsigned.
uint32_t TokenCorpus::Source::read_ids(int64_t begin, std::span<int32_t> out) const {
  const auto widened = [this](const unsigned char* from, std::span<int32_t> to) {
    return width == 2 ? widen<uint16_t>(from, to) : widen<uint32_t>(from, to);
  };
  if (!ids.empty()) return widened(ids.data() + begin * width, out);
  uint32_t largest = 0;
  unsigned char part[1 << 14];
  const size_t most = sizeof part / static_cast<size_t>(width);
  for (size_t done = 0; done < out.size();) {
    const size_t n = std::min(most, out.size() - done);
    file.read(ids_begin + (begin + static_cast<int64_t>(done)) * width, part, static_cast<int64_t>(n) * width);
    largest = std::max(largest, widened(part, out.subspan(done, n)));
    done += n;
  }
  return largest;
}

void TokenCorpus::Source::read_packed(int64_t begin, std::span<int32_t> out) const {
  size_t done = 0;
  int64_t document = std::upper_bound(starts.begin(), starts.end(), begin) - starts.begin() - 1;
  for (; done < out.size(); ++document) {
    const int64_t text = starts[document] + (bos ? 1 : 0);  // where the document's own tokens begin in the stream
    int64_t at = begin + static_cast<int64_t>(done);
    if (at < text) {
      out[done++] = *bos;
      ++at;
    }
    const int64_t rest = base->length(document) - (at - text);
    const size_t n = std::min(out.size() - done, static_cast<size_t>(std::max<int64_t>(rest, 0)));
    base->read(document, at - text, out.subspan(done, n));
    done += n;
    if (done < out.size()) out[done++] = eos;
  }
}

TokenCorpus::TokenCorpus(std::vector<std::string> names, const std::vector<std::vector<int32_t>>& documents,
                         int32_t vocab_size) {
  check(names.size() == documents.size(), "corpus", names.size(), " names for ", documents.size(), " documents");
  check(vocab_size > 0, "corpus", "vocabulary of ", vocab_size);
  auto source = std::make_shared<Source>();
  for (const std::string& name : names) source->add_name(name);
  source->vocab = vocab_size;
  source->width = vocab_size <= 65536 ? 2 : 4;
  for (const auto& ids : documents)
    source->offsets.push_back(source->offsets.back() + static_cast<int64_t>(ids.size()));
  check(source->offsets.back() > 0, "corpus", "the corpus is empty: no token in ", documents.size(), " documents");

  source->ids.resize(static_cast<size_t>(source->offsets.back() * source->width));
  unsigned char* to = source->ids.data();
  for (size_t d = 0; d < documents.size(); ++d) {
    for (size_t i = 0; i < documents[d].size(); ++i, to += source->width) {
      const int32_t id = documents[d][i];
      check(id >= 0 && id < vocab_size, "corpus", "token ", i, " of document '", names[d], "' is ", id,
            ", beyond the vocabulary of ", vocab_size);
      std::memcpy(to, &id, static_cast<size_t>(source->width));  // little-endian: the low bytes come first
    }
  }
  source_ = std::move(source);
}

TokenCorpus TokenCorpus::open(const std::string& path) {
  const FileReader file(path);
  Header header{};
  file.read(0, &header, std::min<int64_t>(file.size(), sizeof header));
  check(file.size() >= static_cast<int64_t>(sizeof header) && std::memcmp(header.magic, kMagic, 8) == 0, "corpus", path,
        " is not a token file");
  check(header.version == kVersion, "corpus", path, ": token file of version ", header.version, ", expected ",
        kVersion);
  const uint64_t size = static_cast<uint64_t>(file.size()), limit = uint64_t{1} << 40;
  check((header.width == 2 || header.width == 4) && header.documents < limit && header.tokens < limit &&
            header.name_bytes < limit && header.vocab > 0 && header.vocab <= INT32_MAX,
        "corpus", path, ": the header is garbled");
  const size_t tables = (header.documents + 1) * 8 + padded(header.name_bytes);
  const uint64_t expected = sizeof header + tables + header.tokens * header.width;
  check(size == expected, "corpus", path, ": ", size, " bytes, expected ", expected,
        size < expected ? ": truncated" : "");
  std::vector<unsigned char> table(tables);
  const unsigned char* at = table.data();
  file.read(sizeof header, table.data(), static_cast<int64_t>(tables));
  check(checksum_of(header, at, tables) == header.checksum, "corpus", path,
        ": the checksum of header and tables is wrong");

  auto source = std::make_shared<Source>();
  source->vocab = static_cast<int32_t>(header.vocab);
  source->width = static_cast<int>(header.width);
  source->file = file;
  source->ids_begin = static_cast<int64_t>(sizeof header + tables);
  source->offsets.resize(header.documents + 1);
  std::memcpy(source->offsets.data(), at, source->offsets.size() * 8);
  const bool ordered = std::is_sorted(source->offsets.begin(), source->offsets.end());
  check(ordered && source->offsets.front() == 0 && source->offsets.back() == static_cast<int64_t>(header.tokens),
        "corpus", path, ": the document table is garbled");
  source->name_ends.reserve(header.documents);
  source->name_text.reserve(header.name_bytes);
  const unsigned char* name = at + source->offsets.size() * 8;
  const unsigned char* const names_end = name + header.name_bytes;
  for (uint64_t d = 0; d < header.documents; ++d) {
    uint32_t length = 0;
    check(names_end - name >= 4, "corpus", path, ": the names are garbled");
    std::memcpy(&length, name, 4);
    check(names_end - name - 4 >= length, "corpus", path, ": the names are garbled");
    source->add_name({reinterpret_cast<const char*>(name + 4), length});
    name += 4 + length;
  }
  return TokenCorpus(std::move(source));
}

int64_t TokenCorpus::documents() const { return source_ ? source_->documents() : 0; }

int64_t TokenCorpus::length(int64_t document) const {
  check(document >= 0 && document < documents(), "corpus", "document ", document, " of ", documents());
  return source_->length(document);
}

int64_t TokenCorpus::total_tokens() const { return source_ ? source_->offsets.back() : 0; }

std::string TokenCorpus::name(int64_t document) const {
  check(document >= 0 && document < documents(), "corpus", "document ", document, " of ", documents());
  return source_->name(document);
}

int32_t TokenCorpus::vocab_size() const { return source_ ? source_->vocab : 0; }

void TokenCorpus::read(int64_t document, int64_t begin, std::span<int32_t> out) const {
  check(source_ != nullptr, "corpus", "read of an empty corpus");
  source_->read(document, begin, out);
}

std::vector<int32_t> TokenCorpus::tokens(int64_t document) const {
  std::vector<int32_t> ids(static_cast<size_t>(length(document)));
  read(document, 0, ids);
  return ids;
}

TokenCorpus TokenCorpus::packed(int32_t eos, std::optional<int32_t> bos) const {
  check(source_ != nullptr, "corpus", "packing an empty corpus");
  for (const int32_t id : {eos, bos.value_or(0)}) {
    check(id >= 0 && id < vocab_size(), "corpus", "token ", id, " to pack with is beyond the vocabulary of ",
          vocab_size());
  }
  auto view = std::make_shared<Source>();
  view->add_name("packed");
  view->vocab = vocab_size();
  view->base = source_;
  view->eos = eos;
  view->bos = bos;
  int64_t at = 0;
  for (int64_t d = 0; d < documents(); ++d) {
    view->starts.push_back(at);
    at += length(d) + (bos ? 2 : 1);
  }
  view->offsets = {0, at};
  return TokenCorpus(std::move(view));
}

void write_token_file(const std::string& path, const TokenCorpus& corpus) {
  check(corpus.total_tokens() > 0, "corpus", "nothing to write to ", path);
  std::string tables, names;
  int64_t offset = 0;
  tables.append(reinterpret_cast<const char*>(&offset), 8);
  for (int64_t d = 0; d < corpus.documents(); ++d) {
    offset += corpus.length(d);
    tables.append(reinterpret_cast<const char*>(&offset), 8);
    const std::string name = corpus.name(d);
    const auto length = static_cast<uint32_t>(name.size());
    names.append(reinterpret_cast<const char*>(&length), 4);
    names += name;
  }
  Header header{};
  std::memcpy(header.magic, kMagic, 8);
  header.version = kVersion;
  header.width = corpus.vocab_size() <= 65536 ? 2 : 4;
  header.vocab = static_cast<uint64_t>(corpus.vocab_size());
  header.documents = static_cast<uint64_t>(corpus.documents());
  header.tokens = static_cast<uint64_t>(corpus.total_tokens());
  header.name_bytes = names.size();
  names.resize(padded(names.size()));
  tables += names;
  header.checksum = checksum_of(header, tables.data(), tables.size());

  AtomicWriter writer(path);
  writer.write(&header, sizeof header);
  writer.write(tables.data(), static_cast<int64_t>(tables.size()));
  std::vector<unsigned char> bytes;
  for (int64_t d = 0; d < corpus.documents(); ++d) {
    const std::vector<int32_t> ids = corpus.tokens(d);
    bytes.resize(ids.size() * header.width);
    for (size_t i = 0; i < ids.size(); ++i) std::memcpy(bytes.data() + i * header.width, &ids[i], header.width);
    writer.write(bytes.data(), static_cast<int64_t>(bytes.size()));
  }
  writer.commit();
}

}  // namespace rw
