// The published JSON lines of multiple-choice tasks as contexts and continuations.
#include <algorithm>
#include <nlohmann/json.hpp>
#include <sstream>

#include "eval/choice.h"
#include "tensor/error.h"
#include "tensor/file.h"
#include "tensor/json_depth.h"

namespace rw {
namespace {

constexpr const char* kOp = "choice";
constexpr size_t kMostChoices = 64;
using Json = nlohmann::json;

/// One line of a file; its errors name the line.
class Line {
 public:
  Line(const Json& json, std::string name) : json_(json), name_(std::move(name)) {}

  template <class... Parts>
  void require(bool good, const Parts&... parts) const {
    check(good, kOp, name_, ": ", parts...);
  }
  const Json& at(const char* key) const {
    require(json_.contains(key), "\"", key, "\" is missing");
    return json_[key];
  }
  std::string text(const char* key) const { return text(at(key), key); }
  std::string text(const Json& value, const char* key) const {
    require(value.is_string(), "\"", key, "\" must be a string");
    return value.get<std::string>();
  }
  std::vector<std::string> texts(const Json& value, const char* key) const {
    require(value.is_array() && value.size() >= 2 && value.size() <= kMostChoices, "\"", key, "\" must hold 2 to ",
            kMostChoices, " strings");
    std::vector<std::string> out;
    for (const Json& v : value) out.push_back(text(v, key));
    return out;
  }
  /// A whole number, or a text of one.
  int64_t index(const Json& value, const char* key) const {
    if (value.is_number_integer()) return value.get<int64_t>();
    require(value.is_string() && value.get_ref<const std::string&>().size() == 1 &&
                std::isdigit(static_cast<unsigned char>(value.get_ref<const std::string&>()[0])),
            "\"", key, "\" must be a whole number");
    return value.get<std::string>()[0] - '0';
  }
  void put(std::vector<ChoiceItem>& out, ChoiceItem item) const {
    require(item.answer >= 0 && item.answer < static_cast<int64_t>(item.continuations.size()),
            "the answer is none of the choices");
    out.push_back(std::move(item));
  }

