// A checkpoint's trainer_state.json beside whole weights, up to the restored model. Checksums are put right first, so that
// what lies behind them is reached.
#include <filesystem>
#include <nlohmann/json.hpp>

#include "fuzz.h"
#include "nn/io/checkpoint.h"

namespace fs = std::filesystem;
using nlohmann::json;

namespace {

struct Run {
  std::string out, state;
  std::unique_ptr<rw::CausalLm> model;
  std::unique_ptr<rw::AdamW> optimizer;

  Run() {
    const std::string file = fuzz::file("place", "");
    out = file.substr(0, file.rfind('/')) + "/run";
    rw::ModelConfig c;
    c.vocab_size = 7, c.hidden_size = 4, c.intermediate_size = 4, c.num_hidden_layers = 1, c.num_attention_heads = 1;
    c.rope.max_position_embeddings = 8;
    c.finish();
    model = std::make_unique<rw::CausalLm>(c, rw::DType::f32, rw::kCpu, 1);
    optimizer = std::make_unique<rw::AdamW>(model->arena(), rw::AdamWConfig{});
    const std::string folder =
        rw::save_checkpoint(out, *model, *optimizer, {.step = 3, .tokens = 9, .seed = 1, .recipe = {{"a", "b"}}}, 0);
    state = folder + "/trainer_state.json";
  }
};

const Run& run() {
  static const Run r;
  return r;
}

}  // namespace

void fuzz_one(std::string_view input) {
  const std::string folder = run().state.substr(0, run().state.rfind('/'));
  json state = json::parse(input, nullptr, false);
  std::string text(input);
  if (state.is_object()) {
    state.erase("fnv1a");
    const std::string rest = state.dump(-1, ' ', false, json::error_handler_t::replace);
    state["fnv1a"] = rw::file_checksum(fuzz::file("rest", rest));
    text = state.dump(1, ' ', false, json::error_handler_t::replace);
  }
  fs::remove(run().state);
  fs::copy_file(fuzz::file("state", text), run().state);
  rw::latest_checkpoint(run().out);
  rw::load_checkpoint(folder, *run().model, *run().optimizer);
}

std::vector<std::string> fuzz_seeds() {
  const std::string whole = rw::read_file(run().state);
  std::vector<std::string> seeds = {whole};
  for (const auto& [from, to] : {std::pair{"\"step\": 3", "\"step\": \"3\""},
                                 {"\"recipe\": {", "\"recipe\": {\"c\": [],"},
                                 {"\"tokens\": 9", "\"tokens\": 1e400"},
                                 {"\"bytes\": ", "\"bytes\": -"}}) {
    std::string changed = whole;
    if (const size_t at = changed.find(from); at != std::string::npos) {
      seeds.push_back(changed.replace(at, std::string(from).size(), to));
    }
  }
  return seeds;
}
