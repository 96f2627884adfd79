// The C API: logits, scores, the RoPE recipe of a loaded model, and saving it.
#include <filesystem>

#include "autograd/ops/concat.h"
#include "autograd/tape.h"
#include "capi/detail.h"
#include "eval/scorer.h"
#include "nn/io/hf.h"
#include "train/extend.h"
#include "train/recipe_fields.h"

using namespace rw;

namespace {

/// What logits and scores ask of their arguments alike.
void check_call(const ropewalk_model* model, const int32_t* ids, size_t count, size_t first, const void* out,
                size_t capacity, const size_t* written, const char* name) {
  require(model != nullptr && written != nullptr, name, "model and written must not be null");
  require(ids != nullptr && count > 0 && count <= INT32_MAX, name, "expected 1 to ", INT32_MAX, " ids, got ", count);
  require(first < count, name, "first is ", first, " of ", count, " ids");
  require(out != nullptr || capacity == 0, name, "the buffer is null but has room for ", capacity);
  check_ids(*model, ids, count, name);
}

/// The method that settings name, and its target.
std::pair<Method, int64_t> read_method(const Settings& settings, const ModelConfig& base, const char* name) {
  Recipe recipe;  // its table knows the names, types and ranges
  recipe.method = "full";
  for (const auto& [key, value] : settings) {
    const bool shared = key == "method" || key == "scaling" || key == "factor" || key == "target";
    const RecipeField* field = shared ? find_recipe_field(key) : nullptr;
    const MethodOption* option = field ? nullptr : find_method_option(key);
    check(field || option, name, "unknown setting '", key,
          "', expected method, scaling, factor, target or a field of a method");
    if (field) set_field(recipe, *field, value);
    else recipe.method_options[option->key] = value;
  }
  const MethodText text{.name = recipe.method,
                        .scaling = recipe.scaling,
                        .factor = recipe.factor,
                        .window = 0,
                        .options = recipe.method_options};
  return {method_from_text(text, base), recipe.target};
}

}  // namespace

ropewalk_status ropewalk_logits(ropewalk_model* model, const int32_t* ids, size_t count, size_t first, float* logits,
                                size_t capacity, size_t* written) {
  return guarded([&] {
    constexpr const char* kName = "ropewalk_logits";
    check_call(model, ids, count, first, logits, capacity, written, kName);
    const CausalLm& lm = *model->lm;
    const int64_t tokens = static_cast<int64_t>(count), vocab = lm.config().vocab_size;
    if (!fits((count - first) * static_cast<size_t>(vocab), capacity, written, kName)) return ROPEWALK_ERROR_BUFFER;
    use_device(lm.device());
    const NoGrad no_grad;
    const Tensor input = Tensor::from(std::vector<int32_t>(ids, ids + count), {1, tokens}).to(lm.device());  // [1,T]
    const Var hidden = lm.forward(input, lm.angles(lm.plain_positions(0, tokens), {}));                      // [1,T,C]
    const Var rows = narrow(hidden, 1, static_cast<int64_t>(first), tokens);  // [1,T-first,C]
    const Tensor out = lm.logits(rows).value().to(kCpu).to(DType::f32);       // [1,T-first,V]
    std::copy_n(out.data<float>(), *written, logits);
    return ROPEWALK_OK;
  });
}

ropewalk_status ropewalk_score(ropewalk_model* model, const int32_t* ids, size_t count, size_t first, double* log_probs,
                               size_t capacity, size_t* written) {
  return guarded([&] {
    constexpr const char* kName = "ropewalk_score";
    check_call(model, ids, count, first, log_probs, capacity, written, kName);
    require(first >= 1, kName, "first must be at least 1: nothing predicts the first token");
    if (!fits(count - first, capacity, written, kName)) return ROPEWALK_ERROR_BUFFER;
    use_device(model->lm->device());
    ModelScorer scorer(*model->lm);
    const std::vector<ScoreWindow> windows = {{{ids, ids + count}, static_cast<int64_t>(first)}};
    const auto scores = scorer.score(windows, static_cast<int64_t>(count));
    for (const TokenScore& score : scores.at(0)) *log_probs++ = -score.nll;
    return ROPEWALK_OK;
  });
}

ropewalk_status ropewalk_extend(ropewalk_model* model, const ropewalk_setting* settings, size_t count) {
  return guarded([&] {
    constexpr const char* kName = "ropewalk_extend";
    require(model != nullptr, kName, "model must not be null");
    CausalLm& lm = *model->lm;
    const auto [method, target] = read_method(read_settings(settings, count, kName), lm.config(), kName);
    use_device(lm.device());
    lm.set_rope(extend_untrained(lm.config(), method, target).config.rope);
    return ROPEWALK_OK;
  });
}

ropewalk_status ropewalk_rope(const ropewalk_model* model, char* json, size_t capacity, size_t* bytes) {
  return guarded([&] {
    constexpr const char* kName = "ropewalk_rope";
    require(model != nullptr && bytes != nullptr, kName, "model and bytes must not be null");
    require(json != nullptr || capacity == 0, kName, "json is null but has room for ", capacity);
    return give(rope_scaling_to_json(model->lm->config().rope), json, capacity, bytes, kName);
  });
}

ropewalk_status ropewalk_save(const ropewalk_model* model, const char* folder) {
  return guarded([&] {
    constexpr const char* kName = "ropewalk_save";
    require(model != nullptr && folder != nullptr && *folder != 0, kName, "model and folder must not be null or empty");
    std::error_code error;
    check(!std::filesystem::exists(std::string(folder) + "/config.json", error), kName, "'", folder,
          "' holds a model: name another folder");
    std::filesystem::create_directories(folder, error);
    check(!error, kName, "cannot make folder '", folder, "': ", error.message());
    model->tokenizer->save(folder);
    save_hf(folder, *model->lm);  // config.json last: who finds it finds everything
    return ROPEWALK_OK;
  });
}
