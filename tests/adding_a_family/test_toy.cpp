// The worked example of docs/adding-a-family.md, built with the page's diff applied to the library's lists, and the page
// compared with it.
#include "autograd/tape.h"
#include "nn/causal_lm.h"
#include "nn/decoder.h"
#include "nn/io/hf.h"
#include "support.h"
#include "tensor/file.h"
#include "tensor/safetensors.h"

using namespace rw;

namespace {

const char* kConfig =
    R"({"model_type": "toy", "vocab_size": 40, "hidden_size": 32, "intermediate_size": 48, "num_hidden_layers": 2,
        "num_attention_heads": 4, "num_kv_heads": 2, "max_position_embeddings": 64, "activation": "gelu_new",
        "rope_scaling": {"rope_type": "linear", "factor": 2.0}, "hobby": "knots"})";

Tensor logits_of(const CausalLm& model, const Tensor& ids) {
  const NoGrad no_grad;
  return model.logits(model.forward(ids, model.angles(model.plain_positions(0, ids.size(1)), {}))).value();
}

}  // namespace

TEST_CASE("the family of the worked example reads its fields and writes them again") {
  const ModelConfig c = model_config_from_json(kConfig);
  CHECK(c.num_key_value_heads == 2);
  CHECK(c.block.activation == Activation::gelu_tanh);
  CHECK((c.block.parallel && c.block.shared_norm && !c.block.gated && c.block.norm == NormKind::layer));
  CHECK(c.rope.rope_type() == "linear");
  const std::string written = model_config_to_json(c, "float32");
  for (const char* part :
       {"\"model_type\": \"toy\"", "\"num_kv_heads\": 2", "\"hobby\": \"knots\"", "ToyForCausalLM"}) {
    CAPTURE(written);
    CHECK(written.find(part) != std::string::npos);
  }
  CHECK(model_config_to_json(model_config_from_json(written), "float32") == written);
}

TEST_CASE("what the family of the worked example cannot honour is refused by name") {
  std::string text = kConfig;
  text.insert(1, "\"multi_query\": true, ");
  CHECK(test::error_of([&] { model_config_from_json(text); }).find("multi_query") != std::string::npos);
}

TEST_CASE("a model of the worked example's family comes back from its own files, and decodes as it runs") {
  const test::TempDir dir;
  const CausalLm model(model_config_from_json(kConfig), DType::f32, kCpu, 3);
  save_hf(dir.path("toy"), model, {});
  const SafetensorsFile file(dir.path("toy/model.safetensors"));
  for (const char* name : {"toy.embed.weight", "toy.blocks.1.norm.bias", "toy.blocks.0.attention.qkv.weight",
                           "toy.blocks.1.mlp.up.weight", "toy.norm.weight"}) {
    CAPTURE(name);
    CHECK(file.contains(name));
  }
  const std::unique_ptr<CausalLm> loaded = load_hf(dir.path("toy"), {});
  const Tensor ids = Tensor::from<int32_t>({3, 1, 4, 1, 5, 9, 2, 6}, {1, 8});
  const std::vector<double> want = logits_of(model, ids).to_vector();
  CHECK(logits_of(*loaded, ids).to_vector() == want);

  const NoGrad no_grad;
  KvCache cache = loaded->make_cache(1, 16);
  const std::unique_ptr<Decoder> decoder = Decoder::make(*loaded, cache);
  REQUIRE(decoder);
  std::vector<float> got;
  for (int64_t t = 0; t < 8; ++t) got = decoder->step(ids.data<int32_t>()[t]);
  REQUIRE(got.size() == 40);
  for (size_t i = 0; i < 40; ++i) CHECK(got[i] == doctest::Approx(want[7 * 40 + i]).epsilon(1e-4));
}

TEST_CASE("docs/adding-a-family.md quotes the worked example and its diff as they are") {
  const std::string root = ROPEWALK_SOURCE_DIR;
  const std::string page = read_file(root + "/docs/adding-a-family.md");
  const std::string code = read_file(root + "/tests/adding_a_family/toy.cpp");
  CHECK(page.find(code.substr(code.find("void read("))) != std::string::npos);
  CHECK(page.find(read_file(root + "/tests/adding_a_family/family.diff")) != std::string::npos);
}
