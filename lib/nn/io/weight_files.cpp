// Finding the weights of a model folder.
#include "nn/io/weight_files.h"

#include <filesystem>
#include <nlohmann/json.hpp>
#include <set>

#include "tensor/error.h"
#include "tensor/file.h"
#include "tensor/folder.h"
#include "tensor/json_depth.h"

namespace rw {
namespace {

namespace fs = std::filesystem;
using nlohmann::json;

/// What a folder without safetensors may hold instead.
[[noreturn]] void refuse_other_formats(const std::string& folder) {
  for (const char* name : {"pytorch_model.bin", "pytorch_model.bin.index.json"}) {
    if (!path_exists(folder + "/" + name)) continue;
    fail("load", "'", folder, "' has its weights in ", name,
         ", PyTorch's pickle format, which is not read. Convert them with transformers: "
         "AutoModelForCausalLM.from_pretrained(FOLDER).save_pretrained(NEW_FOLDER)");
  }
  if (path_exists(folder + "/adapter_model.safetensors")) {
    fail("load", "'", folder,
         "' holds an adapter (adapter_model.safetensors) without its base model. Name the base with --model and this "
         "folder "
         "with --adapter, or merge the two: ropewalk convert merge --model BASE --adapter FOLDER --out NEW_FOLDER");
  }
  for (const std::string& name : names_in(folder)) {
    const std::string end = fs::path(name).extension().string();
    check(end != ".gguf", "load", "'", folder, "' has no model.safetensors, but a GGUF file: name that one, '", folder,
          "/", name, "'");
    check(end != ".safetensors", "load", "'", folder, "' has '", name,
          "', but neither a model.safetensors nor a model.safetensors.index.json that names it: ",
          "name a folder in Hugging Face's layout");
    for (const char* other : {".pth", ".pt", ".bin", ".ckpt", ".h5", ".msgpack", ".ggml", ".npz", ".onnx"}) {
      if (end != other) continue;
      fail("load", "'", folder, "' has no model.safetensors; '", name, "' is in a format that is not read (", end,
           "): convert the model to safetensors first");
    }
  }
  fail("load", "'", folder, "' has neither model.safetensors nor model.safetensors.index.json");
}

}  // namespace

void refuse_lfs_pointer(const std::string& path) {
  if (!is_file(path)) return;
  const FileReader file(path);
  if (file.size() > 1024) return;
  std::string text(static_cast<size_t>(file.size()), '\0');
  file.read(0, text.data(), file.size());
  check(!text.starts_with("version https://git-lfs"), "load", "'", path,
        "' is a git-lfs pointer: the file itself was not downloaded. Run `git lfs pull` in its folder");
}

WeightFiles::WeightFiles(const std::string& folder) {
  const std::string single = folder + "/model.safetensors", index = folder + "/model.safetensors.index.json";
  if (path_exists(single)) {
    add(single);
  } else if (path_exists(index)) {
    add_shards(folder, index);
  } else {
    refuse_other_formats(folder);
  }
}

void WeightFiles::add_shards(const std::string& folder, const std::string& index) {
  refuse_lfs_pointer(index);
  const std::string text = read_file(index, limits::index);
  check_json_depth(text, "load", index);
  const json j = json::parse(text, nullptr, false);
  check(j.is_object() && j.contains("weight_map") && j["weight_map"].is_object(), "load", index, " has no weight_map");
  std::set<std::string> files;
  for (const auto& [tensor, file] : j["weight_map"].items()) {
    check(file.is_string(), "load", index, ": the file of '", tensor, "' is not a string");
    const std::string name = file.get<std::string>();
    check(name.find('/') == std::string::npos && name != "..", "load", index, " names a file outside the folder: '",
          name, "'");
    if (files.contains(name)) continue;
    check(path_exists(folder + "/" + name), "load", "'", folder, "' lacks '", name, "', which ",
          "model.safetensors.index.json names");
    files.insert(name);
  }
  for (const std::string& name : files) add(folder + "/" + name);
}

void WeightFiles::add(const std::string& path) {
  refuse_lfs_pointer(path);
  files_.emplace_back(path);
  for (const auto& [name, entry] : files_.back().entries()) where_[name] = files_.size() - 1;
}

std::vector<std::string> WeightFiles::names() const {
  std::vector<std::string> all;
  for (const auto& [name, file] : where_) all.push_back(name);
  return all;
}

const SafetensorsFile::Entry& WeightFiles::entry(const std::string& name) const {
  const auto it = where_.find(name);
  check(it != where_.end(), "load", "the weights have no tensor '", name, "'");
  return files_[it->second].entries().at(name);
}

Tensor WeightFiles::load(const std::string& name) const {
  const auto it = where_.find(name);
  check(it != where_.end(), "load", "the weights have no tensor '", name, "'");
  return files_[it->second].load(name);
}

}  // namespace rw
