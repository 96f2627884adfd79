// Models out of GGUF files.
#include <algorithm>
#include <cmath>
#include <nlohmann/json.hpp>
#include <set>

#include "nn/families/family.h"
#include "nn/io/gguf.h"
#include "nn/io/gguf_names.h"
#include "rope/scaling.h"

namespace rw {
namespace {

using gguf::Architecture;
using gguf::kFactors, gguf::kLongFactors, gguf::kShortFactors;
using nlohmann::json;
constexpr const char* kOp = "gguf";

/// The file's sizes as a config.json, which the family then reads and checks.
class ConfigOfGguf {
 public:
  explicit ConfigOfGguf(const GgufFile& file)
      : file_(file),
        arch_(gguf::architecture_named(file.text("general.architecture"))),
        a_(arch_.name + std::string(".")) {}

  ModelConfig read() {
    refuse_unknown_keys();
    const FamilyRecord& record = family_record(arch_.family);
    j_["model_type"] = record.model_type;
    set(record.hidden_size, "embedding_length");
    set(record.intermediate_size, "feed_forward_length");
    set(record.num_hidden_layers, "block_count");
    set(record.num_attention_heads, "attention.head_count");
    set(record.max_position_embeddings, "context_length");
    check(file_.integer(a_ + "block_count") <= static_cast<int64_t>(file_.entries().size()), kOp, file_.path(), ": ",
          a_, "block_count is ", file_.integer(a_ + "block_count"), ", but the file has only ", file_.entries().size(),
          " tensors");
    j_["vocab_size"] = vocabulary();
    j_["tie_word_embeddings"] = !file_.contains("output.weight");
    if (arch_.family != Family::gpt_neox) {
      j_["num_key_value_heads"] =
          file_.find_integer(a_ + "attention.head_count_kv").value_or(file_.integer(a_ + "attention.head_count"));
      if (const auto dim = file_.find_integer(a_ + "attention.key_length")) j_["head_dim"] = *dim;
    }
    for (const char* token : {"bos", "eos"}) {
      if (const auto id = file_.find_integer(cat("tokenizer.ggml.", token, "_token_id")))
        j_[cat(token, "_token_id")] = *id;
    }
    family_fields();
    rope_fields();
    ModelConfig config = model_config_from_json(j_.dump());
    const bool bf16 = file_.entries().at("token_embd.weight").type == static_cast<uint32_t>(GgmlType::bf16);
    config.file_dtype = bf16 ? DType::bf16 : DType::f32;
    return config;
  }

 private:
  /// Errors: a key of the architecture that this library does not know. What it says could change the model.
  void refuse_unknown_keys() const {
    static const std::set<std::string> known = {"block_count",
                                                "context_length",
                                                "embedding_length",
                                                "feed_forward_length",
                                                "vocab_size",
                                                "use_parallel_residual",
                                                "attn_logit_softcapping",
                                                "final_logit_softcapping",
                                                "attention.head_count",
                                                "attention.head_count_kv",
                                                "attention.key_length",
                                                "attention.value_length",
                                                "attention.layer_norm_rms_epsilon",
                                                "attention.layer_norm_epsilon",
                                                "attention.sliding_window",
                                                "rope.dimension_count",
                                                "rope.freq_base",
                                                "rope.freq_base_swa",
                                                "rope.scale_linear",
                                                "rope.scaling.type",
                                                "rope.scaling.factor",
                                                "rope.scaling.attn_factor",
                                                "rope.scaling.original_context_length",
                                                "rope.scaling.finetuned",
                                                "tensor_data_layout"};
    for (const auto& [key, value] : file_.metadata()) {
      check(!key.starts_with(a_) || known.contains(key.substr(a_.size())), kOp, file_.path(), ": the key '", key,
            "' is not supported");
    }
    const auto width = file_.find_integer(a_ + "attention.value_length");
    check(!width || width == file_.find_integer(a_ + "attention.key_length"), kOp, file_.path(), ": ", a_,
          "attention.value_length differs from key_length, which is not supported");
  }
  void set(const char* field, const char* key) { j_[field] = file_.integer(a_ + key); }
  void set_number(const char* field, const char* key) {
    if (const auto value = file_.find_number(a_ + key)) j_[field] = shortest(*value);
  }
  /// An f32 of the file as the decimal number that it was written for: 1e-05, not 9.99999974e-06.
  static double shortest(double value) {
    char text[40];
    std::snprintf(text, sizeof text, "%.7g", value);
    const double rounded = std::strtod(text, nullptr);
    return static_cast<float>(rounded) == static_cast<float>(value) ? rounded : value;
  }
  int64_t vocabulary() const {
    const auto it = file_.entries().find("token_embd.weight");
    check(it != file_.entries().end() && it->second.shape.rank() == 2, kOp, file_.path(),
          ": the tensor token_embd.weight is missing or has no two dimensions");
    return it->second.shape[0];
  }
  bool biased(const char* tensor) const { return file_.contains(std::string("blk.0.") + tensor + ".bias"); }

