// Reading text as tokens, and the fingerprint that tells texts apart.
#include "data/text.h"

#include <algorithm>
#include <cstdio>

#include "data/demo_corpus.h"
#include "tensor/error.h"
#include "tensor/file.h"
#include "tensor/folder.h"
#include "tensor/hash.h"

namespace rw {

bool is_token_file(const std::string& path) {
  if (!is_file(path)) return false;
  const FileReader file(path);
  char head[8] = {};
  file.read(0, head, std::min<int64_t>(file.size(), sizeof head));
  return std::string(head, sizeof head) == "RWTOKENS";
}

TokenCorpus load_tokens(const std::vector<std::string>& paths, const Tokenizer& tokenizer, const Progress& progress) {
  if (names_demo_corpus(paths)) return tokenize_corpus(make_held_out_demo_corpus(), tokenizer, progress);
  if (paths.size() != 1 || !is_token_file(paths[0])) return tokenize_corpus(load_corpus(paths), tokenizer, progress);
  TokenCorpus corpus = TokenCorpus::open(paths[0]);
  check(corpus.vocab_size() <= tokenizer.vocab_size(), "text", "'", paths[0], "' has token ids up to ",
        corpus.vocab_size() - 1, ", the tokenizer ", tokenizer.vocab_size(), " tokens");
  return corpus;
}

void check_vocabulary(const TokenCorpus& corpus, int64_t vocabulary) {
  if (corpus.documents() == 0 || corpus.vocab_size() <= vocabulary) return;
  std::vector<int32_t> part;
  for (int64_t d = 0; d < corpus.documents(); ++d) {
    for (int64_t at = 0; at < corpus.length(d); at += static_cast<int64_t>(part.size())) {
      part.resize(static_cast<size_t>(std::min<int64_t>(corpus.length(d) - at, 1 << 16)));
      corpus.read(d, at, part);
      const auto beyond = std::find_if(part.begin(), part.end(), [&](int32_t id) { return id >= vocabulary; });
      if (beyond == part.end()) continue;
      fail("text", "document '", corpus.name(d), "' has token id ", *beyond, " at position ",
           at + (beyond - part.begin()), ", the model a vocabulary of ", vocabulary,
           ": do model and tokenizer belong together?");
    }
  }
}

std::string fingerprint(const TokenCorpus& corpus) {
  uint64_t hash = kFnvBegin;
  std::vector<int32_t> part;
  for (int64_t d = 0; d < corpus.documents(); ++d) {
    for (int64_t at = 0; at < corpus.length(d); at += static_cast<int64_t>(part.size())) {
      part.resize(static_cast<size_t>(std::min<int64_t>(corpus.length(d) - at, 1 << 16)));
      corpus.read(d, at, part);
      hash = fnv1a<int32_t>(part, hash);
    }
  }
  char hex[17];
  std::snprintf(hex, sizeof hex, "%016llx", static_cast<unsigned long long>(hash));
  return cat(corpus.total_tokens(), " tokens in ", corpus.documents(), " documents, fnv1a ", hex);
}

}  // namespace rw
