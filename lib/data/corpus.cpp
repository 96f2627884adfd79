// Reads documents from files and folders, and turns them into tokens in parallel.
#include "data/corpus.h"

#include <algorithm>
#include <cctype>
#include <filesystem>
#include <mutex>
#include <nlohmann/json.hpp>

#include "data/text_file.h"
#include "tensor/error.h"
#include "tensor/file.h"
#include "tensor/folder.h"
#include "tensor/json_depth.h"
#include "tensor/parallel_for.h"

namespace rw {
namespace {

namespace fs = std::filesystem;

/// The text that names a document: "name", "id" or "title"; ids may be numbers.
std::string name_in(const nlohmann::json& line) {
  for (const char* key : {"name", "id", "title"}) {
    if (!line.contains(key)) continue;
    if (line[key].is_string()) return line[key].get<std::string>();
    if (line[key].is_number()) return line[key].dump();
  }
  return "";
}

/// One JSON object as a document. Errors: no string "text".
Document document_of(const nlohmann::json& json, const std::string& where, const std::string& otherwise) {
  check(!json.is_object() || json.contains("text") || !json.contains("messages"), "corpus", where,
        ": holds \"messages\" but no \"text\": put conversations through a chat template first");
  check(json.is_object() && json.contains("text") && json["text"].is_string(), "corpus", where,
        ": expected an object with a string \"text\"");
  std::string name = name_in(json);
  return {name.empty() ? otherwise : std::move(name), json["text"].get<std::string>()};
}

void load_jsonl(const std::string& text, const std::string& path, const std::string& stem, std::vector<Document>& out) {
  for (size_t at = 0, number = 1; at < text.size(); ++number) {
    const size_t end = std::min(text.find('\n', at), text.size());
    const std::string_view line = std::string_view(text).substr(at, end - at);
    at = end + 1;
    if (line.find_first_not_of(" \t\r") == std::string_view::npos) continue;
    check_json_depth(line, "corpus", path);
    const nlohmann::json json = nlohmann::json::parse(line, nullptr, /*allow_exceptions=*/false);
    check(!json.is_discarded(), "corpus", path, " line ", number, ": not valid JSON");
    out.push_back(document_of(json, cat(path, " line ", number), cat(stem, ":", number)));
  }
}

/// A .json file: a list of objects with "text", one such object, or one a line as in .jsonl.
void load_json(const std::string& text, const std::string& path, const std::string& stem, std::vector<Document>& out) {
  check_json_depth(std::string_view(text).substr(0, text.find('\n')), "corpus", path);
  const nlohmann::json whole = nlohmann::json::parse(text, nullptr, /*allow_exceptions=*/false);
  if (whole.is_discarded()) return load_jsonl(text, path, stem, out);
  if (!whole.is_array()) return out.push_back(document_of(whole, path, stem));
  for (size_t i = 0; i < whole.size(); ++i) {
    out.push_back(document_of(whole[i], cat(path, " item ", i), cat(stem, ":", i + 1)));
  }
}

/// How a file is read, by its name without ".gz" and in any case.
enum class Format { text, jsonl, json };

/// A file name taken apart.
struct Named {
  std::string stem;  // as documents are named: without extension and ".gz"
  std::string extension;
  bool packed = false;
};

Named take_apart(fs::path path) {
  const auto lower = [](std::string s) {
    std::transform(s.begin(), s.end(), s.begin(), [](unsigned char c) { return static_cast<char>(std::tolower(c)); });
    return s;
  };
  Named out;
  out.packed = lower(path.extension().string()) == ".gz";
  if (out.packed) path.replace_extension();
  out.extension = lower(path.extension().string());
  out.stem = path.replace_extension().string();
  return out;
}

Format format_of(const std::string& extension) {
  if (extension == ".jsonl" || extension == ".ndjson") return Format::jsonl;
  return extension == ".json" ? Format::json : Format::text;
}

/// Reads a file; `name` is its path as documents are to be named after it.
void load_one(const std::string& path, const fs::path& name, std::vector<Document>& out) {
  const Named named = take_apart(name);
  const std::string stem = fs::path(named.stem).filename().string();
  const std::string bytes = read_unpacked(path);
  std::string text(checked_text(bytes, path));
  switch (format_of(named.extension)) {
    case Format::jsonl:
      return load_jsonl(text, path, stem, out);
    case Format::json:
      return load_json(text, path, stem, out);
    case Format::text:
      check(!looks_like_json(text), "corpus", "'", path,
            "' is JSON, not plain text: name it .jsonl or .json to have its \"text\" read");
      out.push_back({named.stem, std::move(text)});
  }
}

/// Every file of text below `folder`, sorted by path.
std::vector<fs::path> text_files(const std::string& folder) {
  std::vector<fs::path> files;
  std::error_code error;
  for (auto it = fs::recursive_directory_iterator(folder, error); !error && it != fs::recursive_directory_iterator();
       it.increment(error)) {
    const Named named = take_apart(it->path());
    const bool text = named.extension == ".txt" || format_of(named.extension) != Format::text;
    if (text && it->is_regular_file()) files.push_back(it->path());
  }
  check(!error, "corpus", "cannot read folder '", folder, "': ", error.message());
  std::sort(files.begin(), files.end());
  return files;
}

}  // namespace

std::vector<Document> load_corpus(const std::vector<std::string>& paths) {
  check(!paths.empty(), "corpus", "no path given");
  std::vector<Document> documents;
  for (const std::string& path : paths) {
    check(path_exists(path), "corpus", "'", path, "' does not exist");
    if (!is_folder(path)) {
      load_one(path, fs::path(path).filename(), documents);
      continue;
    }
    for (const fs::path& file : text_files(path)) {
      load_one(file.string(), file.lexically_relative(path), documents);
    }
  }
  std::erase_if(documents, [](const Document& d) { return d.text.empty(); });
  std::string all;
  for (const std::string& path : paths) all += cat(all.empty() ? "'" : ", '", path, "'");
  check(!documents.empty(), "corpus", "no text in ", all, " (looked for .txt, .jsonl and .json files, also .gz)");
  return documents;
}

TokenCorpus tokenize_corpus(const std::vector<Document>& documents, const Tokenizer& tokenizer,
                            const Progress& progress) {
  check(!documents.empty(), "corpus", "no documents to tokenize");
  struct Part {
    size_t document;
    std::string_view text;
    std::vector<int32_t> ids;
  };
  constexpr size_t kPartBytes = 1 << 20;  // large, so that each part's word cache pays
  std::vector<Part> parts;
  int64_t total = 0, done = 0;
  for (size_t d = 0; d < documents.size(); ++d) {
    std::string_view rest = documents[d].text;
    total += static_cast<int64_t>(rest.size());
    while (rest.size() > kPartBytes) {
      const size_t cut = tokenizer.safe_cut(rest, kPartBytes);
      parts.push_back({d, rest.substr(0, cut), {}});
      rest.remove_prefix(cut);
    }
    if (!rest.empty()) parts.push_back({d, rest, {}});
  }
  std::mutex mutex;
  parallel_items(static_cast<int64_t>(parts.size()), [&](int64_t i) {
    parts[i].ids = tokenizer.encode(parts[i].text);
    const std::lock_guard lock(mutex);
    done += static_cast<int64_t>(parts[i].text.size());
    if (progress) progress(done, total);
  });
  std::vector<std::string> names;
  std::vector<std::vector<int32_t>> ids(documents.size());
  for (const Document& document : documents) names.push_back(document.name);
  for (Part& part : parts) {
    std::vector<int32_t>& all = ids[part.document];
    if (all.empty()) all = std::move(part.ids);
    else all.insert(all.end(), part.ids.begin(), part.ids.end());
  }
  return TokenCorpus(std::move(names), ids, tokenizer.id_limit());
}

}  // namespace rw
