// The wording of key-retrieval text: what training mixes in (retrieval_mix.h) and
// what the evaluator asks (eval/retrieval.h).
#pragma once
#include <cstdint>
#include <string>

namespace rw {

/// The parts of a prompt, joined by `join`; "{key}" stands for the number.
struct RetrievalTemplate {
  std::string task = {};    // may be empty
  std::string filler = {};  // repeated whole
  std::string needle = {};
  std::string question = {};  // the answer follows it after a space
  std::string join = "\n";
  int64_t digits = 5;
};

/// Our own wording.
RetrievalTemplate default_retrieval_template();
/// Without a task and in few tokens, for windows of a few hundred.
RetrievalTemplate short_retrieval_template();
/// From a JSON object with these names (task and join may be missing). Errors: not JSON, a missing part, no "{key}" in
/// the needle; the message begins with `name`.
RetrievalTemplate retrieval_template_from_json(const std::string& text, const std::string& name);

/// "default", "short", or a JSON file with task, filler, needle, question. Errors: as above, an unreadable file.
RetrievalTemplate choose_retrieval_template(const std::string& name);

/// `text` with every "{key}" replaced.
std::string with_key(std::string text, const std::string& key);

}  // namespace rw
