// Extending a model by a method: as names and options, as a JSON object, and as a value that no name stands for.
#include "data/tokenizer.h"
#include "rope/fixed_scaling.h"
#include "support.h"
#include "train/extend.h"
#include "train/plan.h"
#include "train/recipe_fields.h"

using namespace rw;

namespace {

/// A kind that the library does not list.
struct HalvedRope {
  static constexpr const char* kName = "halved";
  static constexpr const char* kSummary = "all frequencies divided by the factor";
  static std::vector<Field> fields() { return {field("factor", &HalvedRope::factor).at_least(1)}; }
  double factor = 1;
  void check(const RopeConfig&) const {}
  std::unique_ptr<RopeScaling> make(const RopeConfig& config) const {
    std::vector<double> theta = base_inv_freq(config);
    for (double& t : theta) t /= factor;
    return std::make_unique<FixedScaling>(config, theta);
  }
  double window_factor() const { return factor; }
  bool operator==(const HalvedRope&) const = default;
};

ModelConfig base() {
  ModelConfig c;
  c.vocab_size = 258, c.hidden_size = 32, c.intermediate_size = 48, c.num_hidden_layers = 1, c.num_attention_heads = 2;
  c.rope.max_position_embeddings = 32;
  c.finish();
  return c;
}

}  // namespace

TEST_CASE("a JSON scaling may leave out what the target decides, and nothing else") {
  const MethodText yarn{.name = "full", .scaling = R"({"rope_type":"yarn"})"};
  const Method method = method_from_text(yarn, base(), 128);
  CHECK(extend(base(), method, 128).config.rope.kind.get<YarnRope>()->factor == 4);
  CHECK(test::error_of([&] { method_from_text(yarn, base()); }).find("rope_scaling.factor is missing") !=
        std::string::npos);
  CHECK(test::error_of([&] {
          method_from_text({.scaling = R"({"rope_type":"linear"})"}, base(), 128);
        }).find("rope_scaling.factor is missing") != std::string::npos);
}

TEST_CASE("a sampler that alone trains a kind goes with that kind only") {
  const auto refused = [](const Method& method) { return test::error_of([&] { extend(base(), method, 128); }); };
  CHECK(refused({.sampler = ClexPositions{}, .rope = LinearRope{}}).find("method clex and scaling clex go together") !=
        std::string::npos);
  CHECK(refused({.sampler = PosePositions{}, .rope = E2Rope{}}).find("method e2 and scaling e2 go together") !=
        std::string::npos);
  extend(base(), {.sampler = PosePositions{}, .rope = HalvedRope{}}, 128);  // a kind that leaves the choice
  CHECK(refused({.sampler = PosePositions{}, .rope = LinearRope{}, .window = 128}).find("shorter than the target") !=
        std::string::npos);
}

TEST_CASE("a recipe takes a method that no name stands for, and it is part of what the run is") {
  const std::unique_ptr<Tokenizer> bytes = make_byte_tokenizer();
  const ModelConfig model = base();
  Recipe recipe;
  recipe.from = "base";
  const auto plan_of = [&](const Method& method) {
    set_method(recipe, method, 128);
    return make_plan(recipe, *bytes, &model);
  };
  const RunPlan plan = plan_of({.sampler = PosePositions{.chunks = 3}, .rope = HalvedRope{}});
  CHECK(plan.model.rope.kind.get<HalvedRope>()->factor == 4);
  CHECK(plan.positions == PosePositions{.chunks = 3});
  CHECK(plan.description.at("rope_scaling").find("halved") != std::string::npos);
  recipe.mask_seams = true;
  check_settings(recipe);  // the method has chunks
  CHECK(recipe_to_toml(recipe).find("does not state its fields") != std::string::npos);
  // A field that is no option makes a known kind such a method, too.
  CHECK(plan_of({.rope = YarnRope{.beta_fast = 16}}).model.rope.kind.get<YarnRope>()->beta_fast == 16);
  recipe.factor = 3;
  CHECK(test::error_of([&] { make_plan(recipe, *bytes, &model); }).find("were changed") != std::string::npos);
  plan_of({.sampler = PosePositions{}, .rope = YarnRope{}});
  CHECK_FALSE(recipe.method_value);
  CHECK(recipe.method == "pose");
}

TEST_CASE("a recipe that is only tried begins where training would begin") {
  ModelConfig abf = base();
  abf.rope.kind = AbfRope{.base = 500000};
  abf.rope.max_position_embeddings = 64, abf.rope.original_max_position_embeddings = 32;
  const Extension tried = extend_untrained(abf, {.rope_json = R"({"rope_type":"linear","factor":2})"}, 0);
  CHECK(tried.config.rope.rope_theta == 500000);
  CHECK(tried.config.rope.original_window() == 64);
  CHECK(tried.target == 128);
  CHECK(tried.config.rope == extend(abf, {.rope = LinearRope{}}, 128).config.rope);
}

TEST_CASE("settings have one name in files, and an older one is read") {
  const Recipe recipe = recipe_from_toml("[train]\nlean = true\nfp8_lean = true\n", "r.toml");
  CHECK((recipe.small_state && recipe.fp8_recompute));
  CHECK(recipe_to_toml(recipe).find("lean") == std::string::npos);
  CHECK(find_recipe_field("") == nullptr);
}
