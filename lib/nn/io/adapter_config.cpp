// adapter_config.json: what PEFT's LoraConfig says, and what of it is understood.
#include <nlohmann/json.hpp>
#include <set>

#include "nn/io/adapter.h"
#include "nn/io/adapter_json.hpp"
#include "tensor/file.h"
#include "tensor/folder.h"
#include "tensor/json_depth.h"

namespace rw {
namespace {

using nlohmann::json;

/// Fields that change nothing beyond what the tensors say: where a layer has an adapter, its tensors are in the file.
const std::set<std::string>& told_by_tensors() {
  static const std::set<std::string> names = {
      "auto_mapping",     "base_model_name_or_path", "exclude_modules", "inference_mode",    "layers_pattern",
      "loftq_config",     "layers_to_transform",     "megatron_core",   "modules_to_save",   "peft_version",
      "revision",         "target_modules",          "task_type",       "qalora_group_size", "ensure_weight_tying",
      "monteclora_config"};
  return names;
}

bool is_off(const json& value) {
  return value.is_null() || value == false || (value.is_string() && value.get<std::string>().empty()) ||
         ((value.is_array() || value.is_object()) && value.empty());
}

double number_of(const json& j, const char* field, double otherwise) {
  if (!j.contains(field)) return otherwise;
  check(j[field].is_number(), "adapter", "'", field, "' must be a number, got ", j[field].dump());
  return j[field].get<double>();
}

void check_init(const json& value) {
  if (value.is_boolean() || value.is_null()) return;
  const std::string text = value.is_string() ? value.get<std::string>() : value.dump();
  check(text == "gaussian" || text == "eva" || text == "orthogonal", "adapter", "'init_lora_weights' is ", value.dump(),
        ": it changes the base model's weights, which are not stored here");
}

}  // namespace

AdapterConfig adapter_config_from_json(const std::string& text, const std::string& path) {
  check_json_depth(text, "adapter", path);
  const json j = json::parse(text, nullptr, false);
  check(j.is_object(), "adapter", path, " is not a JSON object");
  check(j.contains("peft_type") && j["peft_type"] == "LORA", "adapter", "'peft_type' must be \"LORA\", got ",
        j.contains("peft_type") ? j["peft_type"].dump() : "none");
  AdapterConfig config;
  AdapterDescription& d = config.description;
  for (const auto& [name, value] : j.items()) {
    if (name == "peft_type" || name == "r" || name == "lora_alpha" || name == "lora_dropout") continue;
    if (name == "use_rslora") {
      check(value.is_boolean(), "adapter", "'use_rslora' must be true or false, got ", value.dump());
      d.rank_stabilized = value.get<bool>();
    } else if (name == "bias") {
      check(value == "none", "adapter", "'bias' must be \"none\", got ", value.dump(), ": trained biases are not read");
    } else if (name == "init_lora_weights") {
      check_init(value);
    } else if (!told_by_tensors().count(name)) {
      check(is_off(value), "adapter", "'", name, "' is ", value.dump().substr(0, 60),
            " in adapter_config.json, which is not supported");
    }
  }
  d.rank = static_cast<int64_t>(number_of(j, "r", 8));
  d.alpha = number_of(j, "lora_alpha", 8);
  d.dropout = number_of(j, "lora_dropout", 0);
  check(d.rank >= 1 && d.rank <= 1 << 16, "adapter", "'r' must be 1 to 65536, got ", d.rank);
  if (j.contains("base_model_name_or_path") && j["base_model_name_or_path"].is_string())
    config.base = j["base_model_name_or_path"].get<std::string>();
  config.rest = j.contains("modules_to_save") && !is_off(j["modules_to_save"]);
  if (j.contains("target_modules") && j["target_modules"].is_array()) {
    d.targets.clear();
    for (const json& target : j["target_modules"]) {
      check(target.is_string(), "adapter", "'target_modules' must be a list of names");
      d.targets.push_back(target.get<std::string>());
    }
  }
  return config;
}

std::string adapter_config_to_json(const AdapterDescription& d, const std::string& base,
                                   const std::vector<std::string>& targets, const std::vector<std::string>& whole) {
  const bool integral = d.alpha == static_cast<double>(static_cast<int64_t>(d.alpha));
  json j = {{"peft_type", "LORA"},
            {"task_type", "CAUSAL_LM"},
            {"base_model_name_or_path", base},
            {"r", d.rank},
            {"lora_alpha", integral ? json(static_cast<int64_t>(d.alpha)) : json(d.alpha)},
            {"lora_dropout", d.dropout},
            {"use_rslora", d.rank_stabilized},
            {"target_modules", targets},
            {"modules_to_save", whole.empty() ? json(nullptr) : json(whole)},
            {"bias", "none"},
            {"fan_in_fan_out", false},
            {"inference_mode", true},
            {"init_lora_weights", true},
            {"rank_pattern", json::object()},
            {"alpha_pattern", json::object()},
            {"use_dora", false}};
  return j.dump(1) + "\n";
}

AdapterConfig read_adapter_config(const std::string& folder) {
  const std::string path = folder + "/adapter_config.json";
  check(path_exists(path), "adapter", "'", folder, "' has no adapter_config.json");
  return adapter_config_from_json(read_file(path, limits::config), path);
}

bool is_adapter_folder(const std::string& folder) { return path_exists(folder + "/adapter_config.json"); }

}  // namespace rw
