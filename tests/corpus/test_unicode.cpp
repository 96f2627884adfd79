#include <doctest/doctest.h>

#include <nlohmann/json.hpp>

#include "data/pretokenize.h"
#include "data/unicode.h"
#include "support.h"
#include "tensor/file.h"

using namespace rw;
using Codes = std::vector<uint32_t>;

TEST_CASE("Characters fall into the classes that Unicode gives them") {
  const auto is = [](uint32_t code, CharClass cls) { CHECK_MESSAGE(class_of(code) == cls, "code point ", code); };
  for (const uint32_t c : Codes{'a', 'Z', 0xAA, 0xE9, 0x3B1, 0x5D0, 0x4F60, 0x20000, 0x1D400}) is(c, CharClass::letter);
  for (const uint32_t c : Codes{'0', '9', 0xB2, 0xBD, 0x661, 0x2167, 0x96C, 0x1F100}) is(c, CharClass::number);
  for (const uint32_t c : Codes{' ', '\t', '\n', 0x0B, 0x85, 0xA0, 0x1680, 0x2003, 0x2028, 0x3000})
    is(c, CharClass::space);
  // combining marks, symbols, the zero-width space and the information separators are none of the three
  for (const uint32_t c : Codes{'!', '_', 0x1C, 0x301, 0x20AC, 0x200B, 0x1F600, 0x10FFFF}) is(c, CharClass::other);
}

TEST_CASE("Invalid UTF-8 becomes single bytes") {
  const auto lengths = [](std::string_view text) {
    std::vector<uint32_t> out;
    for (size_t at = 0; at < text.size(); at += out.back()) out.push_back(char_at(text, at).length);
    return out;
  };
  CHECK(lengths("a\u00E9\u4F60\U0001F600") == std::vector<uint32_t>{1, 2, 3, 4});
  CHECK(lengths("\xC0\xAF") == std::vector<uint32_t>{1, 1});                // overlong
  CHECK(lengths("\xE0\x9F\xBF") == std::vector<uint32_t>{1, 1, 1});         // overlong: U+07FF in three bytes
  CHECK(lengths("\xF0\x8F\xBF\xBF") == std::vector<uint32_t>{1, 1, 1, 1});  // overlong: U+FFFF in four
  CHECK(lengths("\xED\xA0\x80") == std::vector<uint32_t>{1, 1, 1});         // a surrogate
  CHECK(lengths("\xF4\x90\x80\x80") == std::vector<uint32_t>{1, 1, 1, 1});  // above U+10FFFF
  CHECK(lengths("\xE4\xBD") == std::vector<uint32_t>{1, 1});                // cut off
  CHECK(char_at("\xFF", 0).code == kInvalidChar);
  std::string all;
  for (const uint32_t code : {0x41u, 0xE9u, 0x4F60u, 0x1F600u}) append_utf8(all, code);
  CHECK(all == "A\u00E9\u4F60\U0001F600");
}

TEST_CASE("Text is cut into words where HF's library cuts it") {
  const auto json = nlohmann::json::parse(read_file(test::data_dir() + "/tokenizers/hf_splits.json"));
  const std::vector<std::pair<const char*, std::vector<SplitStep>>> kinds = {
      {"gpt2", {SplitRule::gpt2}},
      {"llama3", {SplitRule::llama3}},
      {"qwen2", {SplitRule::qwen2}},
      {"digits", {SplitRule::digits}},
      {"individual_digits", {SplitRule::individual_digits}},
      {"individual_digits_gpt2", {SplitRule::individual_digits, SplitRule::gpt2}}};
  for (const auto& kind : kinds) {
    const auto& name = kind.first;
    for (size_t i = 0; i < json["texts"].size(); ++i) {
      const std::string text = json["texts"][i];
      std::vector<std::string> words;
      PreTokenizer{kind.second}.split(text, [&](std::string_view word) { words.emplace_back(word); });
      CHECK_MESSAGE(words == json[name][i].get<std::vector<std::string>>(), name, ": ", text);
    }
  }
}
