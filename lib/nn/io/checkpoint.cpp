// Checkpoints on disk: written beside and renamed, checked before they are used, and
// never confused with what other programs wrote.
#include "nn/io/checkpoint.h"

#include <fcntl.h>
#include <unistd.h>

#include <algorithm>
#include <cstdio>
#include <filesystem>
#include <nlohmann/json.hpp>
#include <regex>
#include <vector>

#include "nn/io/adapter.h"
#include "nn/io/hf.h"
#include "tensor/file.h"
#include "tensor/folder.h"
#include "tensor/gguf.h"
#include "tensor/json_depth.h"
#include "tensor/system_error.h"

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

/// Folders that are named as checkpoints are, oldest first; other programs name theirs so, too.
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

/// Goes on with `hash`; all parts but the last are whole words.
uint64_t fnv1a(const unsigned char* bytes, int64_t n, uint64_t hash = 0xcbf29ce484222325u) {
  int64_t i = 0;
  for (; i + 8 <= n; i += 8) {  // eight bytes at a time: a checkpoint has gigabytes
    uint64_t word;
    std::memcpy(&word, bytes + i, 8);
    hash = (hash ^ word) * 0x100000001b3u;
    hash ^= hash >> 29;
  }
  for (; i < n; ++i) hash = (hash ^ bytes[i]) * 0x100000001b3u;
  return hash;
}

std::string in_hex(uint64_t hash) {
  char text[17];
  std::snprintf(text, sizeof text, "%016llx", static_cast<unsigned long long>(hash));
  return text;
}

/// trainer_state.json holds the checksum of all its other fields, so that it is as safe as the files it lists.
std::string own_checksum(json& state) {
  const json stated = state.contains("fnv1a") ? std::move(state["fnv1a"]) : json();
  state.erase("fnv1a");
  const std::string text = state.dump();
  if (!stated.is_null()) state["fnv1a"] = stated;
  return in_hex(fnv1a(reinterpret_cast<const unsigned char*>(text.data()), static_cast<int64_t>(text.size())));
}

json read_state(const std::string& folder) {
  const std::string path = folder + "/trainer_state.json", text = read_file(path, limits::trainer_state);
  check_json_depth(text, "checkpoint", path);
  json state = json::parse(text, nullptr, false);
  const std::string sum = state.is_object() && state.contains("fnv1a") ? own_checksum(state) : "";
  check(!sum.empty() && state["fnv1a"] == sum, "checkpoint", path, " is not a trainer state, or its checksum is wrong");
  return state;
}

/// Whether this program wrote the folder, damaged as it may be.
bool is_ours(const std::string& folder) {
  std::error_code error;
  if (fs::exists(folder + "/optimizer.safetensors", error)) return true;
  try {
    const std::string text = read_file(folder + "/trainer_state.json", limits::trainer_state);
    check_json_depth(text, "checkpoint", folder);
    const json state = json::parse(text, nullptr, false);
    return state.is_object() && state.contains("fnv1a");
  } catch (const std::exception&) {
    return false;
  }
}

/// Whether all files are there with their sizes and, if asked for, their checksums.
bool whole(const std::string& folder, bool checksums = true) {
  try {
    const json state = read_state(folder);
    for (const auto& [name, file] : state.at("files").items()) {
      if (name.find('/') != std::string::npos || name == "..") return false;
      const std::string path = folder + "/" + name;
      if (static_cast<int64_t>(fs::file_size(path)) != file.at("bytes").get<int64_t>()) return false;
      if (checksums && file_checksum(path) != file.at("fnv1a").get<std::string>()) return false;
    }
    return true;
  } catch (const SystemError&) {  // says nothing about the files
    throw;
  } catch (const std::bad_alloc&) {
    throw;
  } catch (const std::exception&) {
    return false;
  }
}

/// A folder on its way out: first its name goes, so that no half of it is ever taken for a checkpoint.
void discard(const std::string& folder) {
  const fs::path path(folder);
  const fs::path away = path.parent_path() / (".tmp-" + path.filename().string() + "-old");
  std::error_code error;
  fs::remove_all(away, error);
  fs::rename(path, away, error);
  if (!error) fs::remove_all(away, error);
}

