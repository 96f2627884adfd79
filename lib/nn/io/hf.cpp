// Loading and saving model folders.
#include "nn/io/hf.h"

#include <algorithm>
#include <cstdio>
#include <cstring>
#include <filesystem>
#include <map>
#include <nlohmann/json.hpp>
#include <set>

#include "nn/families/family.h"
#include "nn/io/weight_files.h"
#include "tensor/file.h"
#include "tensor/folder.h"

namespace rw {
namespace {

namespace fs = std::filesystem;
using nlohmann::json;

std::string shard_name(size_t i, size_t n) {
  char name[64];
  std::snprintf(name, sizeof name, "model-%05zu-of-%05zu.safetensors", i + 1, n);
  return name;
}

}  // namespace

ModelConfig read_hf_config(const std::string& folder) {
  check(is_folder(folder), "load", "there is no model folder '", folder, "'");
  const std::string path = folder + "/config.json";
  check(path_exists(path), "load", "'", folder, "' has no config.json");
  refuse_lfs_pointer(path);
  return model_config_from_json(read_file(path, limits::config));
}

std::string generation_file(const std::string& folder) {
  const std::string path = folder + "/generation_config.json";
  if (!path_exists(path)) return "";
  refuse_lfs_pointer(path);
  return read_file(path, limits::config);
}

void assign_weights(CausalLm& model, const std::function<Tensor(const std::string&)>& find) {
  const ParamArena& arena = model.arena();
  for (size_t i = 0; i < arena.size(); ++i) {
    const std::string& name = arena.segments()[i].spec.name;
    const Tensor value = find(name);
    if (!value.defined()) continue;
    check_shape("load", "'" + name + "'", value, arena.segments()[i].spec.shape);
    arena.set_values(i, from_file_rows(model.config(), name, value));
  }
  arena.refresh();
}

namespace {

std::set<std::string> rope_parameter_names(const RopeConfig& rope) {
  std::set<std::string> names;
  for (const ParameterSpec& spec : make_rope_scaling(rope)->parameter_specs()) names.insert(spec.name);
  return names;
}

bool same_bytes(const Tensor& a, const Tensor& b) {
  return a.dtype() == b.dtype() && a.shape() == b.shape() &&
         std::memcmp(a.raw(), b.raw(), static_cast<size_t>(a.bytes())) == 0;
}

/// A head of its own counts where the config ties it to the embedding, as in transformers: it stays tied only if the
/// files hold no head or the same values. Then a file's dtype is what the embedding has.
void read_from_weights(ModelConfig& config, const WeightFiles& files) {
  const ParameterNames& names = family_record(config.family).names;
  const std::string head = names.head + ".weight", embedding = names.embedding + ".weight";
  if (!files.contains(embedding)) return;  // an error that names it comes later
  if (config.tie_word_embeddings && files.contains(head) && !same_bytes(files.load(head), files.load(embedding)))
    config.tie_word_embeddings = false;
  const std::string& dtype = files.entry(embedding).dtype;
  config.file_dtype = dtype == "BF16" ? DType::bf16 : dtype == "F64" ? DType::f64 : DType::f32;
}

/// Up to three names.
std::string some_of(const std::vector<std::string>& names) {
  std::string text;
  for (size_t i = 0; i < names.size() && i < 3; ++i) text += cat(i ? ", '" : "'", names[i], "'");
  return names.size() > 3 ? cat(text, " and ", names.size() - 3, " more") : text;
}

/// Errors: weights that were quantized, which have parts of their own or dtypes of one byte.
void refuse_quantized(const WeightFiles& files) {
  for (const std::string& name : files.names()) {
    for (const char* part : {".qweight", ".qzeros", ".weight_scale", ".weight_packed", ".absmax", ".quant_state",
                             ".SCB", ".scales", ".g_idx", ".W_q"}) {
      check(name.find(part) == std::string::npos, "load", "the weights are quantized ('", name,
            "'), which is not supported; convert the model to bfloat16 or float32 first");
    }
  }
}

/// Errors: a tensor of the files that the model has no place for.
void refuse_leftovers(const ModelConfig& config, const WeightFiles& files, const std::set<std::string>& placed) {
  const FamilyRecord& record = family_record(config.family);
  std::vector<std::string> left;
  for (const std::string& name : files.names()) {
    const bool unneeded = std::any_of(record.unneeded.begin(), record.unneeded.end(),
                                      [&](const std::string& part) { return name.find(part) != std::string::npos; });
    if (!placed.count(name) && !unneeded) left.push_back(name);
  }
  check(left.empty(), "load", "the weights have ", left.size(), " tensors that a ", record.model_type,
        " model of this config.json has no place for: ", some_of(left));
}

/// Before anything is allocated: the files hold every tensor of the model that config.json describes, and no other.
void check_tensors(const ModelConfig& config, const WeightFiles& files, const std::set<std::string>& new_parameters,
                   const std::set<std::string>& old_parameters) {
  refuse_quantized(files);
  check(config.num_hidden_layers <= files.count(), "load", "config.json says ", config.num_hidden_layers,
        " layers, but the weights have only ", files.count(), " tensors");
  std::set<std::string> placed = old_parameters;
  if (config.tie_word_embeddings) placed.insert(family_record(config.family).names.head + ".weight");
  for (const ParameterSpec& spec : CausalLm::parameter_specs(config)) {
    placed.insert(spec.name);
    if (new_parameters.count(spec.name) && !files.contains(spec.name)) continue;
    if (!files.contains(spec.name)) {
      const std::vector<std::string> names = files.names();
      fail("load", "the weights have no tensor '", spec.name, "'; they have ", some_of(names));
    }
    const SafetensorsFile::Entry& entry = files.entry(spec.name);
    check(entry.shape == spec.shape, "load", "'", spec.name, "' must have shape ", spec.shape, ", got ", entry.shape);
    check(entry.dtype == "F32" || entry.dtype == "BF16" || entry.dtype == "F16" || entry.dtype == "F64", "load", "'",
          spec.name, "' must have dtype F32, BF16, F16 or F64, got ", entry.dtype,
          ": quantized weights are not supported");
  }
  refuse_leftovers(config, files, placed);
}

}  // namespace

std::unique_ptr<CausalLm> load_hf(const std::string& folder, const LoadOptions& options) {
  ModelConfig config = read_hf_config(folder);
  const std::set<std::string> old_parameters = rope_parameter_names(config.rope);
  if (options.adjust) options.adjust(config);
  config.finish();
  const WeightFiles files(folder);
  read_from_weights(config, files);
  std::set<std::string> new_parameters = rope_parameter_names(config.rope);
  for (const ParameterSpec& spec : CausalLm::parameter_specs(config)) {
    if (config.adapter && is_adapter_parameter(spec.name)) new_parameters.insert(spec.name);
  }
  check_tensors(config, files, new_parameters, old_parameters);
  auto model = std::make_unique<CausalLm>(config, options.compute, options.device, std::nullopt, options.memory);
  const auto is_new = [&](const std::string& name) { return new_parameters.count(name) && !files.contains(name); };
  for (size_t i = 0; i < model->arena().size(); ++i) {
    if (is_new(model->arena().segments()[i].spec.name)) model->arena().initialize(i, options.seed);
  }
  assign_weights(*model, [&](const std::string& name) { return is_new(name) ? Tensor() : files.load(name); });
  return model;
}

void save_hf(const std::string& folder, const CausalLm& model, const SaveOptions& options) {
  check(!model.config().adapter, "save",
        "the model has an adapter: save that alone (save_adapter), or merge it into its base (load_merged)");
  std::error_code error;
  fs::create_directories(folder, error);
  check(!error, "save", "cannot make folder '", folder, "': ", error.message());
  const ParamArena& arena = model.arena();
  const DType dtype = options.dtype.value_or(model.config().file_dtype);
  std::vector<std::vector<NamedTensor>> shards(1);
  int64_t bytes = 0, total = 0;
  for (size_t i = 0; i < arena.size(); ++i) {
    const std::string& name = arena.segments()[i].spec.name;
    const Tensor t = to_file_rows(model.config(), name, arena.values_of(i).to(dtype));
    if (bytes > 0 && bytes + t.bytes() > options.max_shard_bytes) {
      shards.emplace_back();
      bytes = 0;
    }
    bytes += t.bytes();
    total += t.bytes();
    shards.back().push_back({name, t});
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
  const char* word = dtype == DType::bf16 ? "bfloat16" : dtype == DType::f64 ? "float64" : "float32";
  if (!options.generation.empty()) write_file_atomic(folder + "/generation_config.json", options.generation);
  write_file_atomic(folder + "/config.json", model_config_to_json(model.config(), word));
}

void replace_model_folder(const std::string& path, const std::function<void(const std::string& folder)>& write) {
  static const std::set<std::string> kOurs = {"config.json",
                                              "generation_config.json",
                                              "tokenizer.json",
                                              "tokenizer.model",
                                              "tokenizer_config.json",
                                              "special_tokens_map.json",
                                              "added_tokens.json",
                                              "vocab.json",
                                              "merges.txt",
                                              "chat_template.jinja"};
  FolderWriter writer(path);
  write(writer.folder());
  writer.commit([](const std::string& name) {
    const bool weights = name.starts_with("model") && (name.ends_with(".safetensors") || name.ends_with(".index.json"));
    return !weights && !kOurs.contains(name);
  });
}

}  // namespace rw
