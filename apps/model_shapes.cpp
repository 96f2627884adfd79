// The named model shapes of `bench` and `profile`.
#include "model_shapes.h"

#include "tensor/error.h"
#include "tensor/random.h"

using namespace rw;

namespace {

constexpr ModelShape kShapes[] = {
    {"S", 288, 6, 6, 6, 768, true, 256, 512},         {"S-small", 288, 6, 6, 6, 768, true, 256, 32},
    {"M", 768, 12, 12, 12, 2048, true, 1024, 64},     {"M-8k", 768, 12, 12, 12, 2048, true, 8192, 4},
    {"M-32k", 768, 12, 12, 12, 2048, true, 32768, 4}, {"M-128k", 768, 12, 12, 12, 2048, true, 131072, 1, true},
    {"L", 2048, 22, 32, 4, 5632, false, 2048, 16},    {"X", 4096, 32, 32, 32, 11008, false, 2048, 2, false, true}};

}  // namespace

int64_t ModelShape::parameters(int64_t vocab) const {
  const int64_t block = 2 * hidden * hidden + 2 * hidden * kv_heads * head_dim() + 3 * hidden * ffn + 2 * hidden;
  return (tied ? 1 : 2) * vocab * hidden + layers * block + hidden;
}

ModelConfig ModelShape::config(int64_t vocab) const {
  const std::string of = family;
  if (of != "llama") {
    return model_config_from_json(
        cat(R"({"model_type":")", of, R"(","vocab_size":)", vocab, R"(,"hidden_size":)", hidden,
            R"(,"intermediate_size":)", of == "gpt_neox" ? ffn * 3 / 2 : ffn, R"(,"num_hidden_layers":)", layers,
            R"(,"num_attention_heads":)", heads, of == "gpt_neox" ? "" : cat(R"(,"num_key_value_heads":)", kv_heads),
            of == "gpt_neox" ? "" : cat(R"(,"head_dim":)", head_dim()), R"(,"tie_word_embeddings":)",
            tied ? "true" : "false", R"(,"max_position_embeddings":)", window, "}"));
  }
  ModelConfig c;
  c.vocab_size = vocab, c.hidden_size = hidden, c.intermediate_size = ffn, c.num_hidden_layers = layers;
  c.num_attention_heads = heads, c.num_key_value_heads = kv_heads, c.tie_word_embeddings = tied;
  c.rope.max_position_embeddings = window;
  return c;
}

double ModelShape::training_flops_per_token(int64_t vocab) const {
  const int64_t multiplied = parameters(vocab) - (tied ? 0 : vocab * hidden);
  return 6 * static_cast<double>(multiplied) + 6 * static_cast<double>(layers * window * hidden);
}

std::span<const ModelShape> model_shapes() { return kShapes; }

const ModelShape& model_shape(const char* op, const std::string& name) {
  for (const ModelShape& s : kShapes) {
    if (name == s.name) return s;
  }
  fail(op, "no model shape '", name, "': ", model_shape_names());
}

std::string model_shape_names() {
  std::string all;
  for (const ModelShape& s : kShapes) all += (all.empty() ? "" : ", ") + std::string(s.name);
  return all;
}

Tensor random_ids(int64_t batch, int64_t length, int64_t vocab, uint64_t seed) {
  Random random(seed, Purpose::test);
  std::vector<int32_t> ids(static_cast<size_t>(batch * length));
  for (int32_t& id : ids) id = static_cast<int32_t>(random.below(vocab));
  return Tensor::from(ids, {batch, length});
}