  void family_fields() {
    const bool layer_norm = arch_.family == Family::gpt_neox || arch_.family == Family::stablelm;
    set_number(layer_norm ? "layer_norm_eps" : "rms_norm_eps",
               layer_norm ? "attention.layer_norm_epsilon" : "attention.layer_norm_rms_epsilon");
    if (arch_.family == Family::llama) {
      j_["attention_bias"] = biased("attn_q");
      j_["mlp_bias"] = biased("ffn_up");
    }
    if (arch_.family == Family::stablelm) j_["use_qkv_bias"] = biased("attn_q");
    if (const auto parallel = file_.find_boolean(a_ + "use_parallel_residual")) j_["use_parallel_residual"] = *parallel;
    if (const auto window = file_.find_integer(a_ + "attention.sliding_window")) {
      j_["sliding_window"] = *window;
    } else if (arch_.family == Family::phi3) {
      j_["sliding_window"] = nullptr;
    }
    set_number("attn_logit_softcapping", "attn_logit_softcapping");
    set_number("final_logit_softcapping", "final_logit_softcapping");
    if (arch_.family == Family::gemma2 || arch_.family == Family::gemma3_text)
      j_["query_pre_attn_scalar"] = file_.integer(a_ + "attention.key_length");
  }

  std::vector<double> list(const char* tensor) const {
    const auto it = file_.entries().find(tensor);
    check(it == file_.entries().end() || it->second.shape.numel() <= 32768, kOp, file_.path(), ": '", tensor,
          "' has more than 32768 factors");
    return file_.load(tensor).to_vector();
  }

