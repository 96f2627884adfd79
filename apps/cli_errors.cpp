// Errors of the command line in words: what CLI11 and the libraries throw becomes
// one line that names what was expected.
#include <algorithm>
#include <cerrno>
#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <filesystem>
#include <iostream>
#include <new>
#include <stdexcept>
#include <system_error>

#include "cli.h"
#include "eval/settings.h"
#include "nn/parallel/mesh.h"
#include "tensor/error.h"
#include "tensor/system_error.h"

namespace {

/// The verb that was reached.
const CLI::App& deepest(const CLI::App& app) {
  const CLI::App* at = &app;
  while (!at->get_subcommands().empty()) at = at->get_subcommands().back();
  return *at;
}

std::string full_name(const CLI::App& app) {
  const CLI::App* parent = app.get_parent();
  return parent == nullptr || parent->get_parent() == nullptr ? app.get_name()
                                                              : full_name(*parent) + " " + app.get_name();
}

std::vector<std::string> option_names(const CLI::App& app) {
  std::vector<std::string> out;
  for (const CLI::App* at = &app; at != nullptr; at = at->get_parent()) {
    for (const CLI::Option* option : at->get_options()) {
      for (const std::string& name : option->get_lnames()) out.push_back("--" + name);
    }
  }
  return out;
}

std::vector<std::string> verb_names(const CLI::App& app) {
  std::vector<std::string> out;
  for (const CLI::App* sub : app.get_subcommands([](const CLI::App*) { return true; })) out.push_back(sub->get_name());
  return out;
}

std::string joined(const std::vector<std::string>& list) {
  std::string out;
  for (size_t i = 0; i < list.size(); ++i) out += rw::cat(i == 0 ? "" : i + 1 == list.size() ? " or " : ", ", list[i]);
  return out;
}

/// What was left over: the first word that no verb and no option took.
std::string unknown(const CLI::App& app, const std::string& word) {
  const CLI::App& verb = deepest(app);
  const bool is_option = word.size() > 1 && word[0] == '-';
  const std::string name = word.substr(0, word.find('='));
  const auto known = is_option ? option_names(verb) : verb_names(verb);
  if (!is_option && known.empty()) return rw::cat("'", word, "' is one argument too many for ", full_name(verb));
  const std::vector<std::string> verbs = verb_names(verb);
  if (is_option && verb.get_parent() != nullptr && !verbs.empty())
    return rw::cat("option '", name, "' before a subcommand: ", full_name(verb), " is followed by ", joined(verbs),
                   ", and options by that");
  std::string near = by_another_name(name, known);
  if (near.empty()) near = nearest_name(name, known);
  return rw::cat(is_option ? "unknown option '" : "unknown subcommand '", is_option ? name : word, "' of ",
                 full_name(verb), near.empty() ? "" : "; did you mean " + near + "?");
}

/// What an option of that name takes, by its type.
std::string kind_of(const CLI::App& app, const std::string& name) {
  for (const CLI::App* at = &deepest(app); at != nullptr; at = at->get_parent()) {
    const CLI::Option* option = at->get_option_no_throw(name);
    if (option == nullptr) continue;
    const std::string type = option->get_type_name();
    if (type.find("INT") != std::string::npos) return "a whole number";
    if (type.find("FLOAT") != std::string::npos) return "a number";
    break;
  }
  return "another value";
}

/// "--threads: Value -1 not in range 0 to 1024".
bool range_error(const CLI::App& app, const std::string& text, std::string& out) {
  const size_t value = text.find(": Value "), range = text.find(" not in range "), to = text.rfind(" to ");
  if (value == std::string::npos || range == std::string::npos || to == std::string::npos) return false;
  const double low = std::strtod(text.c_str() + range + 14, nullptr),
               high = std::strtod(text.c_str() + to + 4, nullptr);
  const std::string name = text.substr(0, value), got = text.substr(value + 8, range - value - 8);
  char* end = nullptr;
  // The least positive number is printed as 0: what is 0 and still not in range must be above it.
  const bool above_zero = std::strtod(got.c_str(), &end) == 0 && low == 0;
  if (got.empty() || *end != '\0') out = rw::cat(name, " expects ", kind_of(app, name), ", got '", got, "'");
  else out = rw::cat(name, " must be ", above_zero ? "above 0" : rw::range_in_words(low, high), ", got ", got);
  return true;
}

/// "--method: spin not in {plain,full}".
bool choice_error(const std::string& text, std::string& out) {
  const size_t value = text.find(": "), set = text.find(" not in {");
  if (value == std::string::npos || set == std::string::npos || text.back() != '}') return false;
  std::vector<std::string> choices = CLI::detail::split(text.substr(set + 9, text.size() - set - 10), ',');
  out = rw::cat(text.substr(0, value), " must be ", joined(choices), ", got '", text.substr(value + 2, set - value - 2),
                "'");
  return true;
}

/// "Could not convert: --steps = many".
bool conversion_error(const CLI::App& app, const std::string& text, std::string& out) {
  const std::string begin = "Could not convert: ";
  const size_t equals = text.find(" = ");
  if (!text.starts_with(begin) || equals == std::string::npos) return false;
  const std::string name = text.substr(begin.size(), equals - begin.size());
  out = rw::cat(name, " expects ", kind_of(app, name), ", got '", text.substr(equals + 3), "'");
  return true;
}

/// "--batch: At Most 1 required but received 2".
bool count_error(const std::string& text, std::string& out) {
  const size_t most = text.find(": At Most "), got = text.find(" required but received ");
  if (most == std::string::npos || got == std::string::npos || got < most) return false;
  const std::string limit = text.substr(most + 10, got - most - 10);
  out = rw::cat(text.substr(0, most), " takes ", limit == "1" ? "one value" : "at most " + limit + " values", ", got ",
                text.substr(got + 23));
  return true;
}

/// "INI was not able to parse train.widow": a key of the file that --config names, or a section ("arms.++").
bool config_error(const CLI::App& app, const std::string& text, std::string& out) {
  const std::string begin = "INI was not able to parse ";
  if (!text.starts_with(begin)) return false;
  const CLI::App* verb = &app;
  std::string sections, word, left = text.substr(begin.size());
  for (size_t dot = left.find('.'); dot != std::string::npos; dot = left.find('.')) {
    word = left.substr(0, dot), left = left.substr(dot + 1);
    sections += (sections.empty() ? "" : ".") + word;
    const auto next = verb->get_subcommands([&](const CLI::App* sub) { return sub->get_name() == word; });
    if (next.empty()) {
      out = rw::cat("--config: section [", sections, "] is no verb of ropewalk");
      return true;
    }
    verb = next[0];
  }
  const std::string near = nearest_name("--" + left, option_names(*verb));
  out = rw::cat("--config: unknown key '", left, "'",
                sections.empty() ? " outside of a section" : " in [" + sections + "]",
                near.empty() || sections.empty() ? "" : "; did you mean " + near.substr(2) + "?");
  return true;
}

}  // namespace

