// Models in and out of GGUF files.
#include "nn/io/gguf.h"

#include <algorithm>
#include <cmath>
#include <nlohmann/json.hpp>
#include <set>

#include "nn/families/family.h"
#include "nn/io/gguf_names.h"
#include "rope/kinds.h"

namespace rw {
namespace {

using gguf::Architecture;
using nlohmann::json;
constexpr const char* kOp = "gguf";
constexpr const char* kFactors = "rope_freqs.weight";
constexpr const char* kLongFactors = "rope_factors_long.weight";
constexpr const char* kShortFactors = "rope_factors_short.weight";

GgufValue count(int64_t n) { return GgufValue::u32(static_cast<uint32_t>(n)); }
GgufValue real(double x) { return GgufValue::f32(static_cast<float>(x)); }

/// What llama.cpp takes for granted and a config.json may state otherwise.
void check_structure(const ModelConfig& c) {
  const Family f = c.family;
  check(!c.head_bias, kOp, "llama.cpp has no bias of the output head for ", family_record(f).model_type);
  const double usual_scale = 1 / std::sqrt(static_cast<double>(c.head_dim));
  check(c.block.attention_scale == 0 || std::abs(c.block.attention_scale / usual_scale - 1) < 1e-6, kOp,
        "llama.cpp scales scores by 1 / sqrt(head_dim) here; query_pre_attn_scalar says otherwise");
  check(c.rope.partial_rotary_factor == 1 || f == Family::gpt_neox || f == Family::stablelm || f == Family::phi3, kOp,
        "llama.cpp rotates whole heads for ", family_record(f).model_type, "; partial_rotary_factor is ",
        c.rope.partial_rotary_factor);
  for (int64_t i = 0; i < c.num_hidden_layers; ++i) {
    const LayerDescription& layer = c.layer(i);
    const bool slides = f == Family::gemma2 ? i % 2 == 0 : f == Family::gemma3_text && (i + 1) % 6 != 0;
    const bool windowed = layer.window > 0 && layer.window < c.rope.max_position_embeddings;
    check(windowed == slides || (slides && layer.window > 0), kOp, "layer ", i, " has a window of ", layer.window,
          " tokens; llama.cpp gives this family ", slides ? "a window there" : "no window there");
    check(layer.rope == (f != Family::smollm3 || (i + 1) % 4 != 0), kOp,
          "no_rope_layers: llama.cpp leaves RoPE out of every "
          "fourth layer of smollm3 and of no other; layer ",
          i, " differs");
  }
  check(!c.local_rope || c.local_rope->kind.is<DefaultRope>(), kOp, "the sliding layers have the RoPE type ",
        c.local_rope ? c.local_rope->rope_type() : "", "; llama.cpp has plain RoPE there");
}

void put_sizes(const ModelConfig& c, const std::string& a, GgufMetadata& out) {
  out.emplace_back(a + ".block_count", count(c.num_hidden_layers));
  out.emplace_back(a + ".context_length", count(c.rope.extended_window()));
  out.emplace_back(a + ".embedding_length", count(c.hidden_size));
  out.emplace_back(a + ".feed_forward_length", count(c.intermediate_size));
  out.emplace_back(a + ".attention.head_count", count(c.num_attention_heads));
  out.emplace_back(a + ".attention.head_count_kv", count(c.num_key_value_heads));
  out.emplace_back(a + ".attention.key_length", count(c.head_dim));
  out.emplace_back(a + ".attention.value_length", count(c.head_dim));
  out.emplace_back(
      a + (c.block.norm == NormKind::rms ? ".attention.layer_norm_rms_epsilon" : ".attention.layer_norm_epsilon"),
      real(c.norm_eps));
  out.emplace_back(a + ".vocab_size", count(c.vocab_size));
  out.emplace_back(a + ".rope.dimension_count", count(c.rope.rotary_dim()));
  if (c.family == Family::gpt_neox || c.family == Family::stablelm)
    out.emplace_back(a + ".use_parallel_residual", GgufValue::boolean(c.block.parallel));
  if (c.block.soft_cap > 0) out.emplace_back(a + ".attn_logit_softcapping", real(c.block.soft_cap));
  if (c.logit_soft_cap > 0) out.emplace_back(a + ".final_logit_softcapping", real(c.logit_soft_cap));
  if (c.layer(0).window > 0) out.emplace_back(a + ".attention.sliding_window", count(c.layer(0).window));
}

GgufTensor factors(const char* name, const std::vector<double>& values) {
  return {name, Tensor::from(std::vector<float>(values.begin(), values.end())), GgmlType::f32};
}

/// The recipe as keys, and as tensors where it needs factors per dimension.
void put_rope(const ModelConfig& c, const Architecture& arch, GgufMetadata& out, std::vector<GgufTensor>& tensors) {
  const std::string a = std::string(arch.name) + ".rope.";
  const RopeConfig& rope = c.rope;
  check(rope.logn == LogN::none, kOp, "log-n attention (logn_scaling) has no place in GGUF");
  double base = rope.rope_theta;
  if (const AbfRope* abf = rope.kind.get<AbfRope>()) base = abf->base;
  if (const NtkRope* ntk = rope.kind.get<NtkRope>()) {
    const auto d = static_cast<double>(rope.rotary_dim());
    base *= std::pow(ntk->factor, d / (d - 2));
  }
  out.emplace_back(a + "freq_base", real(base));
  if (c.local_rope) out.emplace_back(a + "freq_base_swa", real(c.local_rope->rope_theta));
  if (rope.kind.is<DefaultRope>() || rope.kind.is<AbfRope>() || rope.kind.is<NtkRope>()) return;
  if (const LinearRope* linear = rope.kind.get<LinearRope>()) {
    out.emplace_back(a + "scaling.type", GgufValue::string("linear"));
    out.emplace_back(a + "scaling.factor", real(linear->factor));
    return;
  }
  const YarnRope* yarn = rope.kind.get<YarnRope>();
  YarnRope usual;
  if (yarn) usual.factor = yarn->factor;
  if (yarn && *yarn == usual) {
    out.emplace_back(a + "scaling.type", GgufValue::string("yarn"));
    out.emplace_back(a + "scaling.factor", real(yarn->factor));
    out.emplace_back(a + "scaling.original_context_length", count(rope.original_window()));
    return;
  }
  const auto source = make_rope_scaling(rope);
  const LongRope* longrope = rope.kind.get<LongRope>();
  const bool equal = longrope && longrope->short_factor == longrope->long_factor;
  if (longrope && c.family == Family::phi3) {
    out.emplace_back(a + "scaling.original_context_length", count(rope.original_window()));
    out.emplace_back(a + "scaling.attn_factor",
                     real(source->table({.length = rope.extended_window()}).attention_scale));
    tensors.push_back(factors(kLongFactors, longrope->long_factor));
    tensors.push_back(factors(kShortFactors, longrope->short_factor));
    return;
  }
  check(equal || !source->depends_on_length(), kOp, "the RoPE type ", rope.rope_type(),
        " chooses its frequencies by the length; freeze the model at a length first (ropewalk convert freeze)");
  check(arch.frequency_factors, kOp, "llama.cpp reads no frequency factors for the architecture ", arch.name,
        "; the RoPE type ", rope.rope_type(), " needs them");
  const RopeTable table = source->table({.length = rope.extended_window()});
  const std::vector<double> plain = base_inv_freq(rope), own = table.inv_freq.value().to_vector();  // [D/2]
  std::vector<double> divisors(plain.size());
  for (size_t i = 0; i < plain.size(); ++i) divisors[i] = plain[i] / own[i];
  if (table.attention_scale != 1) out.emplace_back(a + "scaling.attn_factor", real(table.attention_scale));
  tensors.push_back(factors(kFactors, divisors));
}

uint32_t file_type(GgmlType type) {
  switch (type) {
    case GgmlType::f32:
      return 0;
    case GgmlType::f16:
      return 1;
    case GgmlType::q8_0:
      return 7;
    case GgmlType::bf16:
      return 32;
  }
  return 0;
}

/// Matrices take the file's type, where their rows allow it; vectors stay f32.
GgmlType type_of(const Shape& shape, GgmlType type) {
  if (shape.rank() < 2) return GgmlType::f32;
  return type == GgmlType::q8_0 && shape[shape.rank() - 1] % 32 != 0 ? GgmlType::f16 : type;
}

}  // namespace

void save_gguf_model(const std::string& path, const CausalLm& model, GgmlType type, const GgufMetadata& more) {
  const ModelConfig& c = model.config();
  const Architecture& arch = gguf::architecture_of(c.family);
  check_structure(c);
  GgufMetadata out = {{"general.architecture", GgufValue::string(arch.name)},
                      {"general.type", GgufValue::string("model")},
                      {"general.file_type", GgufValue::u32(file_type(type))}};
  if (type == GgmlType::q8_0) out.emplace_back("general.quantization_version", GgufValue::u32(2));
  put_sizes(c, arch.name, out);
  std::vector<GgufTensor> tensors;
  put_rope(c, arch, out, tensors);
  out.insert(out.end(), more.begin(), more.end());
  const ParamArena& arena = model.arena();
  for (size_t i = 0; i < model.rope_parameters(); ++i) {
    const std::string& name = arena.segments()[i].spec.name;
    const Tensor values = gguf::to_file(c, arch, name, arena.values_of(i));
    tensors.push_back({gguf::name_of(c, name), values, type_of(values.shape(), type)});
  }
  save_gguf(path, out, tensors);
}

namespace {

/// The file's sizes as a config.json, which the family then reads and checks.
class ConfigOfGguf {
 public:
  explicit ConfigOfGguf(const GgufFile& file)
      : file_(file),
        arch_(gguf::architecture_named(file.text("general.architecture"))),
        a_(arch_.name + std::string(".")) {}

