// A GGUF file: header and metadata, every tensor, the config and the tokenizer that it states, and the model itself.
#include "data/tokenizer_gguf.h"
#include "fuzz.h"
#include "nn/io/gguf.h"
#include "rope/kinds.h"
#include "tensor/file.h"

namespace {

/// Runs `f`; what the library reports is an answer, memory beyond the limit is not.
template <class F>
void answered(F f) {
  try {
    f();
  } catch (const rw::OutOfMemory&) {
    throw;
  } catch (const rw::Error&) {
  }
}

/// A model of few weights: most of the file is metadata.
std::string model_file(const rw::ModelConfig& config, const rw::Tokenizer& tokenizer, rw::GgmlType type) {
  const std::string path = fuzz::file("seed.gguf", "");
  const rw::CausalLm model(config, rw::DType::f32, rw::kCpu, 1);
  rw::save_gguf_model(path, model, type, rw::gguf_tokenizer(tokenizer, config.vocab_size));
  return rw::read_file(path);
}

}  // namespace

void fuzz_one(std::string_view input) {
  const rw::GgufFile file(fuzz::file("x.gguf", input));
  for (const auto& entry : file.entries())  // clang 14 cannot capture a structured binding
    answered([&] { file.load(entry.first); });
  answered([&] {
    const auto tokenizer = rw::load_gguf_tokenizer(file);
    tokenizer->decode(tokenizer->encode_template("a <s> b\xFF"));
  });
  answered([&] { rw::load_gguf_model(file); });
}

std::vector<std::string> fuzz_seeds() {
  using rw::GgufValue;
  std::vector<std::string> seeds;
  rw::ModelConfig config;
  config.vocab_size = 260, config.hidden_size = 4, config.intermediate_size = 4, config.num_hidden_layers = 1;
  config.num_attention_heads = 2, config.rope.max_position_embeddings = 16;
  seeds.push_back(model_file(config, *rw::make_byte_tokenizer(), rw::GgmlType::f16));
  config.family = rw::Family::qwen2;
  config.block.qkv_bias = true;
  config.rope.kind = rw::YarnRope{.factor = 4};
  config.vocab_size = 512;
  const auto pieces = rw::load_tokenizer(std::string(ROPEWALK_TEST_DATA) + "/tokenizers/tok512.bin");
  seeds.push_back(model_file(config, *pieces, rw::GgmlType::bf16));
  const std::string path = fuzz::file("seed.gguf", "");
  rw::save_gguf(path,
                {{"general.architecture", GgufValue::string("llama")},
                 {"tokenizer.ggml.model", GgufValue::string("gpt2")},
                 {"tokenizer.ggml.tokens", GgufValue::string_list({"a", "b", ""})},
                 {"tokenizer.ggml.merges", GgufValue::string_list({"a b"})},
                 {"numbers", GgufValue::f32s({1, 2})},
                 {"flag", GgufValue::boolean(true)}},
                {{"q", rw::Tensor::full({2, 32}, 0.5), rw::GgmlType::q8_0},
                 {"h", rw::Tensor::full({3}, 0.5), rw::GgmlType::f16},
                 {"b", rw::Tensor::full({2, 2}, 0.5), rw::GgmlType::bf16}});
  seeds.push_back(rw::read_file(path));
  return seeds;
}
