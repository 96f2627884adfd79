// Any text through every kind of tokenizer: ids within the vocabulary, the same from the parts that safe_cut() allows, and
// pieces that add up to the decoded text.
#include <cstdio>
#include <cstdlib>

#include "data/tokenizer.h"
#include "fuzz.h"

namespace {

void must(bool ok, const char* what) {
  if (ok) return;
  std::fprintf(stderr, "fuzz: %s\n", what);
  std::abort();
}

const std::vector<std::unique_ptr<rw::Tokenizer>>& tokenizers() {
  static const std::vector<std::unique_ptr<rw::Tokenizer>> all = [] {
    std::vector<std::unique_ptr<rw::Tokenizer>> made;
    made.push_back(rw::make_byte_tokenizer());
    const std::string folder = std::string(ROPEWALK_TEST_DATA) + "/tokenizers/";
    made.push_back(rw::load_tokenizer(folder + "tok512.model"));
    made.push_back(rw::load_tokenizer(folder + "tok512.bin"));
    return made;
  }();
  return all;
}

}  // namespace

void fuzz_one(std::string_view input) {
  if (input.empty()) return;
  const rw::Tokenizer& t = *tokenizers()[static_cast<unsigned char>(input[0]) % tokenizers().size()];
  const std::string_view text = input.substr(1);
  const std::vector<int32_t> ids = t.encode(text);
  std::string pieces;
  int32_t before = -1;
  for (const int32_t id : ids) {
    must(id >= 0 && id < t.vocab_size() && !t.is_special(id), "an id that text must not give");
    pieces += t.piece(before, id);
    before = id;
  }
  must(pieces == t.decode(ids), "the pieces do not add up to the decoded text");
  const size_t cut = t.safe_cut(text, text.size() / 2);
  must(cut >= text.size() / 2 && cut <= text.size(), "a cut outside the text");
  std::vector<int32_t> parts = t.encode(text.substr(0, cut));
  if (cut < text.size()) {
    for (const int32_t id : t.encode(text.substr(cut))) parts.push_back(id);
  }
  must(parts == ids, "the parts give other ids than the whole");
  t.decode(t.encode_special(text));
}

std::vector<std::string> fuzz_seeds() {
  std::vector<std::string> seeds;
  for (const char kind : {'\0', '\1', '\2'}) {
    for (const char* text :
         {"Once upon a time, there was a little ropewalk.\nIt's 1,234 feet long!", "<s> </s> <unk> <0x41>",
          "caf\xC3\xA9 \xE2\x96\x81 \xF0\x9F\x98\x80 \xFF\xFE \xC3", "          a\t\t\n\n\r\n  b   "}) {
      seeds.push_back(std::string(1, kind) + text);
    }
  }
  return seeds;
}
