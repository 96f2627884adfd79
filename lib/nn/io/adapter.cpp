// Adapters in files: what a model trains goes out under PEFT's names, and comes back into a model or into its base.
#include "nn/io/adapter.h"

#include <algorithm>
#include <cmath>
#include <cstring>
#include <set>

#include "nn/families/family.h"
#include "nn/io/adapter_json.hpp"
#include "nn/io/weight_files.h"
#include "tensor/file.h"
#include "tensor/folder.h"
#include "tensor/gemm.h"

namespace rw {
namespace {

constexpr const char* kPrefix = "base_model.model.";
constexpr const char* kA = ".lora_A.weight";
constexpr const char* kB = ".lora_B.weight";

std::string without(const std::string& text, const std::string& end) {
  return text.substr(0, text.size() - end.size());
}

/// Rows of a b, which has those of its weight, and of whole parameters are ordered as in the family's files.
Tensor file_order(const ModelConfig& c, const std::string& name, const Tensor& value, bool to_file) {
  if (name.ends_with(kA)) return value;
  const std::string weight = name.ends_with(kB) ? without(name, kB) + ".weight" : name;
  return to_file ? to_file_rows(c, weight, value) : from_file_rows(c, weight, value);
}

/// The tensors of an adapter's file by the names that the parameters have here.
class AdapterTensors {
 public:
  explicit AdapterTensors(const std::string& folder) : file_(path_in(folder)) {
    for (const auto& [key, entry] : file_.entries()) {
      check(key.starts_with(kPrefix), "adapter", "'", key, "' in adapter_model.safetensors does not begin with ",
            kPrefix);
      names_.insert(key.substr(std::strlen(kPrefix)));
    }
  }
  const std::set<std::string>& names() const { return names_; }
  bool contains(const std::string& name) const { return names_.count(name) > 0; }
  Tensor load(const std::string& name) const {
    check(contains(name), "adapter", "adapter_model.safetensors has no tensor '", kPrefix, name, "'");
    return file_.load(kPrefix + name);
  }