std::string argument_error(const CLI::App& app, const CLI::ParseError& error) {
  const std::string text = error.what();
  const std::vector<std::string> left = app.remaining(true);
  const bool leftover = dynamic_cast<const CLI::ExtrasError*>(&error) != nullptr ||
                        text.find("subcommand is required") != std::string::npos;
  if (leftover && !left.empty()) return unknown(app, left[0]);
  if (leftover) {
    const CLI::App& verb = deepest(app);
    return rw::cat(full_name(verb), " needs a subcommand: ", joined(verb_names(verb)));
  }
  std::string out;
  if (range_error(app, text, out) || choice_error(text, out) || conversion_error(app, text, out) ||
      count_error(text, out) || config_error(app, text, out))
    return out;
  if (text.ends_with(" is required")) {
    const CLI::Option* option = deepest(app).get_option_no_throw(text.substr(0, text.find(' ')));
    return option == nullptr || option->get_description().empty() ? text
                                                                  : rw::cat(text, ": ", option->get_description());
  }
  const size_t missing = text.find(": 1 required ");
  if (missing != std::string::npos) return text.substr(0, missing) + " needs a value";
  return text;
}

Failure failure_of(const std::exception& error) {
  if (dynamic_cast<const rw::OutOfMemory*>(&error) || dynamic_cast<const rw::RankLost*>(&error) ||
      dynamic_cast<const rw::SystemError*>(&error))
    return {1, error.what()};
  if (dynamic_cast<const rw::Error*>(&error)) return {2, error.what()};
  if (dynamic_cast<const std::bad_alloc*>(&error)) return {1, "[memory] not enough memory for this input"};
  if (dynamic_cast<const std::length_error*>(&error))
    return {1, "[memory] this input asks for more memory than there can be"};
  if (const auto* file = dynamic_cast<const std::filesystem::filesystem_error*>(&error)) {
    const std::string other = file->path2().empty() ? "" : rw::cat(" and '", file->path2().string(), "'");
    return {2, rw::cat("[file] '", file->path1().string(), "'", other, ": ", file->code().message())};
  }
  const std::string what = error.what();
  if (const size_t at = what.find("[json.exception."); at == 0) {
    const size_t end = what.find("] ");
    return {2, rw::cat("[json] a value is not of the expected kind: ",
                       end == std::string::npos ? what : what.substr(end + 2))};
  }
  if (const auto* system = dynamic_cast<const std::system_error*>(&error))
    return {1, rw::cat("[system] ", system->code().message())};
  return {1, "internal error: " + what};
}

void flush_standard_output() {
  std::cout.flush();
  const bool bad = !std::cout.good() || std::ferror(stdout) != 0;
  errno = 0;
  if (std::fflush(stdout) == 0 && !bad) return;
  throw rw::SystemError(rw::cat("[output] standard output could not be written",
                                errno != 0 ? std::string(": ") + std::strerror(errno) : std::string()));
}