  ModelConfig read() {
    const FamilyRecord& record = family_record(arch_.family);
    j_["model_type"] = record.model_type;
    set(record.hidden_size, "embedding_length");
    set(record.intermediate_size, "feed_forward_length");
    set(record.num_hidden_layers, "block_count");
    set(record.num_attention_heads, "attention.head_count");
    set(record.max_position_embeddings, "context_length");
    check(file_.integer(a_ + "block_count") <= static_cast<int64_t>(file_.entries().size()), kOp, file_.path(), ": ",
          a_, "block_count is ", file_.integer(a_ + "block_count"), ", but there are only ", file_.entries().size(),
          " tensors");
    j_["vocab_size"] = vocabulary();
    j_["tie_word_embeddings"] = !file_.contains("output.weight");
    if (arch_.family != Family::gpt_neox) {
      j_["num_key_value_heads"] =
          file_.find_integer(a_ + "attention.head_count_kv").value_or(file_.integer(a_ + "attention.head_count"));
      if (const auto dim = file_.find_integer(a_ + "attention.key_length")) j_["head_dim"] = *dim;
    }
    family_fields();
    rope_fields();
    return model_config_from_json(j_.dump());
  }

 private:
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
    check(it == file_.entries().end() || it->second.shape.numel() <= 1 << 16, kOp, file_.path(), ": '", tensor,
          "' has more factors than a head can have dimensions");
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
    const std::string type = file_.find_string(r + "scaling.type").value_or("none");
    const auto original = file_.find_integer(r + "scaling.original_context_length");
    const double attention = shortest(file_.find_number(r + "scaling.attn_factor").value_or(1));
    json recipe;
    if (file_.contains(kFactors) || file_.contains(kLongFactors)) {
      const bool one = file_.contains(kFactors);
      recipe = {{"rope_type", "longrope"},
                {"long_factor", list(one ? kFactors : kLongFactors)},
                {"short_factor", list(one ? kFactors : kShortFactors)},
                {"factor", 1.0},
                {"attention_factor", attention}};
    } else if (type == "linear" || type == "yarn") {
      recipe = {{"rope_type", type}, {"factor", shortest(file_.number(r + "scaling.factor"))}};
      if (type == "yarn" && attention != 1)
        recipe["attention_factor"] = attention * (1 + 0.1 * std::log(recipe["factor"].get<double>()));
    } else {
      check(type == "none", kOp, file_.path(), ": ", r, "scaling.type is \"", type,
            "\", expected none, linear or yarn");
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

std::unique_ptr<CausalLm> load_gguf_model(const GgufFile& file, const GgufLoadOptions& options) {
  const ModelConfig config = read_gguf_config(file);
  const Architecture& arch = gguf::architecture_named(file.text("general.architecture"));
  std::set<std::string> left;
  for (const auto& [name, entry] : file.entries()) left.insert(name);
  for (const char* name : {kFactors, kLongFactors, kShortFactors}) left.erase(name);
  for (const ParameterSpec& spec : CausalLm::parameter_specs(config)) {  // before anything is allocated
    const std::string name = gguf::name_of(config, spec.name);
    const auto it = file.entries().find(name);
    check(it != file.entries().end(), kOp, file.path(), ": the tensor '", name, "' is missing");
    check(it->second.shape == spec.shape, kOp, file.path(), ": '", name, "' must have shape ", spec.shape, ", got ",
          it->second.shape);
    left.erase(name);
  }
  check(left.empty(), kOp, file.path(), ": ", left.size(), " tensors have no place in the model, among them '",
        left.empty() ? "" : *left.begin(), "'");
  auto model = std::make_unique<CausalLm>(config, options.compute, options.device, std::nullopt);
  const ParamArena& arena = model->arena();
  for (size_t i = 0; i < arena.size(); ++i) {
    const std::string& name = arena.segments()[i].spec.name;
    arena.set_values(i, gguf::from_file(config, arch, name, file.load(gguf::name_of(config, name))));
  }
  arena.refresh();
  return model;
}

}  // namespace rw
