// Reads HF's tokenizer.json, of byte-level and of SentencePiece's style, and GPT-2's vocab.json with merges.txt.
#include "data/tokenizer_json.hpp"

#include <algorithm>

#include "data/byte_bpe.h"
#include "data/sentencepiece.h"
#include "data/tokenizer_rules.hpp"
#include "tensor/error.h"
#include "tensor/file.h"

namespace rw::tokenizer_files {
namespace {

/// A garbled id must not ask for all memory: vocabularies are dense but for a few
/// holes. Errors: an id far beyond `entries`.
void check_dense(int64_t id, size_t entries, const std::string& where) {
  const int64_t most = 2 * static_cast<int64_t>(entries) + 1024;
  check(id < most, "tokenizer", where, " is token id ", id, " in a vocabulary of ", entries, " entries");
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
  check(static_cast<int64_t>(node.size()) <= 4 * kMostTokens, "tokenizer", node.where(), " has ", node.size(),
        " entries, expected at most ", 4 * kMostTokens);
  for (size_t i = 0; i < node.size(); ++i) {
    const Node item = node.item(i);
    if (item.json().is_string()) {
      merges.push_back(find_line(index, item.text(), item.where()));
      continue;
    }
    check(item.size() == 2, "tokenizer", item.where(), " must be two tokens, got ", item.size());
    merges.push_back(find_pair(index, item.item(0).text(), item.item(1).text(), item.where()));
  }
  return merges;
}

StringIndex index_of(const std::vector<std::string>& spelled) {
  StringIndex index;
  for (size_t id = 0; id < spelled.size(); ++id) index.emplace(spelled[id], static_cast<int32_t>(id));
  return index;
}

std::vector<AddedToken> read_added(const Node& root, const StringIndex& vocab) {
  std::vector<AddedToken> added;
  if (!root.has("added_tokens")) return added;
  const Node list = root.at("added_tokens");
  for (size_t i = 0; i < list.size(); ++i) {
    const Node item = list.item(i);
    added.push_back(read_added_token(item, item.at("id").id()));
    check_dense(added.back().id, vocab.size() + list.size(), cat(item.where(), ".id"));
    const auto known = vocab.find(added.back().text);
    check(known == vocab.end() || known->second == added.back().id, "tokenizer", item.where(), ".id is ",
          added.back().id, ", the vocabulary has '", added.back().text, "' as ",
          known == vocab.end() ? 0 : known->second);
  }
  return added;
}

/// One more than the largest id of vocabulary and added tokens.
size_t size_with(const std::vector<AddedToken>& added, size_t size) {
  for (const AddedToken& token : added) size = std::max(size, static_cast<size_t>(token.id) + 1);
  return size;
}

/// BOS and EOS where the post-processor puts them.
void apply_post_processor(Tokenizer& tokenizer, const PostProcessor& post) {
  if (!post.stated) return;
  tokenizer.set_ends({.bos = !post.before.empty(), .eos = !post.after.empty()});
  if (!post.before.empty()) tokenizer.set_bos(post.before[0]);
  if (!post.after.empty()) tokenizer.set_eos(post.after[0]);
}

std::unique_ptr<Tokenizer> read_byte_level(const Node& root, PreTokenizer pre_tokenizer, const std::string& text) {
  const DecoderRead decoder = read_decoder(root);
  check(!decoder.stated || decoder.byte_level, "tokenizer", root.where(), ": the pre-tokenizer is byte-level, the ",
        "decoder is not, which is not supported");
  ByteBpeParts parts;
  parts.normalizer = read_normalizer(root);
  parts.pre_tokenizer = std::move(pre_tokenizer);
  const Node model = root.at("model");
  check(!model.flag("byte_fallback", false), "tokenizer", model.where(),
        ": byte_fallback with a byte-level pre-tokenizer is not supported");
  const std::vector<std::string> spelled = read_vocab(model.at("vocab"));
  const StringIndex index = index_of(spelled);
  parts.added = read_added(root, index);
  parts.merges = read_merges(model.at("merges"), index);
  parts.ignore_merges = model.flag("ignore_merges", false);
  parts.json = text;

  const size_t size = size_with(parts.added, spelled.size());
  std::vector<bool> is_added(size);
  for (const AddedToken& token : parts.added) is_added[static_cast<size_t>(token.id)] = true;
  parts.tokens.resize(size);
  for (size_t id = 0; id < spelled.size(); ++id) {
    if (!is_added[id] || spells_bytes(spelled[id])) parts.tokens[id] = unspell_bytes(spelled[id]);
  }
  return std::make_unique<ByteBpe>(std::move(parts));
}

std::unique_ptr<Tokenizer> read_sentencepiece_style(const Node& root, PreTokenizer pre_tokenizer,
                                                    const std::string& text) {
  const Node model = root.at("model");
  const DecoderRead decoder = read_decoder(root);
  SentencePieceParts parts;
  parts.from_json = true;
  parts.normalizer = read_normalizer(root);
  parts.pre_tokenizer = std::move(pre_tokenizer);
  parts.marks_are_spaces = !decoder.stated || decoder.marks_are_spaces;
  parts.strips_first = decoder.stated ? decoder.strips_first : parts.pre_tokenizer.prefix != SpacePrefix::never;
  parts.ignore_merges = model.flag("ignore_merges", false);
  parts.fuse_unknown = model.flag("fuse_unk", false);
  parts.byte_fallback = model.flag("byte_fallback", false);
  const std::vector<std::string> spelled = read_vocab(model.at("vocab"));
  const StringIndex index = index_of(spelled);
  const std::string unknown = model.has("unk_token") ? model.at("unk_token").text() : "";
  parts.merges = read_merges(model.at("merges"), index);
  parts.added = read_added(root, index);
  parts.pieces.resize(size_with(parts.added, spelled.size()));
  for (size_t id = 0; id < spelled.size(); ++id) {
    Piece& piece = parts.pieces[id];
    piece.text = spelled[id];
    const bool byte = spelled[id].size() == 6 && spelled[id].starts_with("<0x") && spelled[id][5] == '>';
    if (byte && parts.byte_fallback) piece.type = Piece::Type::byte;
    if (!unknown.empty() && spelled[id] == unknown) piece.type = Piece::Type::unknown;
  }
  for (const AddedToken& token : parts.added) {
    Piece& piece = parts.pieces[static_cast<size_t>(token.id)];
    if (piece.text.empty()) piece = {token.text, 0, Piece::Type::control};
  }
  parts.file_name = "tokenizer.json";
  parts.file_bytes = text;
  return std::make_unique<SentencePieceBpe>(std::move(parts));
}

}  // namespace

AddedToken read_added_token(const Node& node, int32_t id) {
  AddedToken token;
  token.text = node.at("content").text();
  token.id = id;
  token.special = node.flag("special", false);
  token.single_word = node.flag("single_word", false);
  token.lstrip = node.flag("lstrip", false);
  token.rstrip = node.flag("rstrip", false);
  token.normalized = node.flag("normalized", !token.special);
  return token;
}

std::unique_ptr<Tokenizer> read_tokenizer_json(const Json& json, const std::string& text, const std::string& path) {
  const Node root(json, path);
  const Node model = root.at("model");
  const std::string type = model.has("type") ? model.type() : "BPE";  // old files leave it out
  check(type == "BPE", "tokenizer", path, ": models of type '", type, "' are not supported, only 'BPE'");
  for (const char* option : {"continuing_subword_prefix", "end_of_word_suffix"}) {
    check(!model.has(option) || model.at(option).text().empty(), "tokenizer", path, ": ", option, " is not supported");
  }
  check(!model.has("dropout") || model.at("dropout").json() == 0, "tokenizer", path,
        ": dropout = ", model.has("dropout") ? model.at("dropout").json().dump() : "", " is not supported");
  PreTokenizerRead pre = read_pre_tokenizer(root);
  auto tokenizer = pre.byte_level ? read_byte_level(root, std::move(pre.rules), text)
                                  : read_sentencepiece_style(root, std::move(pre.rules), text);
  apply_post_processor(*tokenizer, read_post_processor(root));
  return tokenizer;
}

std::unique_ptr<Tokenizer> read_vocab_and_merges(const Json& vocab, const std::string& vocab_path,
                                                 const std::string& merges_path, VocabStyle style,
                                                 bool add_prefix_space) {
  const std::vector<std::string> spelled = read_vocab(Node(vocab, vocab_path));
  const StringIndex index = index_of(spelled);
  ByteBpeParts parts;
  parts.pre_tokenizer.rules = {style == VocabStyle::qwen2 ? SplitRule::qwen2 : SplitRule::gpt2};
  if (add_prefix_space) parts.pre_tokenizer.prefix = SpacePrefix::always;
  if (style != VocabStyle::gpt2)
    parts.normalizer.add({.kind = NormalizerStep::Kind::form, .form = NormalForm::nfc, .from = {}, .to = {}});
  parts.tokens.resize(spelled.size());
  for (size_t id = 0; id < spelled.size(); ++id) {
    if (spelled[id] == "<|endoftext|>") parts.added.push_back({spelled[id], static_cast<int32_t>(id), true});
    else parts.tokens[id] = unspell_bytes(spelled[id]);
  }
  const std::string text = read_file(merges_path, limits::tokenizer);
  refuse_lfs_pointer(text, merges_path);
  for (size_t at = 0, number = 1; at < text.size(); ++number) {
    const size_t end = std::min(text.find('\n', at), text.size());
    std::string line = text.substr(at, end - at);
    at = end + 1;
    if (line.ends_with('\r')) line.pop_back();  // files from Windows
    if (line.empty() || line.starts_with("#version")) continue;
    parts.merges.push_back(find_line(index, line, cat(merges_path, " line ", number)));
  }
  check(!parts.merges.empty(), "tokenizer", merges_path, " holds no merges");
  return std::make_unique<ByteBpe>(std::move(parts));
}

nlohmann::ordered_json added_tokens_json(const std::vector<AddedToken>& tokens) {
  nlohmann::ordered_json list = nlohmann::ordered_json::array();
  for (const AddedToken& t : tokens) {
    list.push_back({{"id", t.id},
                    {"content", t.text},
                    {"single_word", t.single_word},
                    {"lstrip", t.lstrip},
                    {"rstrip", t.rstrip},
                    {"normalized", t.normalized},
                    {"special", t.special}});
  }
  return list;
}

}  // namespace rw::tokenizer_files
