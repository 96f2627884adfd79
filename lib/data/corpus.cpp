#include "data/corpus.h"

#include <algorithm>
#include <filesystem>
#include <mutex>
#include <nlohmann/json.hpp>

#include "tensor/error.h"
#include "tensor/file.h"
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

void load_jsonl(const std::string& path, std::vector<Document>& out) {
  const std::string text = read_file(path);
  for (size_t at = 0, number = 1; at < text.size(); ++number) {
    const size_t end = std::min(text.find('\n', at), text.size());
    const std::string_view line = std::string_view(text).substr(at, end - at);
    at = end + 1;
    if (line.find_first_not_of(" \t\r") == std::string_view::npos) continue;
    check_json_depth(line, "corpus", path);
    const nlohmann::json json = nlohmann::json::parse(line, nullptr, /*allow_exceptions=*/false);
    check(!json.is_discarded(), "corpus", path, " line ", number, ": not valid JSON");
    check(json.is_object() && json.contains("text") && json["text"].is_string(), "corpus", path, " line ", number,
          ": expected an object with a string \"text\"");
    std::string name = name_in(json);
    if (name.empty()) name = cat(fs::path(path).stem().string(), ":", number);
    out.push_back({std::move(name), json["text"].get<std::string>()});
  }
}

void load_one(const std::string& path, const std::string& name, std::vector<Document>& out) {
  if (fs::path(path).extension() == ".jsonl") load_jsonl(path, out);
  else out.push_back({name, read_file(path)});
}

/// Every .txt and .jsonl below `folder`, sorted by path.
std::vector<fs::path> text_files(const std::string& folder) {
  std::vector<fs::path> files;
  std::error_code error;
  for (auto it = fs::recursive_directory_iterator(folder, error); !error && it != fs::recursive_directory_iterator();
       it.increment(error)) {
    const std::string extension = it->path().extension().string();
    if ((extension == ".txt" || extension == ".jsonl") && it->is_regular_file()) files.push_back(it->path());
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
    check(fs::exists(path), "corpus", "'", path, "' does not exist");
    if (!fs::is_directory(path)) {
      load_one(path, fs::path(path).stem().string(), documents);
      continue;
    }
    for (const fs::path& file : text_files(path)) {
      load_one(file.string(), file.lexically_relative(path).replace_extension().string(), documents);
    }
  }
  std::erase_if(documents, [](const Document& d) { return d.text.empty(); });
  std::string all;
  for (const std::string& path : paths) all += cat(all.empty() ? "'" : ", '", path, "'");
  check(!documents.empty(), "corpus", "no text in ", all, " (looked for .txt and .jsonl files)");
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
  return TokenCorpus(std::move(names), ids, tokenizer.vocab_size());
}

}  // namespace rw
