// Tokenizers in GGUF files, as llama.cpp has them: "gpt2" is a byte-level BPE, "llama" a SentencePiece BPE.
// Source: the format's specification in ggml's repository, docs/gguf.md, section "Tokenizer".
#pragma once
#include <memory>

#include "data/tokenizer.h"
#include "tensor/gguf.h"

namespace rw {

/// The keys of a tokenizer, for a model of `vocab_size` tokens; ids beyond the tokenizer's are written as unused. A
/// tokenizer.json is kept whole beside them (tokenizer.huggingface.json), so that a file gives the same tokenizer back.
/// Errors: more tokens than the model has; rules that llama.cpp has no name for, each by its name. One rule is left out
/// as llama.cpp leaves it out: NFC of a byte-level BPE.
GgufMetadata gguf_tokenizer(const Tokenizer& tokenizer, int64_t vocab_size);

/// The tokenizer of a file, with its BOS, EOS and chat template. Errors: a file without tokenizer, a kind or a
/// pre-tokenizer that is not known, lists of different lengths, ids beyond the list, and those of the kinds themselves.
std::unique_ptr<Tokenizer> load_gguf_tokenizer(const GgufFile& file);

}  // namespace rw
