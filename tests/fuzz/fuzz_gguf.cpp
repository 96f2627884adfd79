// A GGUF file: all its keys and tensors, and the model that they describe.
#include <filesystem>

#include "fuzz.h"
#include "nn/io/gguf.h"
#include "rope/kinds/default.h"
#include "rope/kinds/linear.h"
#include "rope/kinds/llama3.h"
#include "tensor/file.h"

void fuzz_one(std::string_view input) {
  const rw::GgufFile file(fuzz::file("x.gguf", input));
  for (const auto& [key, value] : file.metadata()) {
    for (const auto read : {+[](const rw::GgufFile&f, const std::string&k) { f.find_integer(k); },
                            +[](const rw::GgufFile&f, const std::string&k) { f.find_number(k); },
                            +[](const rw::GgufFile&f, const std::string&k) { f.find_boolean(k); },
                            +[](const rw::GgufFile&f, const std::string&k) { f.find_string(k); }}) {
      try {
        read(file, key);
      } catch (const rw::Error&) {
      }
    }
  }
  for (const auto& [name, entry] : file.entries()) {
    try {
      file.load(name);
    } catch (const rw::OutOfMemory&) {
      throw;
    } catch (const rw::Error&) {
    }
  }
  rw::load_gguf_model(file);
}

std::vector<std::string> fuzz_seeds() {
  const std::string place = fuzz::file("seed.gguf", "");
  std::vector<std::string> seeds;
  const auto add = [&](rw::GgmlType type, const rw::RopeKind& kind) {
    rw::ModelConfig c;
    c.vocab_size = 6, c.hidden_size = 4, c.intermediate_size = 4, c.num_hidden_layers = 1, c.num_attention_heads = 1;
    c.rope.max_position_embeddings = 8;
    c.rope.kind = kind;
    const rw::CausalLm model(c, rw::DType::f32, rw::kCpu, 1);
    std::filesystem::remove(place);
    rw::save_gguf_model(place, model, type,
                        {{"general.name", rw::GgufValue::string("seed")},
                         {"tokenizer.ggml.tokens", rw::GgufValue::string_list({"a", "b", "", "c", "d", "e"})},
                         {"tokenizer.ggml.scores", rw::GgufValue::f32s({0, 1, 2, 3, 4, 5})}});
    seeds.push_back(rw::read_file(place));
  };
  add(rw::GgmlType::f32, rw::DefaultRope{});
  add(rw::GgmlType::f16, rw::LinearRope{.factor = 2});
  add(rw::GgmlType::bf16, rw::Llama3Rope{});
  // Q8_0: blocks of 32
  rw::save_gguf(place, {{"general.alignment", rw::GgufValue::u32(64)}},
                {{"w", rw::Tensor::zeros({2, 32}), rw::GgmlType::q8_0}});
  seeds.push_back(rw::read_file(place));
  return seeds;
}
