#include "nn/io/hf.h"

#include <algorithm>
#include <cstdio>
#include <filesystem>
#include <map>
#include <nlohmann/json.hpp>
#include <set>

#include "tensor/file.h"
#include "tensor/json_depth.h"

namespace rw {
namespace {

namespace fs = std::filesystem;
using nlohmann::json;

/// All tensors of a folder by name, over one or several files.
class WeightFiles {
 public:
  explicit WeightFiles(const std::string& folder) {
    const std::string single = folder + "/model.safetensors", index = folder + "/model.safetensors.index.json";
    if (fs::exists(index)) {
      const std::string text = read_file(index);
      check_json_depth(text, "load", index);
      const json j = json::parse(text, nullptr, false);
      check(j.is_object() && j.contains("weight_map") && j["weight_map"].is_object(), "load", index,
            " has no weight_map");
      std::set<std::string> names;
      for (const auto& [tensor, file] : j["weight_map"].items()) {
        check(file.is_string(), "load", index, ": the file of '", tensor, "' is not a string");
        const std::string name = file.get<std::string>();
        check(name.find('/') == std::string::npos && name != "..", "load", index, " names a file outside the folder: '",
              name, "'");
        names.insert(name);
      }
      for (const std::string& name : names) add(folder + "/" + name);
    } else {
      check(fs::exists(single), "load", "'", folder,
            "' has neither model.safetensors nor model.safetensors.index.json");
      add(single);
    }
  }

  bool contains(const std::string& name) const { return where_.count(name) > 0; }
  int64_t count() const { return static_cast<int64_t>(where_.size()); }
  /// As its file's header tells it, before anything is read.
  const Shape& shape(const std::string& name) const {
    const auto it = where_.find(name);
    check(it != where_.end(), "load", "the weights have no tensor '", name, "'");
    return files_[it->second].entries().at(name).shape;
  }
  Tensor load(const std::string& name) const {
    const auto it = where_.find(name);
    check(it != where_.end(), "load", "the weights have no tensor '", name, "'");
    return files_[it->second].load(name);
  }

 private:
  void add(const std::string& path) {
    files_.emplace_back(path);
    for (const auto& [name, entry] : files_.back().entries()) where_[name] = files_.size() - 1;
  }
  std::vector<SafetensorsFile> files_;
  std::map<std::string, size_t> where_;
};

std::string shard_name(size_t i, size_t n) {
  char name[64];
  std::snprintf(name, sizeof name, "model-%05zu-of-%05zu.safetensors", i + 1, n);
  return name;
}

}  // namespace

ModelConfig read_hf_config(const std::string& folder) {
  check(fs::is_directory(folder), "load", "there is no model folder '", folder, "'");
  const std::string path = folder + "/config.json";
  check(fs::exists(path), "load", "'", folder, "' has no config.json");
  return model_config_from_json(read_file(path));
}

void assign_weights(CausalLm& model, const std::function<Tensor(const std::string&)>& find) {
  const ParamArena& arena = model.arena();
  for (size_t i = 0; i < arena.size(); ++i) {
    const std::string& name = arena.segments()[i].spec.name;
    const Tensor value = find(name);
    if (!value.defined()) continue;
    check_shape("load", "'" + name + "'", value, arena.segments()[i].spec.shape);
    arena.set_values(i, value);
  }
  arena.refresh();
}

std::unique_ptr<CausalLm> load_hf(const std::string& folder, const LoadOptions& options) {
  ModelConfig config = read_hf_config(folder);
  if (options.adjust) options.adjust(config);
  const WeightFiles files(folder);
  const std::set<std::string> rope_parameters = [&] {
    std::set<std::string> names;
    config.finish();
    for (const ParameterSpec& spec : make_rope_scaling(config.rope)->parameter_specs()) names.insert(spec.name);
    return names;
  }();
  // Before anything is allocated: the files must hold every tensor of the model that config.json describes.
  check(config.num_hidden_layers <= files.count(), "load", "config.json says ", config.num_hidden_layers,
        " layers, but the weights have only ", files.count(), " tensors");
  for (const ParameterSpec& spec : CausalLm::parameter_specs(config)) {
    if (rope_parameters.count(spec.name) && !files.contains(spec.name)) continue;
    const Shape& shape = files.shape(spec.name);
    check(shape == spec.shape, "load", "'", spec.name, "' must have shape ", spec.shape, ", got ", shape);
  }
  const bool fresh =
      std::any_of(rope_parameters.begin(), rope_parameters.end(), [&](const auto& n) { return !files.contains(n); });
  auto model = std::make_unique<CausalLm>(config, options.compute, options.device,
                                       fresh ? std::optional(options.seed) : std::nullopt, options.memory);
  assign_weights(*model, [&](const std::string& name) {
    if (rope_parameters.count(name) && !files.contains(name))
      return Tensor();  // a new method's: keep what it starts with
    return files.load(name);
  });
  return model;
}

void save_hf(const std::string& folder, const CausalLm& model, const SaveOptions& options) {
  std::error_code error;
  fs::create_directories(folder, error);
  check(!error, "save", "cannot make folder '", folder, "': ", error.message());
  const ParamArena& arena = model.arena();
  std::vector<std::vector<NamedTensor>> shards(1);
  int64_t bytes = 0, total = 0;
  for (size_t i = 0; i < arena.size(); ++i) {
    const Tensor t = arena.values_of(i).to(options.dtype);
    if (bytes > 0 && bytes + t.bytes() > options.max_shard_bytes) {
      shards.emplace_back();
      bytes = 0;
    }
    bytes += t.bytes();
    total += t.bytes();
    shards.back().push_back({arena.segments()[i].spec.name, t});
  }
  const std::map<std::string, std::string> metadata = {{"format", "pt"}};
  const std::string index = folder + "/model.safetensors.index.json";
  if (shards.size() == 1) {
    save_safetensors(folder + "/model.safetensors", shards[0], metadata);
    fs::remove(index, error);
  } else {
    json map = json::object();
    for (size_t s = 0; s < shards.size(); ++s) {
      save_safetensors(folder + "/" + shard_name(s, shards.size()), shards[s], metadata);
      for (const NamedTensor& t : shards[s]) map[t.name] = shard_name(s, shards.size());
    }
    write_file_atomic(index, json{{"metadata", {{"total_size", total}}}, {"weight_map", map}}.dump(1) + "\n");
    fs::remove(folder + "/model.safetensors", error);
  }
  write_file_atomic(folder + "/config.json",
                    model_config_to_json(model.config(), options.dtype == DType::bf16  ? "bfloat16"
                                                         : options.dtype == DType::f64 ? "float64"
                                                                                       : "float32"));
}

}  // namespace rw
