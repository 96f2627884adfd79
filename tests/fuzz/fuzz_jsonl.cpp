// A corpus of JSON lines, then its tokens.
#include "data/corpus.h"
#include "fuzz.h"

void fuzz_one(std::string_view input) {
  const auto documents = rw::load_corpus({fuzz::file("x.jsonl", input)});
  static const auto tokenizer = rw::make_byte_tokenizer();
  rw::tokenize_corpus(documents, *tokenizer);
}

std::vector<std::string> fuzz_seeds() {
  return {
      "{\"text\": \"Call me Ishmael.\", \"name\": "
      "\"whale\"}\n{\"text\":\"b\",\"id\":5}\n\n{\"title\":\"t\",\"text\":\"\\u00e9\\ud83d\\ude00\\n\"}\n",
      "{\"text\":\"\"}\r\n{\"text\":\"x\",\"more\":[1,2.5,null,{\"a\":true}]}", "{\"text\": \"one\"}"};
}
