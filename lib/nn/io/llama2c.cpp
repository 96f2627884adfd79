// The reader of llama2.c's files of version 0.
#include "nn/io/llama2c.h"

#include <cmath>
#include <map>

#include "nn/io/hf.h"
#include "tensor/file.h"

namespace rw {
namespace {

Tensor permute_rows(const Tensor& weight, int64_t heads, bool to_half) {
  check(weight.rank() == 2 && heads > 0 && weight.size(0) % (2 * heads) == 0, "permute", "weight must have shape [",
        heads, " * D, C], got ", weight.shape());
  const int64_t d = weight.size(0) / heads;
  const Tensor out = Tensor::empty_like(weight);
  for (int64_t h = 0; h < heads; ++h) {
    for (int64_t i = 0; i < d / 2; ++i) {
      for (int64_t e = 0; e < 2; ++e) {
        const int64_t interleaved = h * d + 2 * i + e, half = h * d + e * d / 2 + i;
        out.slice(to_half ? half : interleaved, (to_half ? half : interleaved) + 1)
            .copy_from(weight.slice(to_half ? interleaved : half, (to_half ? interleaved : half) + 1));
      }
    }
  }
  return out;
}

/// Takes consecutive f32 tensors out of a file.
class Reader {
 public:
  Reader(const FileReader& file, int64_t at) : file_(file), at_(at) {}
  Tensor take(Shape shape) {
    const int64_t bytes = shape.numel() * 4;
    check(bytes <= left(), "llama2c", file_.path(), ": truncated: ", file_.size(), " bytes, ", at_ + bytes,
          " needed so far");
    Tensor t = Tensor::empty(shape);
    file_.read(at_, t.raw(), bytes);
    at_ += bytes;
    return t;
  }
  int64_t left() const { return file_.size() - at_; }

 private:
  const FileReader& file_;
  int64_t at_;
};

}  // namespace

Tensor interleaved_to_half(const Tensor& weight, int64_t heads) { return permute_rows(weight, heads, true); }
Tensor half_to_interleaved(const Tensor& weight, int64_t heads) { return permute_rows(weight, heads, false); }

std::unique_ptr<CausalLm> load_llama2c(const std::string& path, DType compute, Device device, bool keep_interleaved) {
  const FileReader file(path);
  check(file.size() >= 28, "llama2c", path, ": ", file.size(), " bytes is too short for the header of 28");
  int32_t header[7];
  file.read(0, header, 28);
  const auto sane = [&](int i, const char* name, int64_t low) {
    const int64_t value = i == 5 ? std::abs(int64_t{header[i]}) : header[i];
    check(value >= low && value <= 1 << 24, "llama2c", path, ": header says ", name, " = ", header[i],
          "; not a llama2.c checkpoint of version 0");
    return value;
  };
  ModelConfig c;
  c.hidden_size = sane(0, "dim", 1);
  c.intermediate_size = sane(1, "hidden_dim", 1);
  c.num_hidden_layers = sane(2, "n_layers", 1);
  c.num_attention_heads = sane(3, "n_heads", 1);
  c.num_key_value_heads = sane(4, "n_kv_heads", 1);
  c.vocab_size = sane(5, "vocab_size", 1);
  c.rope.max_position_embeddings = sane(6, "seq_len", 1);
  c.tie_word_embeddings = header[5] > 0;
  c.norm_eps = 1e-5;
  c.bos_token_id = {1};
  c.eos_token_id = {2};
  c.rope_layout = keep_interleaved ? RopeLayout::interleaved : RopeLayout::half;
  // Before anything is allocated: the embedding alone must fit in the file, so a garbled header cannot ask for more.
  check(c.vocab_size * c.hidden_size * 4 <= file.size() && c.num_hidden_layers * c.hidden_size * 4 <= file.size() &&
            c.num_hidden_layers * c.hidden_size * c.intermediate_size <= file.size(),
        "llama2c", path, ": truncated: ", file.size(), " bytes cannot hold the model that the header describes");
  c.finish();

  Reader reader(file, 28);
  const int64_t layers = c.num_hidden_layers, dim = c.hidden_size, ffn = c.intermediate_size;
  const int64_t q_rows = c.num_attention_heads * c.head_dim, kv_rows = c.num_key_value_heads * c.head_dim;
  std::map<std::string, Tensor> stacks;  // HF name with "*" for the layer -> [layers, rows, columns]
  const auto stack = [&](const std::string& name, int64_t rows, int64_t columns) {
    stacks[name] = reader.take({layers, rows, columns});
  };
  std::map<std::string, Tensor> singles;
  singles["model.embed_tokens.weight"] = reader.take({c.vocab_size, dim});
  stack("input_layernorm.weight", 1, dim);
  stack("self_attn.q_proj.weight", q_rows, dim);
  stack("self_attn.k_proj.weight", kv_rows, dim);
  stack("self_attn.v_proj.weight", kv_rows, dim);
  stack("self_attn.o_proj.weight", dim, q_rows);
  stack("post_attention_layernorm.weight", 1, dim);
  stack("mlp.gate_proj.weight", ffn, dim);
  stack("mlp.down_proj.weight", dim, ffn);
  stack("mlp.up_proj.weight", ffn, dim);
  singles["model.norm.weight"] = reader.take({dim});
  reader.take({2, c.rope.max_position_embeddings, c.head_dim / 2});  // cos and sin tables of the original: not needed
  if (!c.tie_word_embeddings) singles["lm_head.weight"] = reader.take({c.vocab_size, dim});
  check(reader.left() == 0, "llama2c", path, ": ", reader.left(), " bytes are left over after the weights");

  auto model = std::make_unique<CausalLm>(c, compute, device, std::nullopt);
  assign_weights(*model, [&](const std::string& name) {
    if (const auto it = singles.find(name); it != singles.end()) return it->second;
    const std::string rest = name.substr(std::string("model.layers.").size());
    const int64_t layer = std::stoll(rest);
    const std::string key = rest.substr(rest.find('.') + 1);
    const Tensor all = stacks.at(key);
    Tensor t = all.slice(layer, layer + 1);
    t = all.size(1) == 1 ? t.view({all.size(2)}) : t.view({all.size(1), all.size(2)});
    if (keep_interleaved) return t;
    if (key == "self_attn.q_proj.weight") return interleaved_to_half(t, c.num_attention_heads);
    if (key == "self_attn.k_proj.weight") return interleaved_to_half(t, c.num_key_value_heads);
    return t;
  });
  return model;
}

}  // namespace rw
