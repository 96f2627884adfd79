// The C API's newer evaluations, the maker of multiple-choice sets, and models from GGUF files.
#include <ropewalk.h>

#include <fstream>
#include <nlohmann/json.hpp>
#include <sstream>

#include "data/tokenizer_gguf.h"
#include "nn/io/gguf.h"
#include "small_model.h"

using namespace rw;

namespace {

std::string story(int lines) {
  std::ostringstream out;
  for (int i = 0; i < lines; ++i)
    out << "Line " << i * i % 97 << " of the long story, in which word" << i << " comes.\n";
  return out.str();
}

/// The JSON of a result; null after an error.
nlohmann::json evaluated(ropewalk_model* model, const char* kind, const std::vector<ropewalk_setting>& settings) {
  ropewalk_result* result = nullptr;
  const ropewalk_status status = ropewalk_evaluate(model, kind, settings.data(), settings.size(), nullptr, &result);
  CAPTURE(std::string(ropewalk_last_error()));
  CHECK(status == ROPEWALK_OK);
  const auto json =
      status == ROPEWALK_OK ? nlohmann::json::parse(ropewalk_result_json(result, nullptr)) : nlohmann::json();
  ropewalk_result_free(result);
  return json;
}

}  // namespace

TEST_CASE("needle, ruler, longppl and choice run through the C API and state their protocol") {
  const SmallModel folder;
  const Loaded m(folder.path());
  const std::string book = folder.path("book.txt");
  std::ofstream(book) << story(200);
  const auto needle = evaluated(m.model, "needle", {{"length", "300"}, {"depth", "0,1"}, {"trials", "2"}});
  CHECK(needle["totals"].size() == 2);
  const auto ruler =
      evaluated(m.model, "ruler", {{"task", "fwe"}, {"task", "niah_single_1"}, {"window", "1200"}, {"trials", "1"}});
  CHECK(ruler["totals"].size() == 3);  // both and their average
  CHECK(ruler["totals"][2]["task"] == "average");
  const auto longppl =
      evaluated(m.model, "longppl", {{"data", book.c_str()}, {"window", "64"}, {"short-window", "16"}});
  CHECK(longppl["totals"][0]["tokens"].get<int64_t>() == 64 - 16);

  ropewalk_result* set = nullptr;
  const std::string text = story(200);
  const ropewalk_document document{"story", text.data(), text.size(), nullptr, 0};
  const ropewalk_setting settings[] = {{"items", "6"}, {"context_words", "8"}, {"choice-words", "3"}};
  REQUIRE(ropewalk_cloze(settings, 3, &document, 1, &set) == ROPEWALK_OK);
  size_t bytes = 0;
  const std::string lines = ropewalk_result_json(set, &bytes);
  ropewalk_result_free(set);
  CHECK(bytes == lines.size());
  CHECK(std::count(lines.begin(), lines.end(), '\n') == 6);
  const std::string file = folder.path("cloze.jsonl");
  std::ofstream(file) << lines;
  const auto choice = evaluated(m.model, "choice", {{"file", file.c_str()}});
  CHECK(choice["totals"][0]["items"] == 6);
  CHECK(choice["protocol"]["file_checksum"].get<std::string>().size() == 16);
}

TEST_CASE("ropewalk_cloze takes files or text, and refuses ids, both at once, unknown settings and short text") {
  const SmallModel folder;
  const std::string book = folder.path("book.txt"), text = story(200);
  std::ofstream(book) << text;
  const int32_t ids[] = {1, 2, 3};
  const ropewalk_document as_text{"story", text.data(), text.size(), nullptr, 0}, as_ids{nullptr, nullptr, 0, ids, 3};
  const auto make = [&](std::vector<ropewalk_setting> settings, const ropewalk_document* document) {
    settings.push_back({"items", "3"});
    ropewalk_result* result = nullptr;
    const ropewalk_status status =
        ropewalk_cloze(settings.data(), settings.size(), document, document ? 1 : 0, &result);
    const std::string lines = status == ROPEWALK_OK ? ropewalk_result_json(result, nullptr) : "";
    CHECK((result == nullptr) == (status != ROPEWALK_OK));
    ropewalk_result_free(result);
    return std::pair(status, lines);
  };
  const std::vector<ropewalk_setting> small = {{"context-words", "8"}, {"choice-words", "3"}};
  const auto from_text = make(small, &as_text);
  CHECK(from_text.first == ROPEWALK_OK);
  std::vector<ropewalk_setting> with_file = small;
  with_file.push_back({"data", book.c_str()});
  CHECK(make(with_file, nullptr) == from_text);
  CHECK(make(with_file, &as_text).first == ROPEWALK_ERROR_ARGUMENT);
  CHECK(says("give one"));
  CHECK(make(small, &as_ids).first == ROPEWALK_ERROR_ARGUMENT);
  CHECK(says("must be text"));
  CHECK(make(small, nullptr).first == ROPEWALK_ERROR_INPUT);
  CHECK(says("cloze needs 'data'"));
  CHECK(make({{"colour", "red"}}, &as_text).first == ROPEWALK_ERROR_INPUT);
  CHECK(says("cloze has no setting 'colour'"));
  CHECK(make({{"choices", "1"}}, &as_text).first == ROPEWALK_ERROR_INPUT);
  CHECK(make({{"context-words", "5000"}}, &as_text).first == ROPEWALK_ERROR_INPUT);
  CHECK(ropewalk_cloze(nullptr, 0, &as_text, 1, nullptr) == ROPEWALK_ERROR_ARGUMENT);
}

TEST_CASE("a GGUF file loads with its own tokenizer, gives the folder's logits, and takes another RoPE recipe") {
  const SmallModel folder;
  const std::string file = folder.path("model.gguf");
  const auto model = load_hf(folder.path());
  const auto tokenizer = load_tokenizer(folder.path());
  save_gguf_model(file, *model, GgmlType::f32, gguf_tokenizer(*tokenizer, model->config().vocab_size));
  const Loaded from_folder(folder.path()), from_file(file), stretched(file, "{\"rope_type\":\"linear\",\"factor\":2}");
  CHECK(ropewalk_vocab_size(from_file.model) == ropewalk_vocab_size(from_folder.model));
  CHECK(ropewalk_context_length(from_file.model) == 64);
  CHECK(ropewalk_context_length(stretched.model) == 128);
  const auto tokens = [](const ropewalk_model* m) {
    std::vector<int32_t> ids(16);
    size_t count = 0;
    CHECK(ropewalk_tokenize(m, "Call me", 7, 0, ids.data(), ids.size(), &count) == ROPEWALK_OK);
    ids.resize(count);
    return ids;
  };
  const std::vector<int32_t> ids = tokens(from_folder.model);
  CHECK(tokens(from_file.model) == ids);
  const auto logits = [&](ropewalk_model* m) {
    std::vector<float> out(ids.size() * static_cast<size_t>(ropewalk_vocab_size(m)));
    size_t written = 0;
    CHECK(ropewalk_logits(m, ids.data(), ids.size(), 0, out.data(), out.size(), &written) == ROPEWALK_OK);
    return out;
  };
  CHECK(logits(from_file.model) == logits(from_folder.model));
  CHECK(logits(stretched.model) != logits(from_folder.model));
  std::ofstream(file, std::ios::trunc) << "GGUF";
  ropewalk_model* broken = nullptr;
  CHECK(ropewalk_load(file.c_str(), nullptr, &broken) == ROPEWALK_ERROR_INPUT);
  CHECK(broken == nullptr);
}