  void rope_fields() {
    const std::string r = a_ + "rope.";
    const double base = shortest(file_.find_number(r + "freq_base").value_or(10000));
    j_[arch_.family == Family::gpt_neox ? "rotary_emb_base" : "rope_theta"] = base;
    if (const auto local = file_.find_number(r + "freq_base_swa")) j_["rope_local_base_freq"] = shortest(*local);
    const int64_t head = file_.find_integer(a_ + "attention.key_length")
                             .value_or(file_.integer(a_ + "embedding_length") /
                                       std::max<int64_t>(1, file_.integer(a_ + "attention.head_count")));
    const int64_t rotated = file_.find_integer(r + "dimension_count").value_or(head);
    const bool partial =
        arch_.family == Family::gpt_neox || arch_.family == Family::stablelm;  // their default is a quarter
    if ((rotated != head || partial) && head > 0)
      j_[arch_.family == Family::gpt_neox ? "rotary_pct" : "partial_rotary_factor"] =
          static_cast<double>(rotated) / static_cast<double>(head);
    const std::string type = file_.find_string(r + "scaling.type").value_or("linear");
    const auto original = file_.find_integer(r + "scaling.original_context_length");
    const double attention = shortest(file_.find_number(r + "scaling.attn_factor").value_or(1));
    const double factor =
        shortest(file_.find_number(r + "scaling.factor").value_or(file_.find_number(r + "scale_linear").value_or(1)));
    json recipe;
    if (file_.contains(kFactors) || file_.contains(kLongFactors)) {
      const bool one = file_.contains(kFactors);
      check((type == "none" || type == "linear" || type == "longrope") && factor == 1, kOp, file_.path(), ": ",
            one ? kFactors : kLongFactors, " beside ", r, "scaling.type ", type, " with the factor ", factor,
            " is not supported");
      recipe = {{"rope_type", "longrope"},
                {"long_factor", list(one ? kFactors : kLongFactors)},
                {"short_factor", list(one ? kFactors : kShortFactors)},
                {"factor", 1.0},
                {"attention_factor", attention}};
    } else if (type == "yarn") {
      recipe = {{"rope_type", type}, {"factor", factor}};
      if (attention != 1) recipe["attention_factor"] = attention * (1 + 0.1 * std::log(factor));
    } else {
      check(type == "none" || type == "linear", kOp, file_.path(), ": ", r, "scaling.type is \"", type,
            "\", expected none, linear or yarn");
      check(attention == 1, kOp, file_.path(), ": ", r, "scaling.attn_factor beside ", type, " is not supported");
      if (type == "linear" && factor != 1) recipe = {{"rope_type", type}, {"factor", factor}};
    }
    if (recipe.is_null()) return;
    if (original) recipe["original_max_position_embeddings"] = *original;
    j_["rope_scaling"] = recipe;
  }

  const GgufFile& file_;
  const Architecture& arch_;
  std::string a_;
  json j_ = json::object();
};

}  // namespace

ModelConfig read_gguf_config(const GgufFile& file) { return ConfigOfGguf(file).read(); }

std::unique_ptr<CausalLm> load_gguf_model(const GgufFile& file, const LoadOptions& options) {
  ModelConfig config = read_gguf_config(file);
  const Architecture& arch = gguf::architecture_named(file.text("general.architecture"));
  if (options.adjust) options.adjust(config);
  config.finish();
  std::set<std::string> left, new_parameters;  // CLEX's, which no file holds
  for (const auto& [name, entry] : file.entries()) left.insert(name);
  for (const char* name : {kFactors, kLongFactors, kShortFactors}) left.erase(name);
  for (const ParameterSpec& spec : make_rope_scaling(config.rope)->parameter_specs()) new_parameters.insert(spec.name);
  for (const ParameterSpec& spec : CausalLm::parameter_specs(config)) {  // before anything is allocated
    if (new_parameters.count(spec.name)) continue;
    const std::string name = gguf::name_of(config, spec.name);
    const auto it = file.entries().find(name);
    check(it != file.entries().end(), kOp, file.path(), ": the tensor '", name, "' is missing");
    check(it->second.shape == spec.shape, kOp, file.path(), ": '", name, "' must have shape ", spec.shape, ", got ",
          it->second.shape);
    left.erase(name);
  }
  check(left.empty(), kOp, file.path(), ": ", left.size(), " tensors have no place in the model, among them '",
        left.empty() ? "" : *left.begin(), "'");
  const auto seed = new_parameters.empty() ? std::nullopt : std::optional(options.seed);
  auto model = std::make_unique<CausalLm>(config, options.compute, options.device, seed, options.memory);
  const ParamArena& arena = model->arena();
  for (size_t i = 0; i < arena.size(); ++i) {
    const std::string& name = arena.segments()[i].spec.name;
    if (new_parameters.count(name)) continue;
    arena.set_values(i, gguf::from_file(config, arch, name, file.load(gguf::name_of(config, name))));
  }
  arena.refresh();
  return model;
}

}  // namespace rw
