// The C API: training. A recipe as text and settings, callbacks, and the model that comes of it.
#include <set>

#include "capi/detail.h"
#include "nn/io/adapter.h"
#include "nn/io/checkpoint.h"
#include "nn/io/hf.h"
#include "train/recipe_fields.h"
#include "train/trainer.h"

using namespace rw;

namespace {

/// What callbacks need; it lives as long as the trainer or a model of it.
struct Calls {
  ropewalk_train_options options;
  bool stop = false;

  void step(const StepReport& r) {
    const ropewalk_step step{.size = sizeof step,
                             .step = r.step,
                             .steps = r.steps,
                             .loss = r.loss,
                             .grad_norm = r.grad_norm,
                             .lr = r.lr,
                             .tokens = r.tokens,
                             .tokens_per_s = r.tokens_per_s,
                             .seconds = r.seconds};
    if (options.on_step(options.user, &step) != 0) stop = true;
  }
  void validation(const ValidationReport& r) {
    const ropewalk_validation v{.size = sizeof v,
                                .step = r.step,
                                .loss = r.loss,
                                .tokens = r.tokens,
                                .documents = r.documents,
                                .window = r.window};
    if (options.on_validation(options.user, &v) != 0) stop = true;
  }
};

TrainCallbacks callbacks_of(const std::shared_ptr<Calls>& calls) {
  TrainCallbacks c;
  const ropewalk_train_options& o = calls->options;
  if (o.on_step) c.on_step = [calls](const StepReport& r) { calls->step(r); };
  if (o.on_validation) c.on_validation = [calls](const ValidationReport& r) { calls->validation(r); };
  if (o.on_notice)
    c.on_notice = [calls](const std::string& line) { calls->options.on_notice(calls->options.user, line.c_str()); };
  c.stop = [calls] { return calls->stop; };
  return c;
}

bool read_flag(const std::string& name, const std::string& value, const char* function) {
  check(value == "true" || value == "false", function, "'", name, "' must be true or false, got '", value.substr(0, 40),
        "'");
  return value == "true";
}

/// The recipe, with the settings put over it: a list that the settings name replaces the recipe's.
Recipe read_recipe(const char* text, const Settings& settings, const char* function) {
  Recipe recipe = text ? recipe_from_toml(text, "recipe") : Recipe();
  std::set<std::string> begun;
  for (const auto& [key, value] : settings) {
    const RecipeField* field = find_recipe_field(key);
    const MethodOption* option = field ? nullptr : find_method_option(key);
    if (key == "out") recipe.out = value;
    else if (key == "resume") recipe.resume = read_flag(key, value, function);
    else if (key == "overwrite") recipe.overwrite = read_flag(key, value, function);
    else if (option) recipe.method_options[option->key] = value;
    else check(field != nullptr, function, "unknown setting '", key, "'");
    if (!field) continue;
    const RecipeField::Ref at = field->at(recipe);
    if (auto* list = std::get_if<std::vector<std::string>*>(&at); list && begun.insert(key).second) (*list)->clear();
    set_field(recipe, *field, value);
  }
  return recipe;
}

}  // namespace

struct ropewalk_trainer {
  std::shared_ptr<Trainer> trainer;
  Recipe recipe;
  Device device;
  bool ran = false, was_finished = false;
};

namespace {

/// The model that an earlier process left: the trainer, which had nothing to do, holds the base.
std::shared_ptr<CausalLm> finished_model(const ropewalk_trainer& trainer) {
  const Recipe& r = trainer.recipe;
  const LoadOptions options{.compute = trainer.device.is_cuda() ? DType::bf16 : DType::f32, .device = trainer.device};
  if (r.lora_rank > 0 || is_adapter_folder(r.out))
    return load_merged(model_folder(r.from), adapter_folder(r.out), options);
  return load_hf(model_folder(r.out), options);
}

}  // namespace

ropewalk_status ropewalk_trainer_create(const char* recipe, const ropewalk_setting* settings, size_t count,
                                        const ropewalk_train_options* options, ropewalk_trainer** trainer) {
  if (trainer != nullptr) *trainer = nullptr;
  return guarded([&] {
    constexpr const char* kName = "ropewalk_trainer_create";
    require(trainer != nullptr, kName, "trainer must not be null");
    const auto calls = std::make_shared<Calls>();
    ropewalk_train_options& o = calls->options;
    o = read_options(options, {sizeof o, nullptr, nullptr, 0, nullptr, nullptr, nullptr, nullptr}, kName);
    const Recipe wanted = read_recipe(recipe, read_settings(settings, count, kName), kName);
    GivenDocuments given = read_documents(o.documents, o.documents_count, kName);
    require(o.documents_count == 0 || wanted.data.empty(), kName,
            "there are documents and the setting 'data': give one");
    TrainPlace place{.device = parse_device(o.device ? o.device : "auto")};
    place.documents = std::move(given.text);
    for (size_t i = 0; i < given.ids.size(); ++i) place.tokens.push_back({given.names[i], std::move(given.ids[i])});
    use_device(place.device);
    auto made = std::make_unique<ropewalk_trainer>();
    made->device = place.device;
    made->recipe = wanted;
    made->trainer = std::make_shared<Trainer>(wanted, place, callbacks_of(calls));
    *trainer = made.release();
    return ROPEWALK_OK;
  });
}

ropewalk_status ropewalk_trainer_run(ropewalk_trainer* trainer, ropewalk_train_result* result) {
  return guarded([&] {
    constexpr const char* kName = "ropewalk_trainer_run";
    require(trainer != nullptr, kName, "trainer must not be null");
    if (result != nullptr) check_size(result->size, alignof(ropewalk_train_result), kName);
    require(!trainer->ran, kName, "this trainer has run: make another one, with resume to go on");
    trainer->ran = true;
    use_device(trainer->device);
    const TrainResult r = trainer->trainer->run();
    trainer->was_finished = r.end == TrainEnd::was_finished;
    const int32_t end = r.end == TrainEnd::finished  ? ROPEWALK_TRAIN_FINISHED
                        : r.end == TrainEnd::stopped ? ROPEWALK_TRAIN_STOPPED
                                                     : ROPEWALK_TRAIN_WAS_FINISHED;
    if (result != nullptr)
      write_result(ropewalk_train_result{.size = sizeof *result,
                                         .end = end,
                                         .reserved = 0,
                                         .steps = r.steps,
                                         .tokens = r.tokens,
                                         .seconds = r.seconds},
                   result);
    return ROPEWALK_OK;
  });
}

ropewalk_status ropewalk_trainer_model(ropewalk_trainer* trainer, ropewalk_model** model) {
  if (model != nullptr) *model = nullptr;
  return guarded([&] {
    require(trainer != nullptr && model != nullptr, "ropewalk_trainer_model", "trainer and model must not be null");
    const std::shared_ptr<Trainer>& whole = trainer->trainer;  // which owns both
    if (trainer->was_finished) {
      use_device(trainer->device);
      *model = new ropewalk_model{finished_model(*trainer), {whole, &whole->tokenizer()}, trainer->recipe.out};
      return ROPEWALK_OK;
    }
    *model = new ropewalk_model{{whole, &whole->model()}, {whole, &whole->tokenizer()}, ""};
    return ROPEWALK_OK;
  });
}

void ropewalk_trainer_free(ropewalk_trainer* trainer) { delete trainer; }
