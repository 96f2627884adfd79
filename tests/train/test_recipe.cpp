// The table of a run's settings: ranges, effects, TOML, and what identifies a run.
#include <cmath>
#include <limits>

#include "support.h"
#include "train/recipe_fields.h"
#include "train/toml.h"

using namespace rw;

namespace {

Recipe with(const std::string& name, const std::string& value) {
  Recipe config;
  set_field(config, *find_recipe_field(name), value);
  return config;
}

std::string refusal(const std::string& name, const std::string& value) {
  return test::error_of([&] { check_settings(with(name, value)); });
}

}  // namespace

TEST_CASE("the defaults of a run are in range and have an effect") { check_settings(Recipe{}); }

TEST_CASE("numbers that are not finite are refused by the name of their option") {
  for (const RecipeField& f : recipe_fields()) {
    for (const double bad : {std::nan(""), std::numeric_limits<double>::infinity()}) {
      Recipe config;
      const RecipeField::Ref ref = f.at(config);
      if (auto* const* number = std::get_if<double*>(&ref)) {
        **number = bad;
        CAPTURE(f.name);
        CHECK(test::error_of([&] { check_settings(config); }).find("--" + f.name + " must be") != std::string::npos);
      }
    }
  }
}

TEST_CASE("numbers out of range are refused before the first step") {
  const std::pair<const char*, const char*> bad[] = {
      {"lr", "-0.01"},        {"beta1", "1.5"},   {"beta2", "1"},          {"eps", "-1"},      {"eps", "0"},
      {"clip", "-1"},         {"warmup", "-5"},   {"min-ratio", "5"},      {"keep", "-1"},     {"save-every", "-1"},
      {"warmup-start", "2"},  {"batch", "0"},     {"schedule", "cosin"},   {"log-every", "0"}, {"accumulate", "-1"},
      {"save-minutes", "-1"}, {"hidden", "0"},    {"weight-decay", "-1"},  {"theta", "-3"},    {"dtype", "f16"},
      {"save-dtype", "f8"},   {"init-std", "-1"}, {"retrieval-share", "2"}};
  for (const auto& [name, value] : bad) {
    CAPTURE(name);
    CHECK(refusal(name, value).find(std::string("--") + name + " must be") != std::string::npos);
  }
}

TEST_CASE("options that would have no effect are refused, with the reason") {
  Recipe extended = with("layers", "4");  // 4 is the default: it counts that it was named
  extended.from = "base";
  CHECK(test::error_of([&] { check_settings(extended); }).find("--layers has no effect") != std::string::npos);
  CHECK(refusal("validate-every", "5").find("--validation") != std::string::npos);
  CHECK(refusal("retrieval-weight", "5").find("--retrieval-share") != std::string::npos);
  CHECK(refusal("mask-seams", "true").find("no chunks") != std::string::npos);
  Recipe pi = with("window", "64");
  pi.from = "base", pi.method = "pi", pi.target = 256;
  CHECK(test::error_of([&] { check_settings(pi); }).find("--window has no effect") != std::string::npos);
  Recipe nothing_kept = with("keep", "3");
  nothing_kept.save_minutes = 0;
  CHECK(test::error_of([&] { check_settings(nothing_kept); }).find("--keep has no effect") != std::string::npos);
}

TEST_CASE("a recipe reads back as the same run") {
  Recipe config;
  config.data = {"a \"quoted\" name.txt", "back\\slash"};
  config.schedule.lr = 0.1 + 0.2;
  config.seed = 18446744073709551615u;
  config.validation = {"v.txt"};
  config.validate_every = 7;
  config.untied = true;
  const std::string text = recipe_to_toml(config);
  const Recipe again = recipe_from_toml(text, "recipe.toml");
  CHECK(recipe_to_toml(again) == text);
  CHECK(again.data == config.data);
  CHECK(again.schedule.lr == config.schedule.lr);
  CHECK(again.seed == config.seed);
  check_settings(again);
}

TEST_CASE("recipes with unknown keys, wrong types and sections of others are refused by line") {
  const auto error = [](const std::string& text) {
    return test::error_of([&] { static_cast<void>(recipe_from_toml(text, "r.toml")); });
  };
  CHECK(error("[train]\nstepz = 3\n").find("line 2: unknown key 'stepz'") != std::string::npos);
  CHECK(error("[train]\nsteps = many\n").find("--steps must be a number") != std::string::npos);
  CHECK(error("[train]\nsteps = [1, 2]\n").find("takes one value") != std::string::npos);
  CHECK(error("[train]\nmethod = ''\n").find("line 2: 'method': expected a value, got an empty one") !=
        std::string::npos);
  CHECK(error("[train]\ndata = ['a', '']\n").find("'data': expected a value") != std::string::npos);
  CHECK(error("[eval]\nwindow = 3\n").find("[eval]") != std::string::npos);
  CHECK(error("[train]\nlr = 1\nlr = 2\n").find("line 3") != std::string::npos);
  CHECK(error("root:x:0:0:secret\n").find("secret") == std::string::npos);  // no file's text in a message
}

TEST_CASE("every setting that decides is part of what identifies a run, and no other is") {
  const auto changed = [](const RecipeField& f) {
    Recipe config;
    config.validation = {"v"}, config.retrieval_share = 0.5, config.method = "pose", config.target = 4096;
    config.validate_every = 1;
    config.family = "smollm3", config.lora_rank = 4, config.lora_base = "nf4";
    const auto before = deciding_settings(config);
    const RecipeField::Ref ref = f.at(config);
    if (auto* const* s = std::get_if<std::string*>(&ref); s && f.name != "from") **s += "x";
    if (auto* const* l = std::get_if<std::vector<std::string>*>(&ref)) (*l)->push_back("x");
    if (auto* const* n = std::get_if<int64_t*>(&ref)) **n += 1;
    if (auto* const* u = std::get_if<uint64_t*>(&ref)) **u += 1;
    if (auto* const* d = std::get_if<double*>(&ref)) **d += 0.25;
    if (auto* const* b = std::get_if<bool*>(&ref)) **b = !**b;
    return deciding_settings(config) != before;
  };
  for (const RecipeField& f : recipe_fields()) {
    CAPTURE(f.name);
    CHECK(changed(f) == (f.role == FieldRole::decides));
  }
}

TEST_CASE("TOML: strings, arrays over lines, comments, and what is refused") {
  const auto sections = parse_toml(
      "a = 'x # y' # comment\n[s.t]\nlist = [\"1\", # one\n  2, true,]\n\"quoted key\" = \"\\\"\\\\\"\n", "t", "toml");
  REQUIRE(sections.size() == 2);
  CHECK(sections[0].items[0].values == std::vector<std::string>{"x # y"});
  CHECK(sections[1].name == "s.t");
  CHECK(sections[1].items[0].values == std::vector<std::string>{"1", "2", "true"});
  CHECK(sections[1].items[1].key == "quoted key");
  CHECK(sections[1].items[1].values[0] == "\"\\");
  for (const char* bad : {"a", "a =", "[s", "[[s]]\n", "a = [1", "a = \"x", "a = 1 2", "a = [[1]]", "[a]\n[a]\n",
                          "a = 1\na = 2\n", "a = {x = 1}", "[a.b.c.d.e]\n", "[....]\n"}) {
    CAPTURE(bad);
    CHECK(test::error_of([&] { static_cast<void>(parse_toml(bad, "t", "toml")); }).find("line") != std::string::npos);
  }
}