/// Our whole checkpoints beyond the newest `keep`.
void prune(const std::string& out, int64_t keep) {
  std::vector<std::string> good;
  for (const auto& [step, folder] : list(out)) {
    if (is_ours(folder) && whole(folder, /*checksums=*/false)) good.push_back(folder);
  }
  for (size_t i = 0; i + static_cast<size_t>(keep) < good.size(); ++i) discard(good[i]);
}

}  // namespace

std::string file_checksum(const std::string& path) {
  const FileReader file(path);
  std::vector<unsigned char> part(static_cast<size_t>(std::min<int64_t>(file.size(), 1 << 20)));
  uint64_t hash = fnv1a(nullptr, 0);
  for (int64_t at = 0; at < file.size(); at += static_cast<int64_t>(part.size())) {
    const int64_t n = std::min<int64_t>(static_cast<int64_t>(part.size()), file.size() - at);
    file.read(at, part.data(), n);
    hash = fnv1a(part.data(), n, hash);
  }
  return in_hex(hash);
}

std::string checkpoint_folder(const std::string& out, int64_t step) { return out + "/" + folder_name(step); }

std::string save_checkpoint(const std::string& out, const CausalLm& model, const AdamW& optimizer,
                            const TrainerState& state, int64_t keep,
                            const std::function<void(const std::string&)>& extra, const WholeMoments& moments) {
  const ParamArena& arena = optimizer.arena();
  check(moments.m.defined() || arena.owns_all(), "checkpoint", "this rank has only a part of the moments");
  check_finite(arena, "checkpoint");
  std::error_code error;
  fs::create_directories(out, error);
  check(!error, "checkpoint", "cannot make folder '", out, "': ", error.message());
  const std::string final_path = checkpoint_folder(out, state.step),
                    temporary = out + "/.tmp-" + folder_name(state.step);
  check(!fs::exists(final_path, error) || is_ours(final_path), "checkpoint", "'", final_path,
        "' was not written by this program and is not replaced");
  fs::remove_all(temporary, error);
  struct Cleanup {
    std::string path;
    ~Cleanup() {
      std::error_code ignored;
      if (!path.empty()) fs::remove_all(path, ignored);
    }
  } cleanup{temporary};

  if (model.config().adapter) save_adapter(temporary, model, {});
  else save_hf(temporary, model, {.dtype = model.arena().master_dtype(), .max_shard_bytes = INT64_MAX});
  std::vector<NamedTensor> optimizer_state{{"m", moments.m.defined() ? moments.m : arena.m()},
                                           {"v", moments.v.defined() ? moments.v : arena.v()}};
  for (const auto& [name, scales] : {std::pair{"m.scales", arena.m_scales()}, std::pair{"v.scales", arena.v_scales()}})
    if (scales.defined()) optimizer_state.push_back({name, scales});
  save_safetensors(temporary + "/optimizer.safetensors", optimizer_state);
  if (extra) extra(temporary);
  json files = json::object();
  for (const auto& entry : fs::directory_iterator(temporary)) {
    const std::string path = entry.path().string();
    files[entry.path().filename().string()] = {{"bytes", fs::file_size(path)}, {"fnv1a", file_checksum(path)}};
  }
  json text = {{"format", 1},
               {"step", state.step},
               {"tokens", state.tokens},
               {"seed", state.seed},
               {"seconds", state.seconds},
               {"peak_memory_bytes", state.peak_memory_bytes},
               {"optimizer_steps", optimizer.steps()},
               {"recipe", state.recipe},
               {"files", files}};
  text["fnv1a"] = own_checksum(text);
  write_file_atomic(temporary + "/trainer_state.json", text.dump(1) + "\n");
  if (fs::exists(final_path, error)) discard(final_path);  // of the same step, from before a resume
  fs::rename(temporary, final_path, error);
  check(!error, "checkpoint", "cannot write '", final_path, "': ", error.message());
  cleanup.path.clear();
  sync_folder(out);
  if (keep > 0) prune(out, keep);
  return final_path;
}

std::optional<std::string> latest_checkpoint(const std::string& out) {
  const auto all = list(out);
  for (auto it = all.rbegin(); it != all.rend(); ++it) {
    if (whole(it->second)) return it->second;
  }
  return std::nullopt;
}

CheckpointScan scan_checkpoints(const std::string& out) {
  CheckpointScan scan;
  const auto all = list(out);
  for (auto it = all.rbegin(); it != all.rend() && !scan.newest; ++it) {
    if (whole(it->second)) scan.newest = it->second;
    else if (is_ours(it->second)) scan.damaged.push_back(it->second);
  }
  return scan;
}

