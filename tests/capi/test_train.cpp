// The C API's training and evaluation, against the library's Trainer and protocols, and the examples in C.
#include <cstdlib>
#include <filesystem>
#include <fstream>
#include <nlohmann/json.hpp>
#include <vector>

#include "data/text.h"
#include "eval/protocol.h"
#include "small_model.h"
#include "tensor/file.h"
#include "train/trainer.h"

using namespace rw;

namespace {

std::string story(int lines) {
  std::string text;
  for (int i = 0; i < lines; ++i) text += "Line " + std::to_string(i * 37 % 101) + " of the little story.\n";
  return text;
}

/// A model, a text and places for what is made of them.
struct Workshop {
  SmallModel base;
  test::TempDir dir;
  std::string text = dir.path("story.txt");
  Workshop() { std::ofstream(text) << story(200); }
};

using Pairs = std::vector<std::pair<std::string, std::string>>;

/// Settings as the C API takes them; the texts must outlive it.
std::vector<ropewalk_setting> settings_of(const Pairs& pairs) {
  std::vector<ropewalk_setting> out;
  for (const auto& [name, value] : pairs) out.push_back({name.c_str(), value.c_str()});
  return out;
}

/// PoSE and YaRN, three steps.
Pairs recipe_of(const Workshop& w, const std::string& out, bool data = true) {
  Pairs pairs = {{"from", w.base.path()}, {"out", out},   {"method", "pose"}, {"scaling", "yarn"}, {"target", "256"},
                 {"steps", "3"},          {"batch", "2"}, {"chunks", "3"},    {"lr", "1e-3"}};
  if (data) pairs.push_back({"data", w.text});
  return pairs;
}

struct Run {
  ropewalk_trainer* trainer = nullptr;
  ropewalk_train_result result{sizeof result, -1, 0, 0, 0, 0};
  ropewalk_status status;
  explicit Run(const Pairs& pairs, ropewalk_train_options options = {}, const char* recipe = nullptr) {
    options.size = sizeof options;
    options.device = "cpu";
    const auto settings = settings_of(pairs);
    status = ropewalk_trainer_create(recipe, settings.data(), settings.size(), &options, &trainer);
    if (status == ROPEWALK_OK) status = ropewalk_trainer_run(trainer, &result);
  }
  ~Run() { ropewalk_trainer_free(trainer); }
};

std::string weights(const std::string& folder) { return read_file(folder + "/model.safetensors"); }

/// What the library itself makes of the same recipe.
std::string library_weights(const Workshop& w) {
  Recipe recipe;
  recipe.from = w.base.path(), recipe.data = {w.text}, recipe.out = w.dir.path("library");
  recipe.method = "pose", recipe.scaling = "yarn", recipe.target = 256, recipe.method_options["chunks"] = "3";
  recipe.steps = 3, recipe.batch = 2, recipe.schedule.lr = 1e-3;
  Trainer(recipe, {}).run();
  return weights(recipe.out);
}

nlohmann::json evaluated(ropewalk_model* model, const char* kind, const Pairs& pairs,
                         ropewalk_evaluate_options options = {}) {
  options.size = sizeof options;
  const auto settings = settings_of(pairs);
  ropewalk_result* result = nullptr;
  const ropewalk_status status = ropewalk_evaluate(model, kind, settings.data(), settings.size(), &options, &result);
  CAPTURE(std::string(ropewalk_last_error()));
  REQUIRE(status == ROPEWALK_OK);
  size_t bytes = 0;
  const std::string text = ropewalk_result_json(result, &bytes);
  CHECK(text.size() == bytes);
  ropewalk_result_free(result);
  return nlohmann::json::parse(text);
}

}  // namespace

TEST_CASE("a run through the C API leaves the library's weights, from files, text in memory and tokens") {
  const Workshop w;
  const std::string expected = library_weights(w);
  const Run files(recipe_of(w, w.dir.path("files")));
  REQUIRE(files.status == ROPEWALK_OK);
  CHECK(files.result.end == ROPEWALK_TRAIN_FINISHED);
  CHECK(files.result.steps == 3);
  CHECK(files.result.tokens > 0);
  CHECK(weights(w.dir.path("files")) == expected);

  const std::string text = story(200);
  ropewalk_document document{"story", text.data(), text.size(), nullptr, 0};
  const Run memory(recipe_of(w, w.dir.path("memory"), false), {.documents = &document, .documents_count = 1});
  REQUIRE(memory.status == ROPEWALK_OK);
  CHECK(weights(w.dir.path("memory")) == expected);

  const std::vector<int32_t> ids = load_tokenizer(w.base.path())->encode(text);
  document = {nullptr, nullptr, 0, ids.data(), ids.size()};
  const Run tokens(recipe_of(w, w.dir.path("tokens"), false), {.documents = &document, .documents_count = 1});
  REQUIRE(tokens.status == ROPEWALK_OK);
  CHECK(weights(w.dir.path("tokens")) == expected);
}

