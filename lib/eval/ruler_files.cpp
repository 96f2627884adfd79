// RULER's files: prompts that its own generators wrote, and the question sets of qa_1 and qa_2.
#include <algorithm>
#include <map>
#include <nlohmann/json.hpp>
#include <set>
#include <sstream>

#include "eval/ruler.h"
#include "tensor/error.h"
#include "tensor/file.h"
#include "tensor/json_depth.h"

namespace rw {
namespace {

constexpr const char* kOp = "ruler";
using Json = nlohmann::json;

std::string text_of(const Json& object, const char* key, const std::string& where) {
  check(object.is_object() && object.contains(key) && object[key].is_string(), kOp, where, ": \"", key,
        "\" must be a string");
  return object[key].get<std::string>();
}

const Json& list_of(const Json& object, const char* key, const std::string& where) {
  check(object.is_object() && object.contains(key) && object[key].is_array(), kOp, where, ": \"", key,
        "\" must be a list");
  return object[key];
}

/// Documents in order of their text, each once, as RULER numbers them.
class Documents {
 public:
  explicit Documents(std::set<std::string> texts) : list_(texts.begin(), texts.end()) {
    for (size_t i = 0; i < list_.size(); ++i) index_[list_[i]] = static_cast<int64_t>(i);
  }
  int64_t at(const std::string& text) const { return index_.at(text); }
  std::vector<std::string> list() const { return list_; }

 private:
  std::vector<std::string> list_;
  std::map<std::string, int64_t> index_;
};

RulerQuestions read_squad(const Json& json, const std::string& path) {
  std::set<std::string> texts;
  for (const Json& article : list_of(json, "data", path)) {
    for (const Json& p : list_of(article, "paragraphs", path)) texts.insert(text_of(p, "context", path));
  }
  const Documents documents(std::move(texts));
  RulerQuestions out{{}, documents.list()};
  for (const Json& article : json["data"]) {
    std::vector<int64_t> around;
    for (const Json& p : article["paragraphs"]) around.push_back(documents.at(text_of(p, "context", path)));
    for (const Json& p : article["paragraphs"]) {
      const int64_t own = documents.at(text_of(p, "context", path));
      for (const Json& qa : list_of(p, "qas", path)) {
        if (qa.value("is_impossible", false)) continue;
        RulerQuestion q{.question = text_of(qa, "question", path), .answers = {}, .documents = {own}, .neighbours = {}};
        for (const Json& a : list_of(qa, "answers", path)) q.answers.push_back(text_of(a, "text", path));
        check(!q.answers.empty(), kOp, path, ": the question '", q.question.substr(0, 60), "' has no answer");
        std::copy_if(around.begin(), around.end(), std::back_inserter(q.neighbours),
                     [&](int64_t d) { return d != own; });
        out.questions.push_back(std::move(q));
      }
    }
  }
  return out;
}

/// Title, a line break, and the sentences.
std::string hotpot_document(const Json& entry, const std::string& path) {
  check(entry.is_array() && entry.size() == 2 && entry[0].is_string() && entry[1].is_array(), kOp, path,
        ": an entry of \"context\" must be a title and a list of sentences");
  std::string text = entry[0].get<std::string>() + "\n";
  for (const Json& sentence : entry[1]) {
    check(sentence.is_string(), kOp, path, ": a sentence must be a string");
    text += sentence.get<std::string>();
  }
  return text;
}

RulerQuestions read_hotpot(const Json& json, const std::string& path) {
  std::set<std::string> texts;
  for (const Json& item : json) {
    for (const Json& entry : list_of(item, "context", path)) texts.insert(hotpot_document(entry, path));
  }
  const Documents documents(std::move(texts));
  RulerQuestions out{{}, documents.list()};
  for (const Json& item : json) {
    RulerQuestion q{.question = text_of(item, "question", path),
                    .answers = {text_of(item, "answer", path)},
                    .documents = {},
                    .neighbours = {}};
    for (const Json& entry : item["context"]) q.documents.push_back(documents.at(hotpot_document(entry, path)));
    out.questions.push_back(std::move(q));
  }
  return out;
}

}  // namespace

RulerQuestions load_ruler_questions(const std::string& path) {
  const std::string text = read_file(path, limits::text);
  check_json_depth(text, kOp, path);
  const Json json = Json::parse(text, nullptr, /*allow_exceptions=*/false);
  check(json.is_array() || (json.is_object() && json.contains("data")), kOp, path,
        ": expected SQuAD's JSON (an object with \"data\") or HotpotQA's (a list)");
  RulerQuestions out = json.is_array() ? read_hotpot(json, path) : read_squad(json, path);
  check(!out.questions.empty(), kOp, path, " holds no questions");
  return out;
}

std::vector<RulerPrompt> load_ruler(const std::string& path, const std::string& task) {
  check(std::find(ruler_tasks().begin(), ruler_tasks().end(), task) != ruler_tasks().end(), kOp,
        "prompts of a file need their task's name, got '", task, "'");
  std::istringstream in(read_file(path, limits::text));
  std::vector<RulerPrompt> out;
  std::string line;
  for (int64_t number = 1; std::getline(in, line); ++number) {
    if (line.find_first_not_of(" \t\r") == std::string::npos) continue;
    check_json_depth(line, kOp, path);
    const Json json = Json::parse(line, nullptr, /*allow_exceptions=*/false);
    const std::string where = cat(path, " line ", number);
    RulerPrompt prompt{text_of(json, "input", where), {}, task};
    if (json.contains("answer_prefix")) prompt.text += text_of(json, "answer_prefix", where);
    for (const Json& answer : list_of(json, "outputs", where)) {
      check(answer.is_string(), kOp, where, ": an output must be a string");
      prompt.answers.push_back(answer.get<std::string>());
    }
    check(!prompt.answers.empty(), kOp, where, ": \"outputs\" is empty");
    out.push_back(std::move(prompt));
  }
  check(!out.empty(), kOp, path, " holds no prompts");
  return out;
}

}  // namespace rw
