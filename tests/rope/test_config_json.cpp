// The RoPE part of config.json as model folders have it: which key counts, what may be left out, what is refused.
#include "rope/kinds.h"
#include "support.h"

using namespace rw;

namespace {

std::string whole(const std::string& rest) {
  return R"({"head_dim": 16, "max_position_embeddings": 64)" + (rest.empty() ? "" : ", " + rest) + "}";
}

RopeConfig read(const std::string& rest, const RopeDefaults& defaults = {}) {
  return rope_config_from_json(whole(rest), defaults);
}

std::string error(const std::string& rest) {
  return test::error_of([&] { rope_configs_from_json(whole(rest)); });
}

const std::string kYarn =
    R"("rope_scaling": {"rope_type": "yarn", "factor": 4.0, "original_max_position_embeddings": 16)";

}  // namespace

TEST_CASE("rope_scaling takes the place of rope_parameters, as in transformers 5, unless it says nothing") {
  const std::string v5 = R"("rope_parameters": {"rope_type": "default", "rope_theta": 500000.0}, )";
  CHECK(read(v5 + R"("rope_scaling": null)").rope_theta == 5e5);
  CHECK(read(v5 + R"("rope_scaling": {})").rope_theta == 5e5);
  const RopeConfig yarn = read(v5 + kYarn + "}");
  CHECK(yarn.kind == YarnRope{.factor = 4});
  CHECK(yarn.rope_theta == 1e4);  // rope_parameters and its base are gone, as transformers has it
  CHECK(read(v5 + kYarn + R"(, "rope_theta": 500000.0})").rope_theta == 5e5);
  CHECK(read(v5 + R"("rope_theta": 20000.0, )" + kYarn + "}").rope_theta == 2e4);
  CHECK(read(R"("rope_parameters": {}, )" + kYarn + "}").kind == YarnRope{.factor = 4});
}

TEST_CASE("A recipe without rope_type is plain RoPE, and rope_type goes before type") {
  const RopeConfig plain = read(R"("rope_parameters": {"rope_theta": 500000.0, "partial_rotary_factor": 0.25})");
  CHECK(plain.kind.is<DefaultRope>());
  CHECK(plain.rope_theta == 5e5);
  CHECK(plain.rotary_dim() == 4);
  CHECK(read(R"("rope_scaling": {"rope_type": "linear", "type": "dynamic", "factor": 2})").kind ==
        LinearRope{.factor = 2});
  CHECK(error(R"("rope_scaling": {"factor": 2})").find("rope_scaling.rope_type is missing beside factor") !=
        std::string::npos);
}

TEST_CASE("What stands inside a recipe goes before what stands beside it, but for the original window") {
  const RopeConfig c = read(
      R"("rope_theta": 1000.0, "partial_rotary_factor": 0.5, "original_max_position_embeddings": 8,
         "rope_scaling": {"rope_type": "yarn", "factor": 4.0, "original_max_position_embeddings": 16,
                          "rope_theta": 2000.0, "partial_rotary_factor": 0.25})");
  CHECK(c.rope_theta == 2000);
  CHECK(c.rotary_dim() == 4);
  CHECK(c.original_window() == 8);
  const RopeConfig neox = read(R"("rotary_pct": 0.25, "rotary_emb_base": 20000)");
  CHECK(neox.rotary_dim() == 4);
  CHECK(neox.rope_theta == 2e4);
}

TEST_CASE("A family says what a config.json without a field means") {
  const RopeConfig c = rope_config_from_json(
      "{}", {.max_position_embeddings = 2048, .head_dim = 32, .rope_theta = 1e6, .partial_rotary_factor = 0.25});
  CHECK(c ==
        RopeConfig{.rope_theta = 1e6, .head_dim = 32, .partial_rotary_factor = 0.25, .max_position_embeddings = 2048});
  CHECK(test::error_of([] {
          rope_config_from_json(R"({"head_dim": 4})");
        }).find("max_position_embeddings is missing") != std::string::npos);
}