 private:
  static std::string path_in(const std::string& folder) {
    const std::string path = folder + "/adapter_model.safetensors";
    check(path_exists(path), "adapter", "'", folder, "' has no adapter_model.safetensors");
    refuse_lfs_pointer(path);
    return path;
  }
  SafetensorsFile file_;
  std::set<std::string> names_;
};

/// A tied head is stored under its own name too: PEFT would otherwise keep the base's.
std::string tied_head(const ModelConfig& c) {
  return c.tie_word_embeddings ? family_record(c.family).names.head + ".weight" : "";
}
std::string embedding_of(const ModelConfig& c) { return family_record(c.family).names.embedding + ".weight"; }

/// Errors: a head that is no longer tied to its embedding.
void check_tied(const ModelConfig& c, const AdapterTensors& tensors) {
  const std::string head = tied_head(c), embedding = embedding_of(c);
  if (head.empty() || (!tensors.contains(head) && !tensors.contains(embedding))) return;
  const bool both = tensors.contains(head) && tensors.contains(embedding);
  check(both, "adapter", "the base ties its output head to the embedding, and the adapter stores '",
        tensors.contains(head) ? head : embedding, "' alone, which would untie them: not supported");
  const Tensor a = tensors.load(head), b = tensors.load(embedding);
  check(a.dtype() == b.dtype() && a.shape() == b.shape() &&
            std::memcmp(a.raw(), b.raw(), static_cast<size_t>(a.bytes())) == 0,
        "adapter", "the base ties '", head, "' to '", embedding, "', and the adapter stores other values for each");
}

/// The end of a parameter's name that says which module it is, the same in every layer: "self_attn.q_proj".
std::string module_of(const ModelConfig& c, std::string name) {
  name = without(name, name.ends_with(kA)        ? kA
                       : name.ends_with(kB)      ? kB
                       : name.ends_with(".bias") ? ".bias"
                                                 : ".weight");
  const std::string layers = family_record(c.family).names.layers + ".";
  if (!name.starts_with(layers)) return name;
  return name.substr(name.find('.', layers.size()) + 1);
}

void load_rope_parameters(const std::string& folder, CausalLm& model) {
  const std::string path = folder + "/rope_parameters.safetensors";
  if (model.rope_parameters() == model.arena().size() || !path_exists(path)) return;
  const SafetensorsFile file(path);
  for (size_t i = model.rope_parameters(); i < model.arena().size(); ++i) {
    const std::string& name = model.arena().segments()[i].spec.name;
    if (file.contains(name)) model.arena().set_values(i, file.load(name));
  }
}

void add_product(const ParamArena& arena, size_t i, const Tensor& b, const Tensor& a, double scale) {
  const std::string& name = arena.segments()[i].spec.name;
  const Tensor w = arena.values_of(i).to(kCpu).to(arena.master_dtype()).clone();
  check(a.rank() == 2 && b.rank() == 2 && a.size(0) == b.size(1), "adapter", "of '", name, "', lora_A has shape ",
        a.shape(), " and lora_B ", b.shape());
  check(b.size(0) == w.size(0) && a.size(1) == w.size(1), "adapter", "'", name, "' has shape ", w.shape(),
        ", its lora_B ", b.shape(), " and lora_A ", a.shape());
  gemm(b.to(w.dtype()), a.to(w.dtype()), w, {.alpha = scale, .beta = 1});
  arena.set_values(i, w);
}

}  // namespace

void save_adapter(const std::string& folder, const CausalLm& model, const AdapterSaveOptions& options) {
  const ModelConfig& c = model.config();
  check(c.adapter.has_value(), "adapter", "the model has no adapter to save");
  make_folder(folder);
  const ParamArena& arena = model.arena();
  const DType dtype = options.dtype.value_or(DType::f32);
  std::vector<NamedTensor> tensors, learned;
  std::set<std::string> targets, whole;
  for (size_t i = 0; i < arena.size(); ++i) {
    const std::string& name = arena.segments()[i].spec.name;
    if (!arena.trainable(i)) continue;
    if (i >= model.rope_parameters()) {
      learned.push_back({name, arena.values_of(i).to(DType::f32)});
      continue;
    }
    const Tensor value = file_order(c, name, arena.values_of(i).to(kCpu).to(dtype), true);
    tensors.push_back({kPrefix + name, value});
    (is_adapter_parameter(name) ? targets : whole).insert(module_of(c, name));
    if (name == embedding_of(c) && !tied_head(c).empty()) {
      tensors.push_back({kPrefix + tied_head(c), value});
      whole.insert(module_of(c, tied_head(c)));
    }
  }
  save_safetensors(folder + "/adapter_model.safetensors", tensors, {{"format", "pt"}});
  if (!learned.empty()) save_safetensors(folder + "/rope_parameters.safetensors", learned, {{"format", "pt"}});
  const char* word = c.file_dtype == DType::bf16 ? "bfloat16" : c.file_dtype == DType::f64 ? "float64" : "float32";
  write_file_atomic(folder + "/model_config.json", model_config_to_json(c, word));
  write_file_atomic(
      folder + "/adapter_config.json",
      adapter_config_to_json(*c.adapter, options.base, {targets.begin(), targets.end()}, {whole.begin(), whole.end()}));
}

void load_adapter(const std::string& folder, CausalLm& model) {
  const ModelConfig& c = model.config();
  check(c.adapter.has_value(), "adapter", "the model has no adapter to load '", folder, "' into");
  const AdapterDescription stored = read_adapter_config(folder).description;
  check(stored.rank == c.adapter->rank && std::fabs(stored.scale() / c.adapter->scale() - 1) < 1e-12, "adapter", "'",
        folder, "' has rank ", stored.rank, " and scale ", stored.scale(), ", the model's adapter rank ",
        c.adapter->rank, " and scale ", c.adapter->scale());
  const AdapterTensors tensors(folder);
  check_tied(c, tensors);
  std::set<std::string> left = tensors.names();
  left.erase(tied_head(c));
  const ParamArena& arena = model.arena();
  for (size_t i = 0; i < model.rope_parameters(); ++i) {
    const std::string& name = arena.segments()[i].spec.name;
    if (!arena.trainable(i)) continue;
    const Tensor value = tensors.load(name);
    check_shape("adapter", "'" + name + "'", value, arena.segments()[i].spec.shape);
    arena.set_values(i, file_order(c, name, value, false));
    left.erase(name);
  }
  check(left.empty(), "adapter", "'", folder, "' has '", left.empty() ? "" : *left.begin(),
        "', which the model's adapter does not train");
  load_rope_parameters(folder, model);
  model.arena().refresh();
}

void merge_adapter(const std::string& folder, CausalLm& model) {
  const ModelConfig& c = model.config();
  check(!c.adapter, "adapter", "the model has an adapter of its own: merge '", folder, "' into its base");
  const AdapterDescription description = read_adapter_config(folder).description;
  const AdapterTensors tensors(folder);
  check_tied(c, tensors);
  const ParamArena& arena = model.arena();
  std::set<std::string> known;
  for (const ParamArena::Segment& s : arena.segments()) known.insert(s.spec.name);
  for (const std::string& name : tensors.names()) {
    if (name == tied_head(c) || name.ends_with(kB)) continue;
    const std::string weight = name.ends_with(kA) ? without(name, kA) + ".weight" : name;
    check(known.count(weight), "adapter", "'", folder, "' has '", name, "', for which the model has no place");
    const size_t i = arena.index_of(weight);
    if (!name.ends_with(kA)) {
      arena.set_values(i, file_order(c, name, tensors.load(name), false));
      continue;
    }
    const Tensor a = tensors.load(name), b = tensors.load(without(name, kA) + kB);
    check(a.rank() == 2 && a.size(0) == description.rank, "adapter", "'", name, "' has shape ", a.shape(),
          ", adapter_config.json says rank ", description.rank);
    add_product(arena, i, file_order(c, without(name, kA) + kB, b, false), a, description.scale());
  }
  for (const std::string& name : tensors.names()) {
    if (name.ends_with(kB)) static_cast<void>(tensors.load(without(name, kB) + kA));  // a b without its a
  }
  load_rope_parameters(folder, model);
  model.arena().refresh();
}

std::unique_ptr<CausalLm> load_merged(const std::string& base, const std::string& adapter, const LoadOptions& options) {
  LoadOptions under = options;
  under.adjust = [&](ModelConfig& c) {
    const std::string path = adapter + "/model_config.json";
    if (path_exists(path)) c.rope = model_config_from_json(read_file(path, limits::config)).rope;
    if (options.adjust) options.adjust(c);
  };
  auto model = load_hf(base, under);
  merge_adapter(adapter, *model);
  return model;
}

}  // namespace rw