TEST_CASE("a recipe as TOML is the same run, and settings win over it") {
  const Workshop w;
  const std::string recipe =
      "[train]\nmethod = \"pose\"\nscaling = \"yarn\"\ntarget = 256\nsteps = 99\nbatch = 2\n"
      "chunks = 3\nlr = 1e-3\ndata = [\"nowhere.txt\"]\n";
  const Run run({{"from", w.base.path()}, {"data", w.text}, {"out", w.dir.path("toml")}, {"steps", "3"}}, {},
                recipe.c_str());
  CAPTURE(std::string(ropewalk_last_error()));
  REQUIRE(run.status == ROPEWALK_OK);
  CHECK(weights(w.dir.path("toml")) == library_weights(w));
}

TEST_CASE("callbacks see every step and the validation, and stop a run that resumes to the same weights") {
  const Workshop w;
  struct Seen {
    std::vector<double> losses;
    int64_t stop_at = 0, validations = 0;
    std::string notice;
  } seen;
  ropewalk_train_options options{};
  options.on_step = [](void* user, const ropewalk_step* step) {
    auto* s = static_cast<Seen*>(user);
    CHECK(step->size == sizeof *step);
    CHECK(step->steps == 3);
    CHECK(step->step == static_cast<int64_t>(s->losses.size()) + 1);
    s->losses.push_back(step->loss);
    return step->step == s->stop_at ? 1 : 0;
  };
  options.on_validation = [](void* user, const ropewalk_validation* v) {
    CHECK(v->loss > 0);
    ++static_cast<Seen*>(user)->validations;
    return 0;
  };
  options.on_notice = [](void* user, const char* line) { static_cast<Seen*>(user)->notice = line; };
  options.user = &seen;
  Pairs recipe = recipe_of(w, w.dir.path("out"));
  recipe.push_back({"validation", w.text});
  seen.stop_at = 2;
  const Run first(recipe, options);
  CAPTURE(std::string(ropewalk_last_error()));
  REQUIRE(first.status == ROPEWALK_OK);
  CHECK(first.result.end == ROPEWALK_TRAIN_STOPPED);
  CHECK(first.result.steps == 2);
  CHECK(seen.losses.size() == 2);
  CHECK_FALSE(std::filesystem::exists(w.dir.path("out/config.json")));
  seen.stop_at = 0;
  recipe.push_back({"resume", "true"});
  const Run second(recipe, options);
  REQUIRE(second.status == ROPEWALK_OK);
  CHECK(second.result.end == ROPEWALK_TRAIN_FINISHED);
  CHECK(seen.losses.size() == 3);
  CHECK(seen.validations == 1);
  CHECK(weights(w.dir.path("out")) == library_weights(w));
  const Run third(recipe, options);
  CHECK(third.result.end == ROPEWALK_TRAIN_WAS_FINISHED);
  CHECK(third.result.steps == second.result.steps);
  CHECK(third.result.tokens == 0);
  CHECK(third.result.seconds == 0);
  CHECK(seen.losses.size() == 3);  // no step was called for
  ropewalk_model* finished = nullptr;
  REQUIRE(ropewalk_trainer_model(third.trainer, &finished) == ROPEWALK_OK);
  const std::string folder = w.dir.path("finished");
  CHECK(ropewalk_save(finished, folder.c_str()) == ROPEWALK_OK);
  ropewalk_free(finished);
  CHECK(weights(folder) == weights(w.dir.path("out")));
}

TEST_CASE("a trained model is used without a folder, and after its trainer is gone") {
  const Workshop w;
  Pairs recipe = recipe_of(w, "");
  std::erase_if(recipe, [](const auto& p) { return p.first == "out"; });
  ropewalk_model* model = nullptr;
  {
    const Run run(recipe);
    REQUIRE(run.status == ROPEWALK_OK);
    CHECK(ropewalk_trainer_run(run.trainer, nullptr) == ROPEWALK_ERROR_ARGUMENT);
    CHECK(says("has run"));
    REQUIRE(ropewalk_trainer_model(run.trainer, &model) == ROPEWALK_OK);
  }
  CHECK(ropewalk_context_length(model) == 256);
  const std::string folder = w.dir.path("saved");
  REQUIRE(ropewalk_save(model, folder.c_str()) == ROPEWALK_OK);
  ropewalk_free(model);
  CHECK(weights(folder) == library_weights(w));
}

