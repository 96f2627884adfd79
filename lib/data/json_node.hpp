// How the readers of tokenizer files look at JSON. Internal to lib/data, as every .hpp: it needs
// nlohmann-json, which no public header may ask for.
#pragma once
#include <nlohmann/json.hpp>
#include <string>
#include <vector>

#include "data/merge.h"
#include "tensor/error.h"
#include "tensor/json_depth.h"

namespace rw::tokenizer_files {

using Json = nlohmann::json;

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
  /// Entries of a list. Errors: it is none.
  size_t size() const {
    check(json_.is_array(), "tokenizer", where_, " must be a list");
    return json_.size();
  }
  Node item(size_t i) const { return {json_[i], cat(where_, "[", i, "]")}; }
  /// All of them, for short lists: each takes some ten times its text.
  std::vector<Node> items() const {
    std::vector<Node> nodes;
    for (size_t i = 0; i < size(); ++i) nodes.push_back(item(i));
    return nodes;
  }
  const Json& json() const { return json_; }
  const std::string& where() const { return where_; }

 private:
  const Json& json_;
  std::string where_;
};

/// Errors: the text is git-lfs's stand-in for a file that was not downloaded.
inline void refuse_lfs_pointer(std::string_view text, const std::string& path) {
  check(!text.starts_with("version https://git-lfs"), "tokenizer", path,
        " is a git-lfs pointer, not the file itself: fetch it with 'git lfs pull'");
}

/// Errors: not JSON, nested too deeply, a git-lfs pointer; the message begins with `path`.
inline Json parse_json(const std::string& text, const std::string& path) {
  refuse_lfs_pointer(text, path);
  check_json_depth(text, "tokenizer", path);
  Json json = Json::parse(text, nullptr, /*allow_exceptions=*/false);
  check(!json.is_discarded(), "tokenizer", path, " is not valid JSON (truncated or garbled?)");
  return json;
}

}  // namespace rw::tokenizer_files
