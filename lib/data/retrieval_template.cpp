// The wording of key-retrieval text: two built-in templates, and those of a file.
#include "data/retrieval_template.h"

#include <nlohmann/json.hpp>

#include "tensor/error.h"
#include "tensor/file.h"
#include "tensor/json_depth.h"

namespace rw {
namespace {
constexpr const char* kOp = "retrieval";
}  // namespace

std::string with_key(std::string text, const std::string& key) {
  for (size_t at = text.find("{key}"); at != std::string::npos; at = text.find("{key}", at + key.size())) {
    text.replace(at, 5, key);
  }
  return text;
}

RetrievalTemplate default_retrieval_template() {
  return {.task =
              "A number is hidden somewhere in the text below. Find it and keep it in mind: at the end you will be "
              "asked for it.",
          .filler =
              "The river runs to the sea. A cart rolls down the lane. Rain falls on the roof. Evening comes, and "
              "then the morning.",
          .needle = "The secret number is {key}. Keep it in mind: {key} is the secret number.",
          .question = "What is the secret number? The secret number is"};
}

RetrievalTemplate short_retrieval_template() {
  return {.task = "",
          .filler = "The river runs to the sea. Rain falls on the roof.",
          .needle = "The key is {key}.",
          .question = "The key is",
          .join = " "};
}

RetrievalTemplate retrieval_template_from_json(const std::string& text, const std::string& name) {
  check_json_depth(text, kOp, name);
  const auto json = nlohmann::json::parse(text, nullptr, /*allow_exceptions=*/false);
  check(json.is_object(), kOp, name, ": expected a JSON object with filler, needle and question");
  const auto get = [&](const char* key, const std::string& otherwise, bool required) {
    check(!required || json.contains(key), kOp, name, ": \"", key, "\" is missing");
    if (!json.contains(key)) return otherwise;
    check(json[key].is_string(), kOp, name, ": \"", key, "\" must be a string");
    return json[key].get<std::string>();
  };
  RetrievalTemplate out;
  out.task = get("task", "", false);
  out.filler = get("filler", "", true);
  out.needle = get("needle", "", true);
  out.question = get("question", "", true);
  out.join = get("join", "\n", false);
  if (json.contains("digits")) {
    check(json["digits"].is_number_integer() && json["digits"] >= 1 && json["digits"] <= 18, kOp, name,
          ": \"digits\" must be a number from 1 to 18");
    out.digits = json["digits"].get<int64_t>();
  }
  check(out.needle.find("{key}") != std::string::npos, kOp, name, ": the needle holds no {key}");
  return out;
}

RetrievalTemplate choose_retrieval_template(const std::string& name) {
  if (name == "default") return default_retrieval_template();
  if (name == "short") return short_retrieval_template();
  return retrieval_template_from_json(read_file(name, limits::config), name);
}

}  // namespace rw
