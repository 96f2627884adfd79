// Names and row orders of parameters in GGUF files.
#include "nn/io/gguf_names.h"

#include <algorithm>

#include "nn/families/family.h"

namespace rw::gguf {
namespace {

constexpr const char* kOp = "gguf";

constexpr Architecture kArchitectures[] = {
    {Family::llama, "llama", true, true, false},          {Family::mistral, "llama", true, true, false},
    {Family::qwen2, "qwen2", false, false, false},        {Family::qwen3, "qwen3", false, false, false},
    {Family::gpt_neox, "gptneox", false, false, true},    {Family::phi3, "phi3", false, false, false},
    {Family::olmo2, "olmo2", false, false, true},         {Family::smollm3, "smollm3", true, false, false},
    {Family::stablelm, "stablelm", false, false, true},   {Family::gemma2, "gemma2", false, false, false},
    {Family::gemma3_text, "gemma3", false, false, false},
};

/// Splits ".weight" or ".bias" off.
std::pair<std::string, std::string> split(const std::string& parameter) {
  const size_t dot = parameter.rfind('.');
  return {parameter.substr(0, dot), dot == std::string::npos ? "" : parameter.substr(dot)};
}

std::string in_block(const ParameterNames& n, const std::string& name) {
  if (!n.attention_norm.empty() && name == n.attention_norm) return "attn_norm";
  if (!n.attention_out_norm.empty() && name == n.attention_out_norm) return "post_attention_norm";
  if (!n.mlp_norm.empty() && name == n.mlp_norm) return "ffn_norm";
  if (!n.mlp_out_norm.empty() && name == n.mlp_out_norm) return "post_ffw_norm";
  static constexpr const char* kQkv[] = {"attn_q", "attn_k", "attn_v"};
  for (size_t i = 0; i < n.qkv.size(); ++i) {
    if (name == n.qkv[i]) return n.qkv.size() == 1 ? "attn_qkv" : kQkv[i];
  }
  if (name == n.o) return "attn_output";
  if (name == n.q_norm) return "attn_q_norm";
  if (name == n.k_norm) return "attn_k_norm";
  for (size_t i = 0; i < n.gate_up.size(); ++i) {
    if (name == n.gate_up[i]) return n.gate_up.size() == 2 && i == 0 ? "ffn_gate" : "ffn_up";
  }
  if (name == n.down) return "ffn_down";
  return "";
}

bool is_norm(const ModelConfig& c, const std::string& parameter) {
  const std::string name = split(name_of(c, parameter)).first;
  return name.ends_with("_norm");
}

/// Heads whose rows are reordered: those of q or of k; 0 for any other parameter.
int64_t rotated_heads(const ModelConfig& c, const std::string& parameter) {
  const std::string name = split(name_of(c, parameter)).first;
  if (name.ends_with(".attn_q")) return c.num_attention_heads;
  if (name.ends_with(".attn_k")) return c.num_key_value_heads;
  return 0;
}

/// Moves row i of a head's first half to 2i and row i of its second half to 2i + 1, or back.
Tensor reorder(const Tensor& values, int64_t heads, int64_t head_dim, bool to_interleaved) {
  const Tensor host = values.to(kCpu).to(DType::f32);
  const Tensor out = Tensor::empty(host.shape());
  const int64_t width = host.numel() / (heads * head_dim), half = head_dim / 2;
  for (int64_t h = 0; h < heads; ++h) {
    for (int64_t i = 0; i < head_dim; ++i) {
      const int64_t apart = h * head_dim + i, beside = h * head_dim + 2 * (i % half) + i / half;
      const int64_t from = to_interleaved ? apart : beside, to = to_interleaved ? beside : apart;
      std::copy_n(host.data<float>() + from * width, width, out.data<float>() + to * width);
    }
  }
  return out;
}

Tensor plus(const Tensor& values, double offset) {
  const Tensor out = values.to(kCpu).to(DType::f32).clone();
  for (int64_t i = 0; i < out.numel(); ++i) out.data<float>()[i] += static_cast<float>(offset);
  return out;
}

}  // namespace

const Architecture& architecture_of(Family family) {
  for (const Architecture& a : kArchitectures) {
    if (a.family == family) return a;
  }
  fail(kOp, "llama.cpp has no architecture for the family ", family_record(family).model_type);
}

const Architecture& architecture_named(const std::string& name) {
  std::string known;
  for (const Architecture& a : kArchitectures) {
    if (name == a.name) return a;
    known += cat(known.empty() ? "" : ", ", a.name);
  }
  fail(kOp, "general.architecture is \"", name, "\", expected one of ", known);
}

std::string name_of(const ModelConfig& config, const std::string& parameter) {
  const ParameterNames& n = family_record(config.family).names;
  const auto [name, kind] = split(parameter);
  if (name == n.embedding) return "token_embd" + kind;
  if (name == n.final_norm) return "output_norm" + kind;
  if (name == n.head) return "output" + kind;
  if (name.starts_with(n.layers + ".")) {
    const std::string rest = name.substr(n.layers.size() + 1);
    const size_t dot = rest.find('.');
    const std::string inside = dot == std::string::npos ? "" : in_block(n, rest.substr(dot + 1));
    if (!inside.empty()) return "blk." + rest.substr(0, dot) + "." + inside + kind;
  }
  fail(kOp, "the parameter '", parameter, "' has no name in GGUF");
}

Tensor to_file(const ModelConfig& c, const Architecture& a, const std::string& parameter, const Tensor& values) {
  const bool turn = a.interleaved != (c.rope_layout == RopeLayout::interleaved);
  if (const int64_t heads = rotated_heads(c, parameter); heads > 0 && turn)
    return reorder(values, heads, c.head_dim, a.interleaved);
  if (c.block.norm_weight_offset != 0 && is_norm(c, parameter)) return plus(values, c.block.norm_weight_offset);
  return values;
}

Tensor from_file(const ModelConfig& c, const Architecture& a, const std::string& parameter, const Tensor& values) {
  const bool turn = a.interleaved != (c.rope_layout == RopeLayout::interleaved);
  if (const int64_t heads = rotated_heads(c, parameter); heads > 0 && turn)
    return reorder(values, heads, c.head_dim, !a.interleaved);
  if (c.block.norm_weight_offset != 0 && is_norm(c, parameter)) return plus(values, -c.block.norm_weight_offset);
  return values;
}

}  // namespace rw::gguf
