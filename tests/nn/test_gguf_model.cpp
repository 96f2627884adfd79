// Models through GGUF files: what is written reads back to the same logits, and
// what llama.cpp fixes is refused by name.
#include <cmath>
#include <set>

#include "autograd/tape.h"
#include "families.h"
#include "nn/freeze.h"
#include "nn/io/gguf.h"
#include "rope/freeze.h"
#include "rope/kinds.h"

using namespace rw;

namespace {

/// logits [T,V] of a fixed text.
std::vector<double> logits_of(const CausalLm& model) {
  const NoGrad no_grad;
  std::vector<int32_t> ids;
  for (int32_t i = 0; i < 20; ++i) ids.push_back(3 + i * 7 % 50);
  const RopeAngles angles = model.angles(model.plain_positions(0, 20), {});
  return model.logits(model.forward(Tensor::from(ids, {1, 20}), angles)).value().to_vector();
}

double largest_difference(const std::vector<double>& a, const std::vector<double>& b) {
  REQUIRE(a.size() == b.size());
  double largest = 0, scale = 0;
  for (size_t i = 0; i < a.size(); ++i) {
    largest = std::max(largest, std::abs(a[i] - b[i]));
    scale = std::max(scale, std::abs(a[i]));
  }
  return largest / scale;
}

}  // namespace

TEST_CASE("every family that llama.cpp knows goes through a GGUF file and gives the same logits") {
  const test::TempDir dir;
  const std::string path = dir.path("model.gguf");
  std::set<std::string> refused;
  int64_t written = 0;
  for (const std::string& folder : test::family_folders()) {
    const std::string name = test::name_of_folder(folder);
    CAPTURE(name);
    const auto model = load_hf(folder);
    try {
      save_gguf_model(path, *model, GgmlType::f32);
    } catch (const Error& e) {
      refused.insert(name);
      CHECK(std::string(e.what()).find("llama.cpp") != std::string::npos);
      continue;
    }
    ++written;
    const auto again = load_gguf_model(GgufFile(path));
    CHECK(largest_difference(logits_of(*model), logits_of(*again)) < 1e-5);
    save_gguf_model(path, *model, GgmlType::q8_0);
    CHECK(largest_difference(logits_of(*model), logits_of(*load_gguf_model(GgufFile(path)))) < 0.2);
  }
  if (written + static_cast<int64_t>(refused.size()) == 0) return;
  CHECK(written > 0);
  for (const char* name : {"llama", "qwen2", "qwen3", "gpt_neox", "olmo2", "stablelm"}) CHECK(!refused.count(name));
}

TEST_CASE("RoPE recipes go through a GGUF file: by name, as a base, or as factors per dimension") {
  const test::TempDir dir;
  const std::string path = dir.path("model.gguf");
  ModelConfig config;
  config.vocab_size = 96, config.hidden_size = 32, config.intermediate_size = 64, config.num_hidden_layers = 2;
  config.num_attention_heads = 2, config.rope.max_position_embeddings = 64;
  for (const RopeKind& kind : {RopeKind(LinearRope{.factor = 4}), RopeKind(NtkRope{.factor = 4}),
                               RopeKind(AbfRope{.base = 5e5}), RopeKind(Llama3Rope{.factor = 8}), rope_kind("yarn")}) {
    CAPTURE(kind.name());
    ModelConfig extended = config;
    extended.rope.kind = kind;
    if (auto* yarn = extended.rope.kind.get<YarnRope>()) yarn->factor = 4;
    extended.rope.original_max_position_embeddings = 64, extended.rope.max_position_embeddings = 256;
    const CausalLm model(extended, DType::f32, kCpu, 1);
    save_gguf_model(path, model, GgmlType::f32);
    CHECK(largest_difference(logits_of(model), logits_of(*load_gguf_model(GgufFile(path)))) < 1e-5);
  }
  config.rope.kind = DynamicRope{.factor = 2};
  const CausalLm model(config, DType::f32, kCpu, 1);
  CHECK_THROWS_WITH_AS(save_gguf_model(path, model, GgmlType::f32),
                       doctest::Contains("chooses its frequencies by the length"), Error);
}

TEST_CASE("weights that were written as F32 come back bit for bit, but for Gemma's norms") {
  const test::TempDir dir;
  const std::string path = dir.path("model.gguf");
  for (const std::string& folder : test::family_folders()) {
    CAPTURE(folder);
    const auto model = load_hf(folder);
    try {
      save_gguf_model(path, *model, GgmlType::f32);
    } catch (const Error&) {
      continue;  // a family or a window that llama.cpp does not have
    }
    const auto again = load_gguf_model(GgufFile(path));
    const ParamArena &a = model->arena(), &b = again->arena();
    for (size_t i = 0; i < a.size(); ++i) {
      const std::string& name = a.segments()[i].spec.name;
      CAPTURE(name);
      const bool offset = model->config().block.norm_weight_offset != 0 && name.find("norm") != std::string::npos;
      for (size_t k = 0; k < b.size(); ++k) {
        if (b.segments()[k].spec.name != name) continue;
        const double difference = test::relative_error(b.values_of(k), a.values_of(i));
        if (offset) CHECK(difference < 1e-6);
        else CHECK(difference == 0);
      }
    }
  }
}

