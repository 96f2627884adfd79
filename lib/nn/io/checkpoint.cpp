#include "nn/io/checkpoint.h"

#include <fcntl.h>
#include <unistd.h>

#include <algorithm>
#include <cstdio>
#include <filesystem>
#include <nlohmann/json.hpp>
#include <vector>

#include "nn/io/hf.h"
#include "tensor/file.h"

namespace rw {
namespace {

namespace fs = std::filesystem;
using nlohmann::json;

constexpr const char* kPrefix = "checkpoint-";

std::string folder_name(int64_t step) {
  char name[40];
  std::snprintf(name, sizeof name, "%s%06lld", kPrefix, static_cast<long long>(step));
  return name;
}

/// Checkpoint folders of a run, oldest first.
std::vector<std::pair<int64_t, std::string>> list(const std::string& out) {
  std::vector<std::pair<int64_t, std::string>> found;
  std::error_code error;
  for (const auto& entry : fs::directory_iterator(out, error)) {
    const std::string name = entry.path().filename().string();
    if (!name.starts_with(kPrefix)) continue;
    const std::string digits = name.substr(std::string(kPrefix).size());
    if (digits.empty() || digits.find_first_not_of("0123456789") != std::string::npos || digits.size() > 15) continue;
    found.emplace_back(std::stoll(digits), entry.path().string());
  }
  std::sort(found.begin(), found.end());
  return found;
}

bool whole(const std::string& folder) {
  try {
    const json state = json::parse(read_file(folder + "/trainer_state.json"));
    for (const auto& [name, file] : state.at("files").items()) {
      const std::string path = folder + "/" + name;
      if (static_cast<int64_t>(fs::file_size(path)) != file.at("bytes").get<int64_t>()) return false;
      if (file_checksum(path) != file.at("fnv1a").get<std::string>()) return false;
    }
    return true;
  } catch (const std::exception&) {
    return false;
  }
}

}  // namespace

std::string file_checksum(const std::string& path) {
  const MappedFile map = map_file(path);
  uint64_t hash = 0xcbf29ce484222325u;
  int64_t i = 0;
  for (; i + 8 <= map.size; i += 8) {  // eight bytes at a time: a checkpoint has gigabytes
    uint64_t word;
    std::memcpy(&word, map.data + i, 8);
    hash = (hash ^ word) * 0x100000001b3u;
    hash ^= hash >> 29;
  }
  for (; i < map.size; ++i) hash = (hash ^ map.data[i]) * 0x100000001b3u;
  char text[17];
  std::snprintf(text, sizeof text, "%016llx", static_cast<unsigned long long>(hash));
  return text;
}

std::string save_checkpoint(const std::string& out, const Llama& model, const AdamW& optimizer,
                            const TrainerState& state, int64_t keep,
                            const std::function<void(const std::string&)>& extra) {
  std::error_code error;
  fs::create_directories(out, error);
  check(!error, "checkpoint", "cannot make folder '", out, "': ", error.message());
  const std::string final_path = out + "/" + folder_name(state.step),
                    temporary = out + "/.tmp-" + folder_name(state.step);
  fs::remove_all(temporary, error);
  struct Cleanup {
    std::string path;
    ~Cleanup() {
      std::error_code ignored;
      if (!path.empty()) fs::remove_all(path, ignored);
    }
  } cleanup{temporary};

  save_hf(temporary, model, {.dtype = model.arena().master().dtype(), .max_shard_bytes = INT64_MAX});
  save_safetensors(temporary + "/optimizer.safetensors", {{"m", optimizer.arena().m()}, {"v", optimizer.arena().v()}});
  if (extra) extra(temporary);
  json files = json::object();
  for (const auto& entry : fs::directory_iterator(temporary)) {
    const std::string path = entry.path().string();
    files[entry.path().filename().string()] = {{"bytes", fs::file_size(path)}, {"fnv1a", file_checksum(path)}};
  }
  const json text = {{"format", 1},
                     {"step", state.step},
                     {"tokens", state.tokens},
                     {"seed", state.seed},
                     {"optimizer_steps", optimizer.steps()},
                     {"recipe", state.recipe},
                     {"files", files}};
  write_file_atomic(temporary + "/trainer_state.json", text.dump(1) + "\n");
  fs::remove_all(final_path, error);  // an older one of the same step, from before a resume
  fs::rename(temporary, final_path, error);
  check(!error, "checkpoint", "cannot write '", final_path, "': ", error.message());
  cleanup.path.clear();
  if (const int fd = ::open(out.c_str(), O_RDONLY | O_DIRECTORY); fd >= 0) {
    ::fsync(fd);
    ::close(fd);
  }
  if (keep > 0) {
    const auto all = list(out);
    for (size_t i = 0; i + static_cast<size_t>(keep) < all.size(); ++i) fs::remove_all(all[i].second, error);
  }
  return final_path;
}

std::optional<std::string> latest_checkpoint(const std::string& out) {
  const auto all = list(out);
  for (auto it = all.rbegin(); it != all.rend(); ++it) {
    if (whole(it->second)) return it->second;
  }
  return std::nullopt;
}

TrainerState load_checkpoint(const std::string& folder, Llama& model, AdamW& optimizer) {
  const json j = json::parse(read_file(folder + "/trainer_state.json"), nullptr, false);
  check(j.is_object() && j.contains("step") && j.contains("optimizer_steps"), "checkpoint", folder,
        "/trainer_state.json is not a trainer state");
  const SafetensorsFile weights(folder + "/model.safetensors"), moments(folder + "/optimizer.safetensors");
  assign_weights(model, [&](const std::string& name) { return weights.load(name); });
  const ParamArena& arena = optimizer.arena();
  for (const auto& [name, target] : {std::pair{"m", arena.m()}, std::pair{"v", arena.v()}}) {
    const Tensor value = moments.load(name);
    check_shape("checkpoint", name, value, target.shape());
    target.copy_from(value);
  }
  optimizer.set_steps(j["optimizer_steps"].get<int64_t>());
  TrainerState state;
  state.step = j["step"].get<int64_t>();
  state.tokens = j.value("tokens", int64_t{0});
  state.seed = j.value("seed", uint64_t{0});
  state.recipe = j.value("recipe", std::map<std::string, std::string>{});
  return state;
}

}  // namespace rw
