// The text of a run as tokens, and its name.
#pragma once
#include <string>
#include <vector>

#include "data/corpus.h"
#include "data/retrieval_template.h"

namespace rw {

/// True if the file is one that write_token_file has made.
bool is_token_file(const std::string& path);

/// Reads and tokenizes files and folders, or opens one token file. `progress` counts the bytes of text. Errors:
/// load_corpus's and tokenize_corpus's; a token file with ids that the tokenizer does not have.
TokenCorpus load_tokens(const std::vector<std::string>& paths, const Tokenizer& tokenizer,
                        const Progress& progress = {});

/// Which text: "TOKENS tokens in DOCUMENTS documents, fnv1a HASH". Another text, or another tokenizer, has another one.
std::string fingerprint(const TokenCorpus& corpus);

/// "default", "short", or a JSON file with task, filler, needle, question.
RetrievalTemplate choose_retrieval_template(const std::string& name);

/// Makes a folder and those above it; one that is there already is fine. Errors: it cannot be made, in the name of
/// `op`.
void make_folder(const char* op, const std::string& path);

}  // namespace rw