TEST_CASE("LongRoPE with two lists, and YaRN with an attention factor of its own, are written by name") {
  const test::TempDir dir;
  const std::string path = dir.path("model.gguf");
  ModelConfig config;
  config.vocab_size = 96, config.hidden_size = 32, config.intermediate_size = 64, config.num_hidden_layers = 2;
  config.num_attention_heads = 2, config.rope.max_position_embeddings = 64;
  config.rope.original_max_position_embeddings = 16;
  LongRope lists;
  for (int i = 0; i < 8; ++i) lists.short_factor.push_back(1 + 0.1 * i), lists.long_factor.push_back(1 + 0.5 * i);
  lists.factor = 4;
  config.rope.kind = lists;
  save_gguf_model(path, CausalLm(config, DType::f32, kCpu, 1), GgmlType::f32);
  const GgufFile file(path);
  CHECK(file.text("llama.rope.scaling.type") == "longrope");
  CHECK(file.integer("llama.rope.scaling.original_context_length") == 16);
  CHECK(file.load("rope_factors_long.weight").to_vector().back() == doctest::Approx(4.5));
  const auto again = load_gguf_model(file);
  CHECK(largest_difference(logits_of(CausalLm(config, DType::f32, kCpu, 1)), logits_of(*again)) < 1e-5);

  config.family = Family::qwen2;
  config.block.qkv_bias = true;
  config.rope.kind = YarnRope{.factor = 4, .attention_factor = 1.5};
  const CausalLm yarn(config, DType::f32, kCpu, 1);
  save_gguf_model(path, yarn, GgmlType::f32);
  CHECK(GgufFile(path).text("qwen2.rope.scaling.type") == "yarn");
  CHECK(largest_difference(logits_of(yarn), logits_of(*load_gguf_model(GgufFile(path)))) < 1e-5);
  config.rope.kind = YarnRope{.factor = 4, .beta_fast = 16};
  CHECK_THROWS_WITH_AS(save_gguf_model(path, CausalLm(config, DType::f32, kCpu, 1), GgmlType::f32),
                       doctest::Contains("no frequency factors for the architecture qwen2"), Error);
}

TEST_CASE("a GGUF file that states more than this library knows is refused by the key") {
  const test::TempDir dir;
  const std::string path = dir.path("model.gguf");
  ModelConfig config;
  config.vocab_size = 96, config.hidden_size = 32, config.intermediate_size = 64, config.num_hidden_layers = 1;
  config.num_attention_heads = 2, config.rope.max_position_embeddings = 64;
  const CausalLm model(config, DType::f32, kCpu, 1);
  const auto refused = [&](const std::string& key, const GgufValue& value) {
    save_gguf_model(path, model, GgmlType::f32, {{key, value}});
    return test::error_of([&] { load_gguf_model(GgufFile(path)); });
  };
  CHECK(refused("llama.expert_count", GgufValue::u32(8)).find("'llama.expert_count' is not supported") !=
        std::string::npos);
  CHECK(refused("llama.rope.scaling.type", GgufValue::string("su")).find("\"su\", expected none") != std::string::npos);
  save_gguf_model(path, model, GgmlType::bf16, {{"tokenizer.ggml.eos_token_id", GgufValue::u32(7)}});
  const auto again = load_gguf_model(GgufFile(path));
  CHECK(again->config().eos_token_id == std::vector<int64_t>{7});
  CHECK(again->config().file_dtype == DType::bf16);
}

TEST_CASE("a frozen recipe has at every length the table that the original has at one") {
  for (const char* name : {"linear", "ntk", "dynamic", "dynamic_linear", "yarn", "llama3", "e2"}) {
    CAPTURE(name);
    RopeConfig config{.head_dim = 16, .max_position_embeddings = 64, .kind = rope_kind(name)};
    if (config.kind.find("factor")) config.kind.set("factor", "4");
    const auto original = make_rope_scaling(config);
    const auto frozen = make_rope_scaling(freeze_rope(*original, 200));
    const RopeTable want = original->table({.length = 200});
    for (const int64_t length : {1, 64, 200, 1000}) {
      const RopeTable got = frozen->table({.length = length});
      CHECK(got.attention_scale == doctest::Approx(want.attention_scale).epsilon(1e-12));
      const std::vector<double> a = got.inv_freq.value().to_vector(), b = want.inv_freq.value().to_vector();
      for (size_t i = 0; i < a.size(); ++i) CHECK(a[i] == doctest::Approx(b[i]).epsilon(1e-12));
    }
  }
  RopeConfig logn{.head_dim = 16, .max_position_embeddings = 64, .logn = LogN::position};
  const auto scaling = make_rope_scaling(logn);
  CHECK_THROWS_WITH_AS(freeze_rope(*scaling, 200), doctest::Contains("log-n"), Error);
}

TEST_CASE("a frozen model gives the original's logits at its length, also what CLEX has learned") {
  ModelConfig config;
  config.vocab_size = 96, config.hidden_size = 32, config.intermediate_size = 64, config.num_hidden_layers = 2;
  config.num_attention_heads = 2, config.rope.max_position_embeddings = 8;
  for (const char* name : {"clex", "e2", "dynamic"}) {
    CAPTURE(name);
    config.rope.kind = rope_kind(name);
    const CausalLm model(config, DType::f32, kCpu, 1);
    const auto frozen = freeze_model(model, 20);
    CHECK(frozen->config().rope.rope_type() == "longrope");
    CHECK(largest_difference(logits_of(model), logits_of(*frozen)) < 1e-6);
  }
}
