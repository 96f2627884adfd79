// A folder with a random model over bytes, as `ropewalk train` would leave it: all that tests of the C API need.
#pragma once
#include <ropewalk.h>

#include <string>

#include "data/tokenizer.h"
#include "nn/io/hf.h"
#include "support.h"

/// A random model over bytes with a window of 64, in a folder of its own.
class SmallModel {
 public:
  SmallModel() {
    const auto tokenizer = rw::make_byte_tokenizer();
    rw::ModelConfig c;
    c.vocab_size = tokenizer->vocab_size() + 6;  // padded, as published models are
    c.hidden_size = 16, c.intermediate_size = 24, c.num_hidden_layers = 1, c.num_attention_heads = 2;
    c.initializer_range = 0.3;
    c.rope.max_position_embeddings = 64;
    save_hf(dir_.path(), rw::CausalLm(c, rw::DType::f32, rw::kCpu, 7));
    tokenizer->save(dir_.path());
  }
  std::string path(const std::string& name = "") const { return dir_.path(name); }

 private:
  test::TempDir dir_;
};

/// A model of the C API, on the CPU.
struct Loaded {
  ropewalk_model* model = nullptr;
  explicit Loaded(const std::string& path, const char* rope = nullptr) {
    const ropewalk_load_options options{sizeof options, nullptr, "cpu", rope};
    const ropewalk_status status = ropewalk_load(path.c_str(), &options, &model);
    CAPTURE(std::string(ropewalk_last_error()));
    REQUIRE(status == ROPEWALK_OK);
  }
  ~Loaded() { ropewalk_free(model); }
  Loaded(const Loaded&) = delete;
  Loaded& operator=(const Loaded&) = delete;
};

/// Whether the last error names `part`; prints it if not.
inline bool says(const std::string& part) {
  const bool found = std::string(ropewalk_last_error()).find(part) != std::string::npos;
  if (!found) MESSAGE("the error was: ", ropewalk_last_error());
  return found;
}
