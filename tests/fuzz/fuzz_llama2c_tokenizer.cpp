// llama2.c's tokenizer.bin, then encoding and decoding with it.
#include "data/sentencepiece.h"
#include "fuzz.h"

void fuzz_one(std::string_view input) {
  const rw::SentencePieceBpe tokenizer(rw::parse_llama2c_tokenizer(input, "x.bin"));
  tokenizer.decode(tokenizer.encode_special("Once upon a  time <s>\n caf\xC3\xA9 \xFF"));
}

std::vector<std::string> fuzz_seeds() {
  const std::string whole = fuzz::reference("tokenizers/tok512.bin");
  std::string small = whole.substr(0, 4);  // the 259 fixed tokens and a few of the others
  size_t at = 4;
  for (int id = 0; id < 290; ++id) {
    int32_t length = 0;
    whole.copy(reinterpret_cast<char*>(&length), 4, at + 4);
    small += whole.substr(at, 8 + static_cast<size_t>(length));
    at += 8 + static_cast<size_t>(length);
  }
  return {whole, small};
}