TEST_CASE("Layers with windowed attention may have a recipe of their own, in the words of both transformers") {
  const std::string v5 = whole(
      R"("rope_parameters": {"full_attention": {"rope_type": "linear", "factor": 8.0, "rope_theta": 1000000.0},
                             "sliding_attention": {"rope_type": "default", "rope_theta": 10000.0}})");
  const std::string v4 = whole(
      R"("rope_theta": 1000000.0, "rope_local_base_freq": 10000.0, "rope_scaling": {"rope_type": "linear", "factor": 8.0})");
  for (const std::string& text : {v5, v4}) {
    const RopeConfigs both = rope_configs_from_json(text);
    CHECK(both.full.kind == LinearRope{.factor = 8});
    CHECK(both.full.rope_theta == 1e6);
    REQUIRE(both.sliding);
    CHECK(both.sliding->kind.is<DefaultRope>());
    CHECK(both.sliding->rope_theta == 1e4);
    CHECK(test::error_of([&] { rope_config_from_json(text); }).find("expected one") != std::string::npos);
    const std::string again = whole("\"rope_parameters\": " + rope_parameters_to_json(both));
    CHECK(rope_configs_from_json(again) == both);
  }
  // a family whose windowed layers have their own base says so where the file does not
  const RopeConfigs gemma = rope_configs_from_json(whole(R"("rope_theta": 1000000.0)"), {.local_rope_theta = 1e4});
  CHECK(gemma.full.rope_theta == 1e6);
  CHECK(gemma.sliding->rope_theta == 1e4);
  // transformers lays a rope_scaling over the full layers' part
  const RopeConfigs over = rope_configs_from_json(whole(
      R"("rope_parameters": {"full_attention": {"rope_type": "default", "rope_theta": 1000000.0},
                             "sliding_attention": {"rope_type": "default", "rope_theta": 10000.0}},
         "rope_scaling": {"rope_type": "linear", "factor": 2.0})"));
  CHECK(over.full.kind == LinearRope{.factor = 2});
  CHECK(over.full.rope_theta == 1e6);
  CHECK(over.sliding->kind.is<DefaultRope>());
  CHECK(error(R"("rope_parameters": {"full_attention": {}, "chunked_attention": {}})").find("chunked_attention") !=
        std::string::npos);
}

TEST_CASE("LongRoPE is read as Phi-3 publishes it") {
  const std::string lists = R"("short_factor": [1.0, 1.1], "long_factor": [1.0, 4.0])";
  for (const char* type : {"su", "longrope", "yarn"}) {
    CAPTURE(type);
    const RopeConfig c =
        read(R"("original_max_position_embeddings": 16, "partial_rotary_factor": 0.25, "rope_scaling": {"type": ")" +
             std::string(type) + "\", " + lists + "}");
    CHECK(c.kind == LongRope{.factor = 4, .short_factor = {1, 1.1}, .long_factor = {1, 4}});
    CHECK(c.original_window() == 16);
    // A = sqrt(1 + ln 4 / ln 16)
    CHECK(make_rope_scaling(c)->table({}).attention_scale == doctest::Approx(std::sqrt(1.5)));
    CHECK(make_rope_scaling(c)->table({.length = 17}).inv_freq.value().to_vector()[1] == doctest::Approx(0.01 / 4));
  }
}

TEST_CASE("A key that is no field of the kind is refused by name, and what changes nothing is let through") {
  CHECK(error(kYarn + R"(, "beta_fsat": 8})").find("rope_scaling.beta_fsat is not a field of yarn, which has factor") !=
        std::string::npos);
  CHECK(error(R"("rope_scaling": {"rope_type": "linear", "factor": 2, "beta_fast": 8})")
            .find("beta_fast is not a field of linear") != std::string::npos);
  CHECK(error(R"("rope_parameters": {"rope_type": "default", "mrope_section": [1, 2]})").find("mrope_section") !=
        std::string::npos);
  CHECK(error(kYarn + R"(, "attn_factor": 1.2})").find("attn_factor") != std::string::npos);
  CHECK(read(kYarn + R"(, "finetuned": true, "attn_factor": 1.0, "extrapolation_factor": 1, "mscale": null})").kind ==
        YarnRope{.factor = 4});
  CHECK(read(R"("rope_scaling": {"rope_type": "default", "factor": 1.0})").kind.is<DefaultRope>());
}

TEST_CASE("Numbers out of range are refused with the field's name and its range") {
  CHECK(error(R"("rope_scaling": {"rope_type": "linear", "factor": 0.5})")
            .find("rope_scaling.factor must be at least 1, got 0.5") != std::string::npos);
  CHECK(error(R"("rope_theta": 0)").find("rope_theta must be above 1, got 0") != std::string::npos);
  CHECK(error(R"("rope_scaling": {"rope_type": "linear", "factor": 2, "rope_theta": -1})")
            .find("rope_scaling.rope_theta must be above 1") != std::string::npos);
  CHECK(error(R"("partial_rotary_factor": 1.5)").find("partial_rotary_factor must be above 0 and at most 1") !=
        std::string::npos);
  CHECK(error(R"("original_max_position_embeddings": -3)").find("original_max_position_embeddings must be 1 to") !=
        std::string::npos);
  CHECK(error(R"("rope_scaling": {"rope_type": "yarn", "factor": 4, "yarn_variant": "x"})")
            .find("rope_scaling.yarn_variant must be one of paper, revised; got \"x\"") != std::string::npos);
}

TEST_CASE("the variant of YaRN that every program means is not written, the other one is, and both read back") {
  for (const auto variant : {YarnRope{}.variant, decltype(YarnRope{}.variant)(1)}) {
    RopeConfig c{.head_dim = 64, .max_position_embeddings = 256, .original_max_position_embeddings = 64};
    YarnRope yarn{.factor = 4};
    yarn.variant = variant;
    c.kind = yarn;
    const std::string json = rope_scaling_to_json(c);
    CHECK((json.find("yarn_variant") != std::string::npos) == (variant != YarnRope{}.variant));
    CHECK(rope_recipe_from_json(RopeConfig{.head_dim = 64, .max_position_embeddings = 256}, json).kind == c.kind);
  }
}
