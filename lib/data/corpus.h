// Corpora: documents as text, and as tokens.
//
//   std::vector<Document> documents = load_corpus({"books/val"});
//   TokenCorpus corpus = tokenize_corpus(documents, *tokenizer);     // in parallel
//   write_token_file("val.tokens", corpus);                          // later: TokenCorpus::open("val.tokens")
#pragma once
#include <cstdint>
#include <functional>
#include <memory>
#include <optional>
#include <span>
#include <string>
#include <string_view>
#include <vector>

#include "data/tokenizer.h"

namespace rw {

struct Document {
  std::string name;
  std::string text;
};

/// Reads files and folders (every file with one of these names below, sorted by path). By the name, in any case, and
/// packed as ".gz" or not:
///   .jsonl, .ndjson  one object a line with "text" and optionally "name", "id" or "title"
///   .json            a list of such objects, one object, or one a line
///   .txt             one document of plain text, as is any other file that is named itself
/// Empty documents are dropped. Errors: missing or unreadable path, invalid JSON (named by line or item), text that is
/// in truth JSON, UTF-16, compressed or binary (text_file.h), no text at all.
std::vector<Document> load_corpus(const std::vector<std::string>& paths);

/// (items done, items in all): called from one thread at a time.
using Progress = std::function<void(int64_t done, int64_t total)>;

/// Documents as token ids, in memory, in a token file that is read as needed, or a packed view of
/// either. A value handle: copies share the tokens. Reading copies the ids asked for and touches
/// nothing else. Safe to read from many threads.
class TokenCorpus {
 public:
  TokenCorpus() = default;
  /// Takes the documents' ids. Errors: an id outside [0, vocab_size), named with its document and position.
  TokenCorpus(std::vector<std::string> names, const std::vector<std::vector<int32_t>>& documents, int32_t vocab_size);
  /// Maps a token file. Errors: not a token file, another version, truncated, garbled.
  static TokenCorpus open(const std::string& path);

  int64_t documents() const;
  int64_t length(int64_t document) const;  // tokens
  int64_t total_tokens() const;
  std::string name(int64_t document) const;
  int32_t vocab_size() const;

  /// Copies tokens [begin, begin + out.size()) of a document. Errors: out of range; an id beyond the vocabulary (a
  /// damaged token file), named with its position.
  void read(int64_t document, int64_t begin, std::span<int32_t> out) const;
  std::vector<int32_t> tokens(int64_t document) const;

  /// The whole corpus as one document, for corpora of short ones: [bos] doc0 eos
  /// [bos] doc1 eos ... A view, nothing is copied.
  TokenCorpus packed(int32_t eos, std::optional<int32_t> bos = std::nullopt) const;

  struct Source;  // where the ids come from: memory, a file, or a packed view of another

 private:
  explicit TokenCorpus(std::shared_ptr<const Source> source) : source_(std::move(source)) {}
  std::shared_ptr<const Source> source_;
};

/// Encodes every document, in parallel (long ones are cut at safe places). No BOS or EOS is added.
/// Errors: no documents, no tokens.
TokenCorpus tokenize_corpus(const std::vector<Document>& documents, const Tokenizer& tokenizer,
                            const Progress& progress = {});

/// Writes a token file atomically: a header with a checksum, u16 ids (u32 when
/// the vocabulary needs it), document table.
void write_token_file(const std::string& path, const TokenCorpus& corpus);

}  // namespace rw
