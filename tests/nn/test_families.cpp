// Every family against transformers' values, and back into its own files.
#include <cstring>
#include <set>

#include "autograd/ops/loss.h"
#include "autograd/tape.h"
#include "families.h"
#include "models.h"
#include "nn/decoder.h"

using namespace rw;
namespace fs = std::filesystem;

namespace {

/// The reference's gradient of a parameter, in the order of our rows;
/// transformers has another name for GPT-NeoX's head.
Tensor expected_gradient(const SafetensorsFile& expect, const ModelConfig& config, const std::string& name) {
  std::string theirs = "grad." + name;
  if (!expect.contains(theirs) && name == "embed_out.weight") theirs = "grad.lm_head.weight";
  return from_file_rows(config, name, expect.load(theirs));
}

Tensor logits_of(const CausalLm& model, const SafetensorsFile& expect) {
  const NoGrad no_grad;
  const RopeAngles angles = model.angles(expect.load("positions").to(DType::f32), {});
  return model.logits(model.forward(expect.load("ids"), angles)).value();
}

/// The file's tensors, bit for bit, whatever they are called.
void check_same_tensors(const std::string& got_path, const std::string& want_path) {
  const SafetensorsFile got(got_path), want(want_path);
  CHECK(got.entries().size() == want.entries().size());
  for (const auto& [name, entry] : want.entries()) {
    CAPTURE(name);
    REQUIRE(got.contains(name));
    CHECK(got.entries().at(name).dtype == entry.dtype);
    const Tensor a = got.load(name), b = want.load(name);
    REQUIRE(a.shape() == b.shape());
    CHECK(std::memcmp(a.raw(), b.raw(), static_cast<size_t>(a.bytes())) == 0);
  }
}

}  // namespace

TEST_CASE("logits, loss and gradients of every family are transformers'") {
  for (const std::string& folder : test::family_folders()) {
    CAPTURE(test::name_of_folder(folder));
    const SafetensorsFile expect(folder + "/expect.safetensors");
    const auto model = load_hf(folder);
    model->enable_grad();
    CHECK(test::relative_error(logits_of(*model, expect), expect.load("logits")) < 2e-5);

    const Tensor ids = expect.load("ids"), targets = test::next_tokens(ids);
    const double count = static_cast<double>(ids.size(0) * (ids.size(1) - 1));
    const RopeAngles angles = model->angles(expect.load("positions").to(DType::f32), {});
    const Var loss = model->loss(ids, targets, angles);
    CHECK(loss.item() / count == doctest::Approx(expect.load("loss").item()).epsilon(1e-5));
    backward(loss, Tensor::full({1}, 1 / count));
    for (size_t i = 0; i < model->arena().size(); ++i) {
      const std::string name = model->arena().segments()[i].spec.name;
      CAPTURE(name);
      CHECK(test::relative_error(model->arena()[i].grad(), expected_gradient(expect, model->config(), name)) < 1e-4);
    }
    const Tensor nll = model->token_nll(ids, targets, angles);
    double sum = 0;
    for (const double x : nll.to_vector()) sum += x;
    CHECK(sum / count == doctest::Approx(expect.load("loss").item()).epsilon(1e-5));
  }
}

TEST_CASE("a recipe in config.json alone extends every family as in transformers") {
  for (const std::string& folder : test::family_folders()) {
    const std::string name = test::name_of_folder(folder);
    if (!fs::exists(folder + "/yarn.json")) {
      std::printf("SKIPPED: %s has no yarn.json\n", name.c_str());
      continue;
    }
    CAPTURE(name);
    const SafetensorsFile expect(folder + "/expect.safetensors");
    const test::TempDir dir;
    fs::copy_file(folder + "/yarn.json", dir.path("config.json"));
    fs::copy_file(folder + "/model.safetensors", dir.path("model.safetensors"));
    const auto model = load_hf(dir.path());
    CHECK(test::relative_error(logits_of(*model, expect), expect.load("logits.yarn")) < 2e-5);
  }
}

TEST_CASE("a saved family has the tensors of its own layout, and a config that reads back to the same logits") {
  for (const std::string& folder : test::family_folders()) {
    CAPTURE(test::name_of_folder(folder));
    const SafetensorsFile expect(folder + "/expect.safetensors");
    for (const bool yarn : {false, true}) {
      if (yarn && !fs::exists(folder + "/yarn.json")) continue;
      const test::TempDir dir;
      fs::copy_file(folder + (yarn ? "/yarn.json" : "/config.json"), dir.path("config.json"));
      fs::copy_file(folder + "/model.safetensors", dir.path("model.safetensors"));
      const auto model = load_hf(dir.path());
      save_hf(dir.path("saved"), *model);
      check_same_tensors(dir.path("saved/model.safetensors"), folder + "/model.safetensors");
      const auto again = load_hf(dir.path("saved"));
      CHECK(logits_of(*again, expect).to_vector() == logits_of(*model, expect).to_vector());
      save_hf(dir.path("again"), *again);
      CHECK(read_file(dir.path("again/config.json")) == read_file(dir.path("saved/config.json")));
    }
  }
}

TEST_CASE("what config.json says beyond the model is kept when it is saved") {
  for (const std::string& folder : test::family_folders()) {
    CAPTURE(test::name_of_folder(folder));
    const ModelConfig config = model_config_from_json(read_file(folder + "/config.json"));
    const std::string saved = model_config_to_json(config, "float32");
    for (const char* key : {"\"transformers_version\"", "\"use_cache\""}) CHECK(saved.find(key) != std::string::npos);
    CHECK(saved.find(cat("\"model_type\": \"", family_record(config.family).model_type, "\"")) != std::string::npos);
  }
}

TEST_CASE("the table of docs/families.md has a row for every family, and says how it decodes on a GPU") {
  const std::string doc = read_file(std::string(ROPEWALK_SOURCE_DIR) + "/docs/families.md"),
                    readme = read_file(std::string(ROPEWALK_SOURCE_DIR) + "/README.md");
  size_t rows = 0;
  std::set<Family> seen;
  for (const auto& entry : fs::directory_iterator(test::data_dir() + "/families")) {
    const std::string name = entry.path().filename().string();
    CAPTURE(name);
    const ModelConfig config = read_hf_config(entry.path().string());
    CHECK(doc.find(cat("\n| ", name, " | yes | yes | yes | yes | one kernel | yes |\n")) != std::string::npos);
    seen.insert(config.family);
    ++rows;
  }
  CHECK(seen.size() == all_families().size());
  const std::string row = " | yes | yes | yes | yes | ";
  size_t stated = 0;
  for (size_t at = doc.find(row); at != std::string::npos; at = doc.find(row, at + 1)) ++stated;
  CHECK(stated == rows);
  for (const FamilyRecord* record : all_families()) {
    CHECK(doc.find(cat("\n| ", record->model_type, " | ")) != std::string::npos);
    CHECK(readme.find(cat("\n| ", record->model_type, " | yes | yes | yes | yes | one kernel | yes |\n")) !=
          std::string::npos);
  }
}
