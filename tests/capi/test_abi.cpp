// What programs that were compiled against an earlier ropewalk.h rely on: abi.txt lists every function, value and field.
#include <ropewalk.h>

#include <cstddef>
#include <cstdio>
#include <filesystem>
#include <fstream>
#include <regex>
#include <set>
#include <sstream>

#include "support.h"
#include "tensor/error.h"
#include "tensor/file.h"

namespace {

using rw::cat;

std::set<std::string> declared_functions() {
  const std::string header = rw::read_file(std::string(ROPEWALK_SOURCE_DIR) + "/lib/capi/ropewalk.h");
  static const std::regex pattern(R"(ROPEWALK_API [^;]*?\b(ropewalk_\w+)\()");
  std::set<std::string> found;
  for (std::sregex_iterator at(header.begin(), header.end(), pattern), end; at != end; ++at) found.insert((*at)[1]);
  return found;
}

#define FIELD(type, field) cat(" ", #field, "@", offsetof(type, field))
#define VALUE(name) cat(#name, " = ", static_cast<long>(name), "\n")

std::string structs() {
  using load = ropewalk_load_options;
  using generate = ropewalk_generate_options;
  using document = ropewalk_document;
  using evaluate = ropewalk_evaluate_options;
  using step = ropewalk_step;
  using validation = ropewalk_validation;
  using train = ropewalk_train_options;
  using result = ropewalk_train_result;
  return "ropewalk_load_options" + FIELD(load, size) + FIELD(load, tokenizer) + FIELD(load, device) +
         FIELD(load, rope) + "\nropewalk_generate_options" + FIELD(generate, size) + FIELD(generate, max_tokens) +
         FIELD(generate, temperature) + FIELD(generate, top_k) + FIELD(generate, top_p) + FIELD(generate, seed) +
         FIELD(generate, ignore_ends) + "\nropewalk_setting" + FIELD(ropewalk_setting, name) +
         FIELD(ropewalk_setting, value) + cat(" end@", sizeof(ropewalk_setting)) + "\nropewalk_document" +
         FIELD(document, name) + FIELD(document, text) + FIELD(document, bytes) + FIELD(document, ids) +
         FIELD(document, count) + cat(" end@", sizeof(document)) + "\nropewalk_evaluate_options" +
         FIELD(evaluate, size) + FIELD(evaluate, documents) + FIELD(evaluate, documents_count) +
         FIELD(evaluate, on_progress) + FIELD(evaluate, user) + "\nropewalk_step" + FIELD(step, size) +
         FIELD(step, step) + FIELD(step, steps) + FIELD(step, loss) + FIELD(step, grad_norm) + FIELD(step, lr) +
         FIELD(step, tokens) + FIELD(step, tokens_per_s) + FIELD(step, seconds) + "\nropewalk_validation" +
         FIELD(validation, size) + FIELD(validation, step) + FIELD(validation, loss) + FIELD(validation, tokens) +
         FIELD(validation, documents) + FIELD(validation, window) + "\nropewalk_train_options" + FIELD(train, size) +
         FIELD(train, device) + FIELD(train, documents) + FIELD(train, documents_count) + FIELD(train, on_step) +
         FIELD(train, on_validation) + FIELD(train, on_notice) + FIELD(train, user) + "\nropewalk_train_result" +
         FIELD(result, size) + FIELD(result, end) + FIELD(result, steps) + FIELD(result, tokens) +
         FIELD(result, seconds) + "\n";
}

std::string values() {
  return VALUE(ROPEWALK_OK) + VALUE(ROPEWALK_ERROR_ARGUMENT) + VALUE(ROPEWALK_ERROR_INPUT) +
         VALUE(ROPEWALK_ERROR_MEMORY) + VALUE(ROPEWALK_ERROR_BUFFER) + VALUE(ROPEWALK_ERROR_INTERNAL) +
         VALUE(ROPEWALK_ERROR_STOPPED) + VALUE(ROPEWALK_ADD_BOS) + VALUE(ROPEWALK_PARSE_SPECIAL) +
         VALUE(ROPEWALK_TRAIN_FINISHED) + VALUE(ROPEWALK_TRAIN_STOPPED) + VALUE(ROPEWALK_TRAIN_WAS_FINISHED);
}

/// What the compiled library defines under the C API's names; empty where nm is missing.
std::set<std::string> defined_functions() {
  std::string library = std::string(ROPEWALK_BINARY_DIR) + "/libropewalk.a";
  const bool archive = std::filesystem::exists(library);
  if (!archive) library = std::string(ROPEWALK_BINARY_DIR) + "/libropewalk.so";
  const std::string command =
      "nm " + std::string(archive ? "" : "-D ") + "-P -g --defined-only '" + library + "' 2>/dev/null";
  std::set<std::string> found;
  std::FILE* pipe = ::popen(command.c_str(), "r");
  if (!pipe) return found;
  char line[65536];
  while (std::fgets(line, sizeof line, pipe)) {
    const std::string text = line;
    if (text.starts_with("ropewalk_")) found.insert(text.substr(0, text.find(' ')));
  }
  ::pclose(pipe);
  return found;
}

}  // namespace

TEST_CASE("functions, values and fields of the C API are those of tests/capi/abi.txt: lines are only added") {
  std::string text;
  for (const std::string& name : declared_functions()) text += name + "\n";
  text += values() + structs();
  std::set<std::string> now, kept;
  std::istringstream lines(text), file(rw::read_file(std::string(ROPEWALK_SOURCE_DIR) + "/tests/capi/abi.txt"));
  for (std::string line; std::getline(lines, line);) now.insert(line);
  for (std::string line; std::getline(file, line);) {
    if (!line.empty() && line[0] != '#') kept.insert(line);
  }
  for (const std::string& line : kept) {
    CAPTURE(line);
    CHECK_MESSAGE(now.count(line) == 1, "the C API has changed where programs rely on it");
  }
  for (const std::string& line : now) {
    CAPTURE(line);
    CHECK_MESSAGE(kept.count(line) == 1, "add this line to tests/capi/abi.txt");
  }
}

TEST_CASE("the compiled library has the functions that the header declares, and no others under their prefix") {
  const std::set<std::string> defined = defined_functions();
  if (defined.empty()) {
    MESSAGE("skipped: nm is missing, or there is no library to look into");
    return;
  }
  CHECK(defined == declared_functions());
}
