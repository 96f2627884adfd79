// load_tokenizer: finds out what a path holds, and applies the files that lie beside a
// tokenizer: added_tokens.json and tokenizer_config.json.
#include <algorithm>
#include <charconv>
#include <filesystem>

#include "data/byte_bpe.h"
#include "data/sentencepiece.h"
#include "data/tokenizer_gguf.h"
#include "data/tokenizer_json.hpp"
#include "tensor/error.h"
#include "tensor/file.h"
#include "tensor/folder.h"

namespace rw {
namespace {

namespace fs = std::filesystem;
using namespace tokenizer_files;

/// Lines of a base64 text and its number: the vocabularies of tiktoken.
bool is_tiktoken(std::string_view text) {
  text.remove_prefix(std::min(text.find_first_not_of("\r\n"), text.size()));
  const std::string_view line = text.substr(0, std::min(text.find('\n'), text.size()));
  const size_t space = line.find(' ');
  if (space == std::string_view::npos || space == 0 || space + 1 >= line.size()) return false;
  const auto base64 = [](char c) {
    return (c >= 'A' && c <= 'Z') || (c >= 'a' && c <= 'z') || (c >= '0' && c <= '9') || c == '+' || c == '/' ||
           c == '=';
  };
  const auto digit = [](char c) { return c >= '0' && c <= '9'; };
  const std::string_view number = line.substr(space + 1, line.ends_with('\r') ? line.size() - space - 2 : line.npos);
  return std::all_of(line.begin(), line.begin() + static_cast<std::ptrdiff_t>(space), base64) &&
         std::all_of(number.begin(), number.end(), digit);
}

void refuse_other_kinds(std::string_view text, const std::string& path) {
  check(!text.empty(), "tokenizer", path, " is empty");
  refuse_lfs_pointer(text, path);
  check(!is_tiktoken(text), "tokenizer", path,
        " is a tiktoken vocabulary, which is not supported: convert it to a tokenizer.json with transformers");
}

std::unique_ptr<Tokenizer> load_file(const std::string& path) {
  const std::string text = read_file(path, limits::tokenizer);
  const std::string extension = fs::path(path).extension().string();
  refuse_other_kinds(text, path);
  if (extension == ".model") return std::make_unique<SentencePieceBpe>(parse_sentencepiece(text, path));
  if (extension == ".bin") return std::make_unique<SentencePieceBpe>(parse_llama2c_tokenizer(text, path));
  check(extension == ".json", "tokenizer", path, ": unknown kind of file; expected .json, .model or .bin");
  const Json json = parse_json(text, path);
  if (json.is_object() && json.contains("model") && json["model"].is_object())
    return read_tokenizer_json(json, text, path);
  // GPT-2's vocabulary: the merges lie beside it, vocab.json with merges.txt or gpt2_vocab.json with gpt2_merges.txt
  const size_t name = path.rfind("vocab.json");
  check(name != std::string::npos && name + 10 == path.size(), "tokenizer", path,
        " is neither a tokenizer.json (it has no 'model') nor a vocab.json");
  return read_vocab_and_merges(json, path, path.substr(0, name) + "merges.txt", VocabStyle::gpt2, false);
}

/// added_tokens.json: an object of text: id.
void apply_added_tokens(Tokenizer& tokenizer, const std::string& path) {
  const Json json = parse_json(read_file(path, limits::tokenizer), path);
  check(json.is_object(), "tokenizer", path, " must be an object of token: id");
  std::vector<AddedToken> added;
  for (const auto& [text, id] : json.items()) {
    if (tokenizer.token_id(text) == Node(id, cat(path, "['", text, "']")).id()) continue;
    added.push_back({.text = text,
                     .id = Node(id, cat(path, "['", text, "']")).id(),
                     .special = false,
                     .single_word = false,
                     .lstrip = false,
                     .rstrip = false,
                     .normalized = false});
  }
  tokenizer.add_tokens(std::move(added));
}

/// tokenizer_config.json's added_tokens_decoder: an object of "id": added token.
void apply_added_tokens_decoder(Tokenizer& tokenizer, const Node& root) {
  if (!root.has("added_tokens_decoder")) return;
  const Node decoder = root.at("added_tokens_decoder");
  check(decoder.json().is_object(), "tokenizer", decoder.where(), " must be an object of id: token");
  std::vector<AddedToken> added;
  for (const auto& [key, value] : decoder.json().items()) {
    int32_t id = -1;
    const auto read = std::from_chars(key.data(), key.data() + key.size(), id);
    const std::string where = cat(decoder.where(), "['", key, "']");
    check(read.ec == std::errc() && read.ptr == key.data() + key.size() && id >= 0, "tokenizer", where,
          " must be a token id");
    added.push_back(read_added_token(Node(value, where), id));
  }
  tokenizer.add_tokens(std::move(added));
}

/// BOS or EOS as the file names it: a string, or an object with "content"; "" if it names none.
std::string named_token(const Node& root, const char* key) {
  if (!root.has(key)) return "";
  const Node node = root.at(key);
  return node.has("content") ? node.at("content").text() : node.text();
}

/// "GPT2TokenizerFast" is GPT2Tokenizer; "" if the file names no class.
std::string class_of(const Node& root) {
  std::string name = root.has("tokenizer_class") ? root.at("tokenizer_class").text() : "";
  if (name.ends_with("Fast")) name.resize(name.size() - 4);
  return name;
}

/// Classes of transformers with GPT-2's kind of vocabulary: they put nothing around a text unless told to.
bool is_gpt2_like(const std::string& name) {
  return name == "GPT2Tokenizer" || name == "CodeGenTokenizer" || name == "GPTNeoXTokenizer" ||
         name == "Qwen2Tokenizer";
}

/// Special tokens that the file names beside added_tokens_decoder: as in transformers, those that the vocabulary lacks
/// follow it, in this order.
void apply_named_specials(Tokenizer& tokenizer, const Node& root) {
  std::vector<std::string> names;
  const auto name = [&](const Node& node) {
    names.push_back(node.has("content") ? node.at("content").text() : node.text());
  };
  for (const char* key : {"bos_token", "eos_token", "unk_token", "sep_token", "pad_token", "cls_token", "mask_token"}) {
    const bool end = std::string_view(key) == "bos_token" || std::string_view(key) == "eos_token";
    if (!root.has(key)) continue;
    name(root.at(key));
    if (end && !tokenizer.token_id(names.back())) names.pop_back();  // an error of its own
  }
  for (const char* key : {"additional_special_tokens", "extra_special_tokens"}) {
    if (!root.has(key)) continue;
    const Node list = root.at(key);
    if (!list.json().is_object()) {
      for (const Node& item : list.items()) name(item);
      continue;
    }
    for (const auto& [role, token] : list.json().items()) name(Node(token, cat(list.where(), ".", role)));
  }
  for (const std::string& text : names) {
    const std::vector<AddedToken>& added = tokenizer.added_tokens();
    if (text.empty() || std::any_of(added.begin(), added.end(), [&](const AddedToken& t) { return t.text == text; }))
      continue;
    const std::optional<int32_t> known = tokenizer.token_id(text);
    tokenizer.add_tokens({{.text = text, .id = known.value_or(tokenizer.vocab_size()), .special = true}});
  }
}

/// Where transformers makes the pre-tokenizer from the class, and not from tokenizer.json.
void apply_prefix_space(Tokenizer& tokenizer, const Node& root, const std::string& name) {
  if (!root.has("add_prefix_space")) return;
  const bool on = root.flag("add_prefix_space", false);
  auto* bytes = dynamic_cast<ByteBpe*>(&tokenizer);
  if (bytes != nullptr && name == "GPT2Tokenizer") bytes->set_prefix_space(on);
  if (auto* pieces = dynamic_cast<SentencePieceBpe*>(&tokenizer)) pieces->set_prefix_space(on);
}

void apply_config(Tokenizer& tokenizer, const std::string& path) {
  const Json json = parse_json(read_file(path, limits::tokenizer), path);
  check(json.is_object(), "tokenizer", path, " must be an object");
  const Node root(json, path);
  apply_added_tokens_decoder(tokenizer, root);
  apply_named_specials(tokenizer, root);
  const std::string name = class_of(root);
  apply_prefix_space(tokenizer, root, name);
  const std::optional<int32_t> begins_with = tokenizer.bos_id(), ends_with = tokenizer.appended_eos();
  const auto says_none = [&](const char* key) { return json.contains(key) && json[key].is_null(); };
  if (const std::string bos = named_token(root, "bos_token"); !bos.empty()) tokenizer.set_bos(bos);
  else if (says_none("bos_token")) tokenizer.clear_bos();
  if (const std::string eos = named_token(root, "eos_token"); !eos.empty()) tokenizer.set_eos(eos);
  else if (says_none("eos_token")) tokenizer.clear_eos();
  if (root.has("add_bos_token") || root.has("add_eos_token")) {
    tokenizer.set_ends({.bos = root.flag("add_bos_token", false), .eos = root.flag("add_eos_token", false)});
  } else if (is_gpt2_like(name) && !tokenizer.ends().bos) {
    tokenizer.set_ends({.bos = false, .eos = false});
  } else {  // what the post-processor puts around a text holds, whatever is called BOS
    if (tokenizer.ends().bos.value_or(false)) tokenizer.set_bos(tokenizer.token(begins_with.value()));
    check(!tokenizer.ends().eos.value_or(false) || tokenizer.eos_id() == ends_with, "tokenizer", path,
          ".eos_token is '", named_token(root, "eos_token"), "', but the post-processor ends texts with '",
          ends_with ? tokenizer.token(*ends_with) : "", "'");
  }
  Json kept = json;  // chat template, class, lengths: written back as they are
  for (const char* ours : {"bos_token", "eos_token", "add_bos_token", "add_eos_token", "added_tokens_decoder"})
    kept.erase(ours);
  tokenizer.set_kept_config(kept.dump(-1, ' ', false, Json::error_handler_t::replace));
}

/// vocab.json and merges.txt cut words as the model's tokenizer class does. Errors: a class with other rules.
std::unique_ptr<Tokenizer> load_vocab(const std::string& folder) {
  const std::string path = folder + "/vocab.json", text = read_file(path, limits::tokenizer),
                    config = folder + "/tokenizer_config.json";
  refuse_other_kinds(text, path);
  std::string name = "GPT2Tokenizer";
  bool space = false;
  if (path_exists(config)) {
    const Json json = parse_json(read_file(config, limits::tokenizer), config);
    const Node root(json, config);
    if (root.has("tokenizer_class")) name = class_of(root);
    space = root.flag("add_prefix_space", false);
  }
  const bool qwen2 = name == "Qwen2Tokenizer", gpt2 = name == "GPT2Tokenizer" || name == "CodeGenTokenizer";
  check(is_gpt2_like(name) || name == "PreTrainedTokenizer", "tokenizer", config, ".tokenizer_class '", name,
        "' is not supported with a vocab.json; known are GPT2, CodeGen, GPTNeoX and Qwen2");
  const auto style = qwen2 ? VocabStyle::qwen2 : gpt2 ? VocabStyle::gpt2 : VocabStyle::neox;
  return read_vocab_and_merges(parse_json(text, path), path, folder + "/merges.txt", style, space);
}

std::unique_ptr<Tokenizer> load_folder(const std::string& path) {
  for (const char* name : {"tokenizer.json", "tokenizer.model", "vocab.json", "tokenizer.bin"}) {
    if (!path_exists(path + "/" + name)) continue;
    return std::string_view(name) == "vocab.json" ? load_vocab(path) : load_file(path + "/" + name);
  }
  check(!path_exists(path + "/tekken.json"), "tokenizer", path,
        " holds Mistral's tekken.json, which is not supported: convert it to a tokenizer.json with transformers");
  for (const std::string& name : names_in(path)) {
    check(!name.ends_with(".tiktoken") && name != "tiktoken.model", "tokenizer", path, "/", name,
          " is a tiktoken vocabulary, which is not supported: convert it to a tokenizer.json with transformers");
  }
  fail("tokenizer", path, " holds no tokenizer.json, tokenizer.model, vocab.json or tokenizer.bin");
}

}  // namespace

std::unique_ptr<Tokenizer> load_tokenizer(const std::string& path) {
  if (is_gguf_path(path)) return load_gguf_tokenizer(GgufFile(path));
  if (!is_folder(path)) return load_file(path);
  std::unique_ptr<Tokenizer> tokenizer = load_folder(path);
  if (path_exists(path + "/added_tokens.json")) apply_added_tokens(*tokenizer, path + "/added_tokens.json");
  const std::string config = path + "/tokenizer_config.json";
  if (path_exists(config)) apply_config(*tokenizer, config);
  if (path_exists(path + "/chat_template.jinja")) {  // takes precedence over the one in tokenizer_config.json
    Json kept = tokenizer->kept_config().empty() ? Json::object() : Json::parse(tokenizer->kept_config());
    kept["chat_template"] = read_file(path + "/chat_template.jinja", limits::config);
    tokenizer->set_kept_config(kept.dump(-1, ' ', false, Json::error_handler_t::replace));
  }
  return tokenizer;
}

}  // namespace rw
