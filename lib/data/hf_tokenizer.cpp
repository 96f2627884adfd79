// load_tokenizer: finds out what a path holds, and reads HF's tokenizer.json and GPT-2's vocab.json with merges.txt.
#include <algorithm>
#include <filesystem>
#include <nlohmann/json.hpp>

#include "data/byte_bpe.h"
#include "data/sentencepiece.h"
#include "tensor/error.h"
#include "tensor/file.h"
#include "tensor/json_depth.h"

namespace rw {
namespace {

namespace fs = std::filesystem;
using Json = nlohmann::json;

constexpr int64_t kMostTokens = 1 << 24;

/// A garbled id must not ask for all memory: vocabularies are dense but for a few holes. Errors: an id far beyond
/// `entries`.
void check_dense(int64_t id, size_t entries, const std::string& where) {
  const int64_t most = 2 * static_cast<int64_t>(entries) + 1024;
  check(id < most, "tokenizer", where, " is token id ", id, " in a vocabulary of ", entries, " entries");
}

/// A JSON value that knows where it is, so that every error names the file and the key.
class Node {
 public:
  Node(const Json& json, std::string where) : json_(json), where_(std::move(where)) {}
  bool has(const char* key) const { return json_.is_object() && json_.contains(key) && !json_[key].is_null(); }
  Node at(const char* key) const {
    check(json_.is_object() && json_.contains(key), "tokenizer", where_, ": '", key, "' is missing");
    return {json_[key], cat(where_, ".", key)};
  }
  std::string text() const {
    check(json_.is_string(), "tokenizer", where_, " must be a string");
    return json_.get<std::string>();
  }
  int32_t id() const {
    check(json_.is_number_integer() && json_.get<int64_t>() >= 0 && json_.get<int64_t>() < kMostTokens, "tokenizer",
          where_, " must be a token id, got ", json_.dump());
    return json_.get<int32_t>();
  }
  bool flag(const char* key, bool otherwise) const {
    if (!has(key)) return otherwise;
    check(json_[key].is_boolean(), "tokenizer", where_, ".", key, " must be true or false");
    return json_[key].get<bool>();
  }
  std::string type() const { return at("type").text(); }
  std::vector<Node> items() const {
    check(json_.is_array(), "tokenizer", where_, " must be a list");
    std::vector<Node> nodes;
    for (size_t i = 0; i < json_.size(); ++i) nodes.emplace_back(json_[i], cat(where_, "[", i, "]"));
    return nodes;
  }
  const Json& json() const { return json_; }
  const std::string& where() const { return where_; }

