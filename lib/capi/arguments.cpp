// The C API: settings and documents as callers give them, as the library takes them.
#include "capi/detail.h"

namespace rw {

void check_ids(const ropewalk_model& model, const int32_t* ids, size_t count, const char* function) {
  const int64_t vocab = model.lm->config().vocab_size;
  for (size_t i = 0; i < count; ++i)
    check(ids[i] >= 0 && ids[i] < vocab, function, "token id ", ids[i], " at position ", i,
          " is beyond the vocabulary of ", vocab);
}

Settings read_settings(const ropewalk_setting* settings, size_t count, const char* function) {
  constexpr size_t kMost = 10000;
  require(settings != nullptr || count == 0, function, "settings is null but has ", count, " entries");
  require(count <= kMost, function, "expected at most ", kMost, " settings, got ", count);
  Settings out;
  for (size_t i = 0; i < count; ++i) {
    require(settings[i].name != nullptr && settings[i].value != nullptr, function, "setting ", i,
            " has no name or no value");
    std::string name = settings[i].name;
    std::replace(name.begin(), name.end(), '_', '-');
    out.emplace_back(name, settings[i].value);
  }
  return out;
}

GivenDocuments read_documents(const ropewalk_document* documents, size_t count, const char* function) {
  require(documents != nullptr || count == 0, function, "documents is null but has ", count, " entries");
  GivenDocuments out;
  for (size_t i = 0; i < count; ++i) {
    const ropewalk_document& d = documents[i];
    require((d.text == nullptr) != (d.ids == nullptr), function, "document ", i,
            " must have either text or ids, and not both");
    require((d.text == nullptr) == (documents[0].text == nullptr), function,
            "some documents are text and others are ids: give all as one");
    const std::string name = d.name ? d.name : std::to_string(i);
    if (d.text != nullptr) {
      out.text.push_back({name, std::string(d.text, d.bytes)});
    } else {
      out.names.push_back(name);
      out.ids.emplace_back(d.ids, d.ids + d.count);
    }
  }
  return out;
}

TokenCorpus read_documents(const ropewalk_document* documents, size_t count, const Tokenizer& tokenizer,
                           const char* function) {
  const GivenDocuments given = read_documents(documents, count, function);
  if (!given.text.empty()) return tokenize_corpus(given.text, tokenizer);
  return TokenCorpus(given.names, given.ids, tokenizer.vocab_size());
}

}  // namespace rw
