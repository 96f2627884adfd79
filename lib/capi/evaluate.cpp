// The C API: evaluation. One function for every protocol; the settings are the protocol's own.
#include "capi/detail.h"
#include "data/text.h"
#include "eval/cloze.h"
#include "eval/protocol.h"

using namespace rw;

struct ropewalk_result {
  std::string json;
};

namespace {

/// Hands each setting its values; a name that stands several times is a list. `what` is it that has the settings.
void assign_all(const Settings& given, const std::vector<Setting>& known, const std::string& what, bool has_text,
                const char* name) {
  std::vector<std::pair<const Setting*, std::vector<std::string>>> values;
  const auto stated = [&](const std::string& wanted) {
    return std::any_of(values.begin(), values.end(), [&](const auto& v) { return v.first->name == wanted; });
  };
  for (const auto& [key, value] : given) {
    const Setting* setting = find_setting(known, key);
    check(setting != nullptr, name, what, " has no setting '", key, "'");
    const auto at = std::find_if(values.begin(), values.end(), [&](const auto& v) { return v.first == setting; });
    if (at == values.end()) values.push_back({setting, {value}});
    else at->second.push_back(value);
  }
  for (const auto& [setting, texts] : values) {
    for (const std::string& other : setting->excludes)
      check(!stated(other), name, "'", setting->name, "' excludes '", other, "'");
    assign(*setting, texts, "'" + setting->name + "'");
  }
  require(!has_text || !stated("data"), name, "there are documents and the setting 'data': give one");
  for (const Setting& setting : known) {
    const bool given_otherwise = setting.name == "data" && has_text;
    check(!setting.required || stated(setting.name) || given_otherwise, name, what, " needs '", setting.name, "'");
  }
}

}  // namespace

ropewalk_status ropewalk_evaluate(ropewalk_model* model, const char* kind, const ropewalk_setting* settings,
                                  size_t count, const ropewalk_evaluate_options* options, ropewalk_result** result) {
  if (result != nullptr) *result = nullptr;
  return guarded([&] {
    constexpr const char* kName = "ropewalk_evaluate";
    require(model != nullptr && kind != nullptr && result != nullptr, kName, "model, kind and result must not be null");
    const ropewalk_evaluate_options o =
        read_options(options, {sizeof(ropewalk_evaluate_options), nullptr, 0, nullptr, nullptr}, kName);
    const auto protocol = make_eval_protocol(kind);
    check(protocol != nullptr, kName, "unknown kind '", kind, "'");
    assign_all(read_settings(settings, count, kName), protocol->settings(), cat("eval ", kind), o.documents_count > 0,
               kName);
    protocol->options.model = model->path;
    const Tokenizer& tokenizer = *model->tokenizer;
    TokenCorpus text;
    if (o.documents_count > 0) text = read_documents(o.documents, o.documents_count, tokenizer, kName);
    else if (!protocol->options.data.empty()) text = load_tokens(protocol->options.data, tokenizer);
    use_device(model->lm->device());
    EvalSubject subject(*model->lm, tokenizer, text, protocol->options);
    const EvalResult found = protocol->run(subject, [&](int64_t done, int64_t total) {
      if (o.on_progress != nullptr && o.on_progress(o.user, done, total) != 0) throw Stopped();
    });
    *result = new ropewalk_result{to_json(found)};
    return ROPEWALK_OK;
  });
}

ropewalk_status ropewalk_cloze(const ropewalk_setting* settings, size_t count, const ropewalk_document* documents,
                               size_t documents_count, ropewalk_result** result) {
  if (result != nullptr) *result = nullptr;
  return guarded([&] {
    constexpr const char* kName = "ropewalk_cloze";
    require(result != nullptr, kName, "result must not be null");
    ClozeOptions o;
    std::vector<std::string> data;
    const auto number = [](const char* setting, auto& to, double low, double high) {
      return Setting{.name = setting, .target = &to, .low = low, .high = high};
    };
    const std::vector<Setting> known = {{.name = "data", .target = &data, .required = true},
                                        number("items", o.items, 1, kMostCount),
                                        number("choices", o.choices, 2, 26),
                                        number("context-words", o.context_words, 1, kMostCount),
                                        number("choice-words", o.choice_words, 1, kMostCount),
                                        number("seed", o.seed, 0, 1e20)};
    assign_all(read_settings(settings, count, kName), known, "cloze", documents_count > 0, kName);
    const GivenDocuments given = read_documents(documents, documents_count, kName);
    require(given.ids.empty(), kName, "the documents must be text, not token ids");
    *result =
        new ropewalk_result{choices_to_jsonl(make_cloze(documents_count > 0 ? given.text : load_corpus(data), o))};
    return ROPEWALK_OK;
  });
}

const char* ropewalk_result_json(const ropewalk_result* result, size_t* bytes) {
  if (bytes != nullptr) *bytes = result ? result->json.size() : 0;
  return result ? result->json.c_str() : nullptr;
}

void ropewalk_result_free(ropewalk_result* result) { delete result; }