TEST_CASE("evaluation through the C API is the protocol's, from files and from tokens, with progress that can stop") {
  const Workshop w;
  const Loaded m(w.base.path());
  const auto model = load_hf(w.base.path());
  const auto tokenizer = load_tokenizer(w.base.path());
  const auto protocol = make_eval_protocol("ppl");
  assign(*find_setting(protocol->settings(), "window"), {"32,64"}, "window");
  EvalSubject subject(*model, *tokenizer, load_tokens({w.text}, *tokenizer), protocol->options);
  const auto expected = nlohmann::json::parse(to_json(protocol->run(subject)))["totals"];

  CHECK(evaluated(m.model, "ppl", {{"data", w.text}, {"window", "32"}, {"window", "64"}})["totals"] == expected);
  const std::vector<int32_t> ids = tokenizer->encode(story(200));
  const ropewalk_document document{"story", nullptr, 0, ids.data(), ids.size()};
  CHECK(evaluated(m.model, "ppl", {{"window", "32,64"}}, {.documents = &document, .documents_count = 1})["totals"] ==
        expected);

  const auto passkey = evaluated(m.model, "passkey", {{"length", "256"}, {"trials", "4"}});
  CHECK(passkey["kind"] == "passkey");
  CHECK(passkey["totals"][0]["trials"] == 4);

  const auto stop = [](void* user, int64_t, int64_t) { return ++*static_cast<int*>(user); };
  int calls = 0;
  ropewalk_evaluate_options options{sizeof options, &document, 1, stop, &calls};
  ropewalk_result* result = nullptr;
  CHECK(ropewalk_evaluate(m.model, "ppl", nullptr, 0, &options, &result) == ROPEWALK_ERROR_STOPPED);
  CHECK(result == nullptr);
  CHECK(calls == 1);
}

TEST_CASE("training and evaluation refuse by name what they cannot do") {
  const Workshop w;
  const Loaded m(w.base.path());
  const auto train = [&](const Pairs& more, ropewalk_status status, const char* why) {
    Pairs pairs = recipe_of(w, w.dir.path("refused"));
    pairs.insert(pairs.end(), more.begin(), more.end());
    CHECK(Run(pairs).status == status);
    CHECK(says(why));
    CHECK_FALSE(std::filesystem::exists(w.dir.path("refused")));
  };
  train({{"colour", "red"}}, ROPEWALK_ERROR_INPUT, "unknown setting 'colour'");
  train({{"steps", "many"}}, ROPEWALK_ERROR_INPUT, "--steps must be a number");
  train({{"resume", "perhaps"}}, ROPEWALK_ERROR_INPUT, "true or false");
  const std::string text = story(9);
  const int32_t ids[] = {1, 2, 300};
  const auto documents = [&](std::vector<ropewalk_document> all, bool data, ropewalk_status status, const char* why) {
    const Run run(recipe_of(w, w.dir.path("refused"), data), {.documents = all.data(), .documents_count = all.size()});
    CHECK(run.status == status);
    CHECK(says(why));
  };
  const ropewalk_document as_text{nullptr, text.data(), text.size(), nullptr, 0}, as_ids{nullptr, nullptr, 0, ids, 3};
  documents({as_text}, true, ROPEWALK_ERROR_ARGUMENT, "give one");
  documents({as_text, as_ids}, false, ROPEWALK_ERROR_ARGUMENT, "give all as one");
  documents({{}}, false, ROPEWALK_ERROR_ARGUMENT, "either text or ids");
  documents({as_ids}, false, ROPEWALK_ERROR_INPUT, "300");

  const auto evaluate = [&](const char* kind, const Pairs& pairs, const char* why) {
    const auto settings = settings_of(pairs);
    ropewalk_result* result = nullptr;
    CHECK(ropewalk_evaluate(m.model, kind, settings.data(), settings.size(), nullptr, &result) == ROPEWALK_ERROR_INPUT);
    CHECK(says(why));
  };
  evaluate("taste", {}, "unknown kind 'taste'");
  evaluate("ppl", {}, "needs 'data'");
  evaluate("ppl", {{"data", w.text}, {"salt", "1"}}, "no setting 'salt'");
  evaluate("ppl", {{"data", w.text}, {"truncate", "true"}, {"chunked", "true"}}, "excludes");
  ropewalk_train_result small{4, 0, 0, 0, 0, 0};
  CHECK(ropewalk_trainer_run(nullptr, &small) == ROPEWALK_ERROR_ARGUMENT);
  CHECK(ropewalk_result_json(nullptr, nullptr) == nullptr);
  ropewalk_result_free(nullptr);
  ropewalk_trainer_free(nullptr);
}

TEST_CASE("the examples in C run") {
  const Workshop w;
  const std::string bin = std::string(ROPEWALK_BINARY_DIR) + "/bin/c_example_", out = w.dir.path("out.txt");
  const auto run = [&](const std::string& command) {
    const int code = std::system((bin + command + " >'" + out + "' 2>'" + w.dir.path("err.txt") + "'").c_str());
    CAPTURE(read_file(w.dir.path("err.txt")));
    CHECK(code == 0);
    return read_file(out);
  };
  CHECK_FALSE(run("complete '" + w.base.path() + "' 'Line 7' 8").empty());
  CHECK(read_file(w.dir.path("err.txt")).find("log-likelihood of the prompt") != std::string::npos);
  const std::string totals = run("extend '" + w.base.path() + "' '" + w.text + "' '" + w.dir.path("long") + "' 2");
  CHECK(totals.find("\"window\"") != totals.rfind("\"window\""));  // before and after
  CHECK(std::filesystem::exists(w.dir.path("long/config.json")));
}
