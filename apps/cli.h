// The command line as one language: help, errors, completion and the manual page are made the same way for every verb.
#pragma once
#include <CLI/CLI.hpp>
#include <string>

/// Help without types: names, what they mean, defaults in brackets; common options first. For `app` and the verbs that
/// are added to it afterwards.
void use_plain_help(CLI::App& app);

/// What was wrong with the arguments, in one line: unknown verbs and options with the nearest name, ranges in words.
std::string argument_error(const CLI::App& app, const CLI::ParseError& error);

/// The name among `known` that is nearest to `word`, by letters that differ; empty where none is near.
std::string nearest_name(const std::string& word, const std::vector<std::string>& known);
/// What this program calls what other programs call `word`; "" for other words. Options count only where the verb has
/// ours among its `known` ones.
std::string by_another_name(const std::string& word, const std::vector<std::string>& known);

/// What an exception means to the user, as one line, and the exit code that goes with it.
struct Failure {
  int code = 1;
  std::string line;
};
Failure failure_of(const std::exception& error);

/// Writes out what is buffered of standard output. Errors: it could not be written (a full disk).
void flush_standard_output();

/// Registers `completion` and `man`, which print what is installed with the program.
void add_shell_files(CLI::App& app);
