// A SentencePiece .model. What is read must be written and read back the same.
#include <cstdio>
#include <cstdlib>

#include "data/sentencepiece.h"
#include "fuzz.h"

void fuzz_one(std::string_view input) {
  const rw::SentencePieceParts parts = rw::parse_sentencepiece(input, "x.model");
  const std::string text = rw::serialize_sentencepiece(parts);
  if (rw::serialize_sentencepiece(rw::parse_sentencepiece(text, "again")) != text) {
    std::fprintf(stderr, "fuzz: the model does not read back\n");
    std::abort();
  }
  const rw::SentencePieceBpe tokenizer(parts);
  tokenizer.decode(tokenizer.encode_special("Once upon a  time <s>\n caf\xC3\xA9 \xFF"));
}

std::vector<std::string> fuzz_seeds() {
  rw::SentencePieceParts parts = rw::parse_sentencepiece(fuzz::reference("tokenizers/tok512.model"), "tok512");
  std::vector<std::string> seeds = {rw::serialize_sentencepiece(parts)};
  parts.pieces.resize(300);
  parts.add_dummy_prefix = false;
  parts.remove_extra_whitespaces = true;
  parts.pieces[280].type = rw::Piece::Type::user_defined;
  seeds.push_back(rw::serialize_sentencepiece(parts));
  parts.pieces.resize(3);
  parts.pieces.push_back({"ab", -1, rw::Piece::Type::normal});
  parts.pieces.push_back({"a", -2, rw::Piece::Type::normal});
  parts.pieces.push_back({"b", -3, rw::Piece::Type::normal});
  seeds.push_back(rw::serialize_sentencepiece(parts));
  return seeds;
}
