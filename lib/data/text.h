// Text as tokens: files and folders to a corpus, and a name that tells corpora apart.
#pragma once
#include <string>
#include <vector>

#include "data/corpus.h"

namespace rw {

/// True if the file is one that write_token_file has made.
bool is_token_file(const std::string& path);

/// Reads and tokenizes files and folders, or opens one token file; the path "demo" alone is the built-in stories that
/// are held out. `progress` counts the bytes of text. Errors:
/// load_corpus's and tokenize_corpus's; a token file with ids that the tokenizer does not have.
TokenCorpus load_tokens(const std::vector<std::string>& paths, const Tokenizer& tokenizer,
                        const Progress& progress = {});

/// Scans the corpus for ids that a model of `vocabulary` tokens does not have. A corpus that states a vocabulary of at
/// most that many is not read. Errors: such an id, with its document and position.
void check_vocabulary(const TokenCorpus& corpus, int64_t vocabulary);

/// Which text: "TOKENS tokens in DOCUMENTS documents, fnv1a HASH". Another text, or another tokenizer, has another one.
std::string fingerprint(const TokenCorpus& corpus);

}  // namespace rw
