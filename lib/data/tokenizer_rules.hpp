// The components of a tokenizer.json beside its vocabulary. Internal to lib/data.
#pragma once
#include <string>
#include <vector>

#include "data/json_node.hpp"
#include "data/normalizer.h"
#include "data/pretokenize.h"

namespace rw::tokenizer_files {

/// Errors, here and below: a component that is not supported, by name.
TextNormalizer read_normalizer(const Node& root);

/// The pre-tokenizer of the file; byte_level is set if a ByteLevel ends it.
struct PreTokenizerRead {
  PreTokenizer rules;
  bool byte_level = false;
};
PreTokenizerRead read_pre_tokenizer(const Node& root);

/// What a post-processor puts around a text; `stated` is false if the file has none.
struct PostProcessor {
  bool stated = false;
  std::vector<std::string> before, after;
};
PostProcessor read_post_processor(const Node& root);

/// How ids become text.
struct DecoderRead {
  bool stated = false;
  bool byte_level = false, marks_are_spaces = false, strips_first = false;
};
DecoderRead read_decoder(const Node& root);

}  // namespace rw::tokenizer_files