void remove_checkpoints(const std::string& out) {
  for (const auto& [step, folder] : list(out)) {
    if (is_ours(folder)) discard(folder);
  }
}

void check_finite(const ParamArena& arena, const char* op) {
  for (size_t i = 0; i < arena.size(); ++i) {
    const Tensor values = arena.values_of(i).to(kCpu).to(DType::f32);
    const float* p = values.data<float>();
    float sum = 0;
    for (int64_t k = 0; k < values.numel(); ++k) sum += p[k] * 0;  // NaN as soon as one is not finite
    check(sum == 0, op, "weights of '", arena.segments()[i].spec.name, "' are not finite");
  }
}

void remove_unfinished(const std::string& out) {
  static const std::regex unfinished(R"(\.tmp-checkpoint-[0-9]+(-old)?|\.tmp-model)");
  std::error_code error;
  std::vector<fs::path> rest;
  for (const auto& entry : fs::directory_iterator(out, error)) {
    const std::string name = entry.path().filename().string();
    if (is_temporary_name(name) || std::regex_match(name, unfinished)) rest.push_back(entry.path());
  }
  for (const fs::path& path : rest) fs::remove_all(path, error);
}

std::string model_folder(const std::string& path) {
  check(!is_gguf_path(path), "model", "'", path,
        "' is a GGUF file; this needs a folder: ropewalk convert gguf --model FILE --out FOLDER");
  if (path_exists(path + "/config.json")) return path;
  const auto checkpoint = latest_checkpoint(path);
  check(!is_adapter_folder(path) && !(checkpoint && is_adapter_folder(*checkpoint)), "model", "'", path,
        "' holds an adapter without its base model: name the base with --model and this folder with --adapter");
  if (checkpoint) return *checkpoint;
  fail("model", "'", path, "' is not a model folder (no config.json and no whole checkpoint in it)");
}

std::string adapter_folder(const std::string& path) {
  if (is_adapter_folder(path)) return path;
  const auto checkpoint = latest_checkpoint(path);
  if (checkpoint && is_adapter_folder(*checkpoint)) return *checkpoint;
  fail("adapter", "'", path, "' is not an adapter folder (no adapter_config.json and no whole checkpoint with one)");
}

TrainerState load_checkpoint(const std::string& folder, CausalLm& model, AdamW& optimizer) {
  const json j = read_state(folder);
  const SafetensorsFile moments(folder + "/optimizer.safetensors");
  if (model.config().adapter) {
    load_adapter(folder, model);
  } else {
    const SafetensorsFile weights(folder + "/model.safetensors");
    assign_weights(model, [&](const std::string& name) { return weights.load(name); });
  }
  const ParamArena& arena = optimizer.arena();
  for (const auto& [name, target] : {std::pair{"m", arena.m()}, std::pair{"v", arena.v()}}) {
    const Tensor value = moments.load(name);
    const bool whole = arena.memory().moments != MomentFormat::f32;  // belongs to one process
    check_shape("checkpoint", name, value, whole ? target.shape() : Shape{arena.numel()});
    check(!whole || value.dtype() == target.dtype(), "checkpoint", name, " of '", folder, "' has dtype ", value.dtype(),
          ", expected ", target.dtype(), ": the run had other --moments");
    target.copy_from(whole ? value : value.slice(arena.own_begin(), arena.own_end()));
  }
  for (const auto& [name, target] : {std::pair{"m.scales", arena.m_scales()}, std::pair{"v.scales", arena.v_scales()}})
    if (target.defined()) target.copy_from(moments.load(name));
  TrainerState state;
  try {
    optimizer.set_steps(j.at("optimizer_steps").get<int64_t>());
    state.step = j.at("step").get<int64_t>();
    state.tokens = j.at("tokens").get<int64_t>();
    state.seed = j.at("seed").get<uint64_t>();
    state.seconds = j.value("seconds", 0.0);
    state.peak_memory_bytes = j.value("peak_memory_bytes", int64_t{0});
    state.recipe = j.at("recipe").get<std::map<std::string, std::string>>();
  } catch (const json::exception& e) {
    fail("checkpoint", folder, "/trainer_state.json: ", e.what());
  }
  return state;
}

}  // namespace rw