 private:
  const Json& json_;
  std::string where_;
};

Json parse_json(const std::string& text, const std::string& path) {
  check_json_depth(text, "tokenizer", path);
  Json json = Json::parse(text, nullptr, /*allow_exceptions=*/false);
  check(!json.is_discarded(), "tokenizer", path, " is not valid JSON (truncated or garbled?)");
  return json;
}

/// Every (spelling, id) of a vocabulary object, by id. Errors: an id twice.
std::vector<std::string> read_vocab(const Node& node) {
  check(node.json().is_object(), "tokenizer", node.where(), " must be an object of token: id");
  std::vector<std::string> spelled;
  std::vector<bool> seen;
  for (const auto& [token, value] : node.json().items()) {
    const auto id = static_cast<size_t>(Node(value, cat(node.where(), "['", token, "']")).id());
    check_dense(static_cast<int64_t>(id), node.json().size(), cat(node.where(), "['", token, "']"));
    if (id >= spelled.size()) {
      spelled.resize(id + 1);
      seen.resize(id + 1);
    }
    check(!seen[id], "tokenizer", node.where(), ": '", spelled[id], "' and '", token, "' both have id ", id);
    seen[id] = true;
    spelled[id] = token;
  }
  check(!spelled.empty(), "tokenizer", node.where(), " is empty");
  return spelled;
}

using Pair = std::pair<int32_t, int32_t>;

Pair find_pair(const StringIndex& index, const std::string& left, const std::string& right, const std::string& where) {
  const auto id_of = [&](const std::string& token) {
    const auto found = index.find(token);
    check(found != index.end(), "tokenizer", where, ": '", token, "' is not in the vocabulary");
    return found->second;
  };
  return {id_of(left), id_of(right)};
}

/// "left right", as in merges.txt and older tokenizer.json.
Pair find_line(const StringIndex& index, const std::string& line, const std::string& where) {
  const size_t space = line.find(' ', 1);
  check(space != std::string::npos && space + 1 < line.size(), "tokenizer", where, " must be two tokens, got '", line,
        "'");
  return find_pair(index, line.substr(0, space), line.substr(space + 1), where);
}

std::vector<Pair> read_merges(const Node& node, const StringIndex& index) {
  std::vector<Pair> merges;
  for (const Node& item : node.items()) {
    if (item.json().is_string()) {
      merges.push_back(find_line(index, item.text(), item.where()));
      continue;
    }
    const std::vector<Node> two = item.items();
    check(two.size() == 2, "tokenizer", item.where(), " must be two tokens, got ", two.size());
    merges.push_back(find_pair(index, two[0].text(), two[1].text(), item.where()));
  }
  return merges;
}

StringIndex index_of(const std::vector<std::string>& spelled) {
  StringIndex index;
  for (size_t id = 0; id < spelled.size(); ++id) index.emplace(spelled[id], static_cast<int32_t>(id));
  return index;
}

std::vector<AddedToken> read_added(const Node& root, size_t vocab) {
  std::vector<AddedToken> added;
  if (!root.has("added_tokens")) return added;
  const std::vector<Node> items = root.at("added_tokens").items();
  for (const Node& item : items) {
    for (const char* option : {"single_word", "lstrip", "rstrip"}) {
      check(!item.flag(option, false), "tokenizer", item.where(), ": ", option, " = true is not supported");
    }
    added.push_back({item.at("content").text(), item.at("id").id(), item.flag("special", false)});
    check_dense(added.back().id, vocab + items.size(), cat(item.where(), ".id"));
  }
  return added;
}

/// Adds the rules of one pre-tokenizer (or of a sequence of them); true once a ByteLevel was among them.
bool read_pre_tokenizer(const Node& node, PreTokenizer& pre) {
  const std::string type = node.type();
  if (type == "Sequence") {
    bool byte_level = false;
    for (const Node& item : node.at("pretokenizers").items()) byte_level |= read_pre_tokenizer(item, pre);
    return byte_level;
  }
  if (type == "Digits") {
    pre.rules.push_back(node.flag("individual_digits", false) ? SplitRule::individual_digits : SplitRule::digits);
    return false;
  }
  if (type == "ByteLevel") {
    if (node.flag("add_prefix_space", true)) {
      check(pre.rules.empty(), "tokenizer", node.where(), ": add_prefix_space after another split is not supported");
      pre.add_prefix_space = true;
    }
    if (node.flag("use_regex", true)) pre.rules.push_back(SplitRule::gpt2);
    return true;
  }
  if (type == "Split") {
    const Node pattern = node.at("pattern");
    const std::string regex = pattern.has("Regex") ? pattern.at("Regex").text() : "";
    const bool isolated = node.at("behavior").text() == "Isolated" && !node.flag("invert", false);
    // "Removed, inverted" keeps the matches: the same, because these patterns match everything
    const bool removed = node.at("behavior").text() == "Removed" && node.flag("invert", false);
    for (const SplitRule rule : {SplitRule::gpt2, SplitRule::llama3, SplitRule::qwen2}) {
      if ((isolated || removed) && regex == regex_of(rule)) {
        pre.rules.push_back(rule);
        return false;
      }
    }
    fail("tokenizer", node.where(), ": split by ", pattern.json().dump(), " (", node.at("behavior").text(),
         ") is not supported; known are the patterns of GPT-2, Llama 3 and Qwen 2");
  }
  fail("tokenizer", node.where(), ": pre-tokenizer '", type, "' is not supported");
}

std::unique_ptr<Tokenizer> read_byte_level(const Node& root, const std::string& text) {
  ByteBpeParts parts;
  check(!root.has("normalizer"), "tokenizer", root.where(), ": normalizer ",
        root.has("normalizer") ? root.at("normalizer").json().dump() : "", " is not supported with byte-level BPE");
  check(read_pre_tokenizer(root.at("pre_tokenizer"), parts.pre_tokenizer), "tokenizer", root.where(),
        ": the pre-tokenizer is not byte-level");
  const Node model = root.at("model");
  const std::vector<std::string> spelled = read_vocab(model.at("vocab"));
  parts.added = read_added(root, spelled.size());
  parts.merges = read_merges(model.at("merges"), index_of(spelled));
  parts.ignore_merges = model.flag("ignore_merges", false);
  parts.json = text;

  size_t size = spelled.size();
  for (const AddedToken& token : parts.added) size = std::max(size, static_cast<size_t>(token.id) + 1);
  std::vector<bool> is_added(size);
  for (const AddedToken& token : parts.added) is_added[static_cast<size_t>(token.id)] = true;
  parts.tokens.resize(size);
  for (size_t id = 0; id < spelled.size(); ++id) {
    if (!is_added[id]) parts.tokens[id] = unspell_bytes(spelled[id]);
  }
  return std::make_unique<ByteBpe>(std::move(parts));
}

/// The normalizer and pre-tokenizer of LLaMA-2's tokenizer.json: Prepend "▁" and Replace " " by "▁", or a Metaspace.
bool read_metaspace(const Node& root, SentencePieceParts& parts) {
  parts.add_dummy_prefix = false;
  bool replaces = false;
  std::vector<Node> steps;
  if (root.has("normalizer")) {
    const Node normalizer = root.at("normalizer");
    steps = normalizer.type() == "Sequence" ? normalizer.at("normalizers").items() : std::vector<Node>{normalizer};
  }
  for (const Node& step : steps) {
    const std::string type = step.type();
    if (type == "Prepend") parts.add_dummy_prefix = true;
    else if (type == "Replace" && step.at("pattern").has("String") && step.at("pattern").at("String").text() == " ")
      replaces = true;
    else fail("tokenizer", step.where(), ": normalizer ", step.json().dump(), " is not supported");
  }
  if (root.has("pre_tokenizer")) {
    const Node pre = root.at("pre_tokenizer");
    check(pre.type() == "Metaspace", "tokenizer", pre.where(), ": pre-tokenizer '", pre.type(),
          "' is not supported with SentencePiece-style BPE");
    replaces = true;
    const std::string scheme = pre.has("prepend_scheme") ? pre.at("prepend_scheme").text() : "always";
    parts.add_dummy_prefix = pre.flag("add_prefix_space", true) && scheme != "never";
  }
  return replaces;
}

std::unique_ptr<Tokenizer> read_sentencepiece_style(const Node& root, const std::string& text) {
  SentencePieceParts parts;
  check(read_metaspace(root, parts), "tokenizer", root.where(),
        ": nothing turns spaces into '▁', so this is neither byte-level nor ", "SentencePiece-style BPE");
  const Node model = root.at("model");
  const std::vector<std::string> spelled = read_vocab(model.at("vocab"));
  const std::string unknown = model.has("unk_token") ? model.at("unk_token").text() : "<unk>";
  parts.merges = read_merges(model.at("merges"), index_of(spelled));
  check(!parts.merges.empty(), "tokenizer", model.where(), ".merges is empty");
  parts.added = read_added(root, spelled.size());
  size_t size = spelled.size();
  for (const AddedToken& token : parts.added) size = std::max(size, static_cast<size_t>(token.id) + 1);
  parts.pieces.resize(size);
  for (size_t id = 0; id < spelled.size(); ++id) {
    Piece& piece = parts.pieces[id];
    std::string_view rest = spelled[id];
    while (!rest.empty()) {
      const bool space = rest.starts_with("▁");
      piece.text += space ? ' ' : rest[0];
      rest.remove_prefix(space ? std::string_view("▁").size() : 1);
    }
    if (spelled[id].size() == 6 && spelled[id].starts_with("<0x") && model.flag("byte_fallback", false))
      piece.type = Piece::Type::byte;
  }
  for (const AddedToken& token : parts.added) {
    parts.pieces[static_cast<size_t>(token.id)] = {token.text, 0, Piece::Type::control};
    if (token.text == unknown) parts.pieces[static_cast<size_t>(token.id)].type = Piece::Type::unknown;
    check(token.special || token.text == unknown, "tokenizer", root.where(), ": added token '", token.text,
          "' is not special, which is not supported with SentencePiece-style BPE");
  }
  parts.file_name = "tokenizer.json";
  parts.file_bytes = text;
  return std::make_unique<SentencePieceBpe>(std::move(parts));
}

bool mentions_byte_level(const Json& json) {
  if (json.is_object() && json.contains("type") && json["type"] == "ByteLevel") return true;
  if (!json.is_structured()) return false;
  return std::any_of(json.begin(), json.end(), [](const Json& item) { return mentions_byte_level(item); });
}

std::unique_ptr<Tokenizer> read_tokenizer_json(const Json& json, const std::string& text, const std::string& path) {
  const Node root(json, path);
  const Node model = root.at("model");
  const std::string type = model.has("type") ? model.type() : "BPE";  // old files leave it out
  check(type == "BPE", "tokenizer", path, ": models of type '", type, "' are not supported, only 'BPE'");
  for (const char* option : {"continuing_subword_prefix", "end_of_word_suffix"}) {
    check(!model.has(option) || model.at(option).text().empty(), "tokenizer", path, ": ", option, " is not supported");
  }
  const bool byte_level = root.has("pre_tokenizer") && mentions_byte_level(root.at("pre_tokenizer").json());
  return byte_level ? read_byte_level(root, text) : read_sentencepiece_style(root, text);
}

std::unique_ptr<Tokenizer> read_gpt2(const Json& vocab, const std::string& vocab_path, const std::string& merges_path) {
  const std::vector<std::string> spelled = read_vocab(Node(vocab, vocab_path));
  const StringIndex index = index_of(spelled);
  ByteBpeParts parts;
  parts.pre_tokenizer.rules = {SplitRule::gpt2};
  parts.tokens.resize(spelled.size());
  for (size_t id = 0; id < spelled.size(); ++id) {
    if (spelled[id] == "<|endoftext|>") parts.added.push_back({spelled[id], static_cast<int32_t>(id), true});
    else parts.tokens[id] = unspell_bytes(spelled[id]);
  }
  const std::string text = read_file(merges_path);
  for (size_t at = 0, number = 1; at < text.size(); ++number) {
    const size_t end = std::min(text.find('\n', at), text.size());
    const std::string line = text.substr(at, end - at);
    at = end + 1;
    if (line.empty() || line.starts_with("#version")) continue;
    parts.merges.push_back(find_line(index, line, cat(merges_path, " line ", number)));
  }
  check(!parts.merges.empty(), "tokenizer", merges_path, " holds no merges");
  return std::make_unique<ByteBpe>(std::move(parts));
}

std::unique_ptr<Tokenizer> load_file(const std::string& path) {
  const std::string text = read_file(path);
  const std::string extension = fs::path(path).extension().string();
  check(!text.empty(), "tokenizer", path, " is empty");
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
  return read_gpt2(json, path, path.substr(0, name) + "merges.txt");
}

/// BOS and EOS as tokenizer_config.json names them: a string, or an object with "content".
void apply_config(Tokenizer& tokenizer, const std::string& path) {
  const Json json = parse_json(read_file(path), path);
  const Node root(json, path);
  const auto named = [&](const char* key) -> std::string {
    if (!root.has(key)) return "";
    const Node node = root.at(key);
    return node.has("content") ? node.at("content").text() : node.text();
  };
  if (const std::string bos = named("bos_token"); !bos.empty()) tokenizer.set_bos(bos);
  if (const std::string eos = named("eos_token"); !eos.empty()) tokenizer.set_eos(eos);
}

}  // namespace

std::unique_ptr<Tokenizer> load_tokenizer(const std::string& path) {
  if (!fs::is_directory(path)) return load_file(path);
  std::unique_ptr<Tokenizer> tokenizer;
  for (const char* name : {"tokenizer.json", "tokenizer.model", "vocab.json", "tokenizer.bin"}) {
    if (tokenizer == nullptr && fs::exists(path + "/" + name)) tokenizer = load_file(path + "/" + name);
  }
  check(tokenizer != nullptr, "tokenizer", path,
        " holds no tokenizer.json, tokenizer.model, vocab.json or tokenizer.bin");
  const std::string config = path + "/tokenizer_config.json";
  if (fs::exists(config)) apply_config(*tokenizer, config);
  return tokenizer;
}

}  // namespace rw
