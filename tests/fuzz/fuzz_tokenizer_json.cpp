// tokenizer.json of both kinds, then encoding and decoding with what it describes.
#include "data/byte_bpe.h"
#include "fuzz.h"

void fuzz_one(std::string_view input) {
  const auto tokenizer = rw::load_tokenizer(fuzz::file("tokenizer.json", input));
  const std::vector<int32_t> ids = tokenizer->encode_special("Once upon a  time, <s>\n caf\xC3\xA9 \xFF 1234's </s>");
  tokenizer->decode(ids);
  for (const int32_t id : ids) tokenizer->token(id);
  tokenizer->safe_cut("a b c d", 2);
}

std::vector<std::string> fuzz_seeds() {
  const std::string bytes = dynamic_cast<const rw::ByteBpe&>(*rw::make_byte_tokenizer()).to_json();
  std::vector<std::string> seeds = {bytes};
  const auto with = [&](const std::string& from, const std::string& to) {
    std::string json = bytes;
    if (const size_t at = json.find(from); at != std::string::npos) seeds.push_back(json.replace(at, from.size(), to));
  };
  with("\"merges\": []", "\"merges\": [\"< s\"]");
  with("\"merges\": []", "\"merges\": [[\"<\", \"s\"]]");
  with("\"normalizer\": null",
       "\"normalizer\": {\"type\": \"Sequence\", \"normalizers\": [{\"type\": \"NFKC\"}, "
       "{\"type\": \"Strip\"}, {\"type\": \"Replace\", \"pattern\": {\"String\": \"a\"}, \"content\": \"bb\"}]}");
  with("\"post_processor\": null",
       "\"post_processor\": {\"type\": \"TemplateProcessing\", \"single\": [{\"SpecialToken\": "
       "{\"id\": \"<s>\"}}, {\"Sequence\": {\"id\": \"A\"}}]}");
  with("\"lstrip\": false", "\"lstrip\": true");
  with("\"single_word\": false", "\"single_word\": true");
  with("\"special\": true", "\"special\": false, \"normalized\": true");
  with("\"ignore_merges\": false", "\"ignore_merges\": true");
  seeds.push_back(
      R"({"added_tokens":[{"id":0,"content":"<unk>","special":true},{"id":1,"content":"<s>","special":true}],)"
      R"("normalizer":{"type":"Sequence","normalizers":[{"type":"Prepend","prepend":"▁"},{"type":"Replace","pattern":{"String":" "},"content":"▁"}]},)"
      R"("model":{"type":"BPE","unk_token":"<unk>","byte_fallback":true,"vocab":{"<unk>":0,"<s>":1,"▁":2,"a":3,"b":4,"▁a":5,"<0x41>":6},"merges":["▁ a"]}})");
  seeds.push_back(
      R"({"pre_tokenizer":{"type":"Metaspace","replacement":"▁","prepend_scheme":"first"},"model":{"vocab":{"<unk>":0,"▁":1,"a":2,"▁a":3},"merges":[["▁","a"]]},)"
      R"("added_tokens":[{"id":0,"content":"<unk>","special":true}]})");
  return seeds;
}