 private:
  const Json& json_;
  std::string name_;
};

void read_own(const Line& line, std::vector<ChoiceItem>& out) {
  line.put(
      out,
      {{line.text("context")}, line.texts(line.at("choices"), "choices"), line.index(line.at("answer"), "answer")});
}

void read_boolq(const Line& line, std::vector<ChoiceItem>& out) {
  const Json& answer = line.at("answer");
  line.require(answer.is_boolean(), "\"answer\" must be true or false");
  line.put(out, {{cat(line.text("passage"), "\nQuestion: ", line.text("question"), "?\nAnswer:")},
                 {"no", "yes"},
                 answer.get<bool>() ? 1 : 0});
}

void read_piqa(const Line& line, std::vector<ChoiceItem>& out) {
  line.put(out, {{cat("Question: ", line.text("goal"), "\nAnswer:")},
                 {line.text("sol1"), line.text("sol2")},
                 line.index(line.at("label"), "label")});
}

void read_race(const Json& json, const Line& line, std::vector<ChoiceItem>& out) {
  const std::string article = line.text("article");
  const auto add = [&](const std::string& question, const Json& options, const std::string& answer) {
    line.require(answer.size() == 1 && answer[0] >= 'A' && answer[0] <= 'Z', "an answer must be a letter");
    line.put(out, {{cat("Article: ", article, "\n\nQuestion: ", question, "\nAnswer:")},
                   line.texts(options, "options"),
                   answer[0] - 'A'});
  };
  if (!json.contains("questions")) {
    add(line.text("question"), line.at("options"), line.text("answer"));
    return;
  }
  const Json &questions = line.at("questions"), &options = line.at("options"), &answers = line.at("answers");
  line.require(questions.is_array() && options.is_array() && answers.is_array() && options.size() == questions.size() &&
                   answers.size() == questions.size(),
               "\"questions\", \"options\" and \"answers\" must be lists of one length");
  for (size_t i = 0; i < questions.size(); ++i)
    add(line.text(questions[i], "questions"), options[i], line.text(answers[i], "answers"));
}

void read_winogrande(const Line& line, std::vector<ChoiceItem>& out) {
  const std::string sentence = line.text("sentence");
  const size_t blank = sentence.find('_');
  line.require(blank != std::string::npos, "\"sentence\" holds no _");
  std::string rest = sentence.substr(blank + 1);
  rest.erase(0, std::min(rest.find_first_not_of(" \t\n"), rest.size()));
  const std::string before = sentence.substr(0, blank);
  line.put(out, {{before + line.text("option1"), before + line.text("option2")},
                 {rest, rest},
                 line.index(line.at("answer"), "answer") - 1});
}

void read_arc(const Line& line, std::vector<ChoiceItem>& out) {
  const Json& question = line.at("question");
  const Json& choices = question.is_object() && question.contains("choices") ? question["choices"] : line.at("choices");
  const std::string stem = question.is_object() && question.contains("stem") ? line.text(question["stem"], "stem")
                                                                             : line.text(question, "question");
  Json texts = Json::array(), labels = Json::array();
  if (choices.is_object() && choices.contains("text") && choices.contains("label")) {
    texts = choices["text"], labels = choices["label"];
  } else {
    line.require(choices.is_array(), "\"choices\" must be a list, or an object of text and label");
    for (const Json& c : choices) {
      line.require(c.is_object() && c.contains("text") && c.contains("label"), "a choice needs text and label");
      texts.push_back(c["text"]);
      labels.push_back(c["label"]);
    }
  }
  const std::vector<std::string> names = line.texts(labels, "label");
  const auto right = std::find(names.begin(), names.end(), line.text("answerKey"));
  line.put(out, {{cat("Question: ", stem, "\nAnswer:")}, line.texts(texts, "text"), right - names.begin()});
}

std::string replaced(std::string text, const std::string& from, const std::string& to) {
  for (size_t at = text.find(from); at != std::string::npos; at = text.find(from, at + to.size()))
    text.replace(at, from.size(), to);
  return text;
}

/// As the harness cleans WikiHow's texts: titles become sentences, other brackets go.
std::string without_brackets(std::string text) {
  const auto space = [](char c) { return c == ' ' || c == '\n' || c == '\t' || c == '\r'; };
  while (!text.empty() && space(text.back())) text.pop_back();
  while (!text.empty() && space(text.front())) text.erase(0, 1);
  text = replaced(text, " [title]", ". ");
  for (size_t open = text.find('['); open != std::string::npos; open = text.find('[', open)) {
    const size_t close = text.find(']', open);
    if (close == std::string::npos) break;
    text.erase(open, close - open + 1);
  }
  return replaced(text, "  ", " ");
}

void read_hellaswag(const Line& line, std::vector<ChoiceItem>& out) {
  std::string second = line.text("ctx_b");
  for (size_t i = 0; i < second.size(); ++i) {
    const unsigned char c = static_cast<unsigned char>(second[i]);
    second[i] = static_cast<char>(i == 0 ? std::toupper(c) : std::tolower(c));
  }
  std::vector<std::string> endings = line.texts(line.at("endings"), "endings");
  for (std::string& e : endings) e = without_brackets(e);
  line.put(out, {{without_brackets(cat(line.text("activity_label"), ": ", line.text("ctx_a"), " ", second))},
                 endings,
                 line.index(line.at("label"), "label")});
}

/// The task whose fields a line has.
std::string task_of(const Json& json) {
  const std::pair<const char*, const char*> marks[] = {
      {"passage", "boolq"}, {"sol1", "piqa"},         {"article", "race"}, {"sentence", "winogrande"},
      {"answerKey", "arc"}, {"endings", "hellaswag"}, {"context", "own"}};
  for (const auto& [key, task] : marks) {
    if (json.contains(key)) return task;
  }
  return "";
}

}  // namespace

std::vector<ChoiceItem> load_choices(const std::string& path, const std::string& wanted) {
  std::istringstream in(read_file(path, limits::text));
  std::vector<ChoiceItem> out;
  std::string text, task = wanted == "auto" ? "" : wanted;
  for (int64_t number = 1; std::getline(in, text); ++number) {
    if (text.find_first_not_of(" \t\r") == std::string::npos) continue;
    check_json_depth(text, kOp, path);
    const Json json = Json::parse(text, nullptr, /*allow_exceptions=*/false);
    const Line line(json, cat(path, " line ", number));
    line.require(json.is_object(), "expected a JSON object");
    if (task.empty()) task = task_of(json);
    line.require(!task.empty(), "the task cannot be told from its fields; name it");
    if (task == "own") read_own(line, out);
    else if (task == "boolq") read_boolq(line, out);
    else if (task == "piqa") read_piqa(line, out);
    else if (task == "race") read_race(json, line, out);
    else if (task == "winogrande") read_winogrande(line, out);
    else if (task == "arc") read_arc(line, out);
    else if (task == "hellaswag") read_hellaswag(line, out);
    else fail(kOp, "unknown task '", task, "', expected own, boolq, piqa, race, winogrande, arc or hellaswag");
  }
  check(!out.empty(), kOp, path, " holds no items");
  return out;
}

}  // namespace rw
