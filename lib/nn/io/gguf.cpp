// Models into GGUF files.
#include "nn/io/gguf.h"

#include <cmath>

#include "nn/families/family.h"
#include "nn/io/gguf_names.h"
#include "rope/kinds.h"

namespace rw {
namespace {

using gguf::Architecture;
constexpr const char* kOp = "gguf";
using gguf::kFactors, gguf::kLongFactors, gguf::kShortFactors;

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

/// True if YaRN has nothing of its own but its factor and its attention scale.
bool is_usual(const YarnRope& yarn) {
  YarnRope plain = yarn, usual;
  usual.factor = yarn.factor;
  plain.attention_factor = usual.attention_factor;
  plain.mscale = usual.mscale, plain.mscale_all_dim = usual.mscale_all_dim;
  return plain == usual;
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
  if (rope.original_max_position_embeddings > 0)
    out.emplace_back(a + "scaling.original_context_length", count(rope.original_window()));
  if (rope.kind.is<DefaultRope>() || rope.kind.is<AbfRope>() || rope.kind.is<NtkRope>()) return;
  if (const LinearRope* linear = rope.kind.get<LinearRope>()) {
    out.emplace_back(a + "scaling.type", GgufValue::string("linear"));
    out.emplace_back(a + "scaling.factor", real(linear->factor));
    return;
  }
  const auto source = make_rope_scaling(rope);
  if (const YarnRope* yarn = rope.kind.get<YarnRope>(); yarn && is_usual(*yarn)) {
    out.emplace_back(a + "scaling.type", GgufValue::string("yarn"));
    out.emplace_back(a + "scaling.factor", real(yarn->factor));
    if (rope.original_max_position_embeddings <= 0)
      out.emplace_back(a + "scaling.original_context_length", count(rope.original_window()));
    const double scale = source->table({.length = rope.extended_window()}).attention_scale;
    const double usual_scale = 1 + 0.1 * std::log(yarn->factor);
    if (std::abs(scale / usual_scale - 1) > 1e-6)
      out.emplace_back(a + "scaling.attn_factor", real(scale / usual_scale));
    return;
  }
  check(!rope.kind.is<SelfExtendRope>() && !rope.kind.is<DcaRope>(), kOp, "the RoPE type ", rope.rope_type(),
        " rotates every token by several positions, for which GGUF has no place");
  const LongRope* longrope = rope.kind.get<LongRope>();
  check(!longrope || longrope->start_tokens.value_or(0) == 0, kOp,
        "longrope's start_tokens, first tokens without interpolation, has no place in GGUF");
  const bool equal = longrope && longrope->short_factor == longrope->long_factor;
  if (longrope && (c.family == Family::phi3 || (arch.frequency_factors && !equal))) {
    out.emplace_back(a + "scaling.type", GgufValue::string("longrope"));
    if (rope.original_max_position_embeddings <= 0)
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
  for (size_t i = 0; i < plain.size(); ++i) {
    check(own[i] > 0, kOp, "the RoPE type ", rope.rope_type(), " leaves pair ", i,
          " without rotation, which no frequency factor can state");
    divisors[i] = plain[i] / own[i];
  }
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
    if (arch.own_head && c.tie_word_embeddings && tensors.back().name == "token_embd.weight")
      tensors.push_back({"output.weight", values, tensors.back().type});
  }
  save_gguf(path, out, tensors);
}

}  // namespace rw
