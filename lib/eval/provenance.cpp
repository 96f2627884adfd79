// Where a number comes from: checksums of weights and text, version, date, device.
#include "eval/provenance.h"

#include <algorithm>
#include <cstdio>
#include <cstring>
#include <ctime>
#include <filesystem>
#include <vector>

#include "tensor/error.h"
#include "tensor/file.h"
#include "tensor/folder.h"
#include "tensor/hash.h"
#include "tensor/threads.h"

namespace rw {
namespace {

namespace fs = std::filesystem;

std::string hex(uint64_t value) {
  char text[17];
  std::snprintf(text, sizeof text, "%016llx", static_cast<unsigned long long>(value));
  return text;
}

/// Eight bytes at a time: weights are large. The last word is filled up with zeros.
uint64_t hash_file(const std::string& path, uint64_t hash) {
  const FileReader file(path);
  std::vector<uint64_t> words(size_t{1} << 17);
  const int64_t most = static_cast<int64_t>(words.size() * sizeof(uint64_t));
  for (int64_t at = 0; at < file.size(); at += most) {
    const int64_t bytes = std::min(most, file.size() - at), whole = (bytes + 7) / 8;
    words[static_cast<size_t>(whole - 1)] = 0;
    file.read(at, words.data(), bytes);
    hash = fnv1a<uint64_t>(std::span(words).first(static_cast<size_t>(whole)), hash);
  }
  return hash;
}

}  // namespace

std::optional<std::string> weights_checksum(const std::string& folder) {
  std::error_code error;
  std::vector<fs::path> files;
  if (is_file(folder + "/model.safetensors")) {
    files.emplace_back(folder + "/model.safetensors");
  } else {
    for (fs::directory_iterator it(folder, error), end; !error && it != end; it.increment(error)) {
      const std::string name = it->path().filename().string();
      if (name.starts_with("model-") && name.ends_with(".safetensors")) files.push_back(it->path());
    }
  }
  if (files.empty()) return std::nullopt;
  std::sort(files.begin(), files.end());
  uint64_t hash = kFnvBegin;
  for (const fs::path& file : files) hash = hash_file(file.string(), hash);
  return hex(hash);
}

std::string program_version() {
  const std::string commit = ROPEWALK_COMMIT;
  return commit.empty() ? ROPEWALK_VERSION : ROPEWALK_VERSION "+" + commit;
}

std::string date_now() {
  const std::time_t moment = std::time(nullptr);
  std::tm parts{};
  ::gmtime_r(&moment, &parts);
  char text[32];
  std::strftime(text, sizeof text, "%Y-%m-%d %H:%M", &parts);
  return text;
}

std::string device_text(Device device) {
  if (device.is_cuda()) return cuda_device_name(device.index);
  const int threads = thread_count();
  return cat("cpu, ", threads, threads == 1 ? " thread" : " threads");
}

}  // namespace rw
