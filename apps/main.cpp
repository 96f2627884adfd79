// ropewalk: train small language models, extend their context window, and evaluate them.
#include <cxxabi.h>
#include <unistd.h>

#include <atomic>
#include <csignal>
#include <cstdio>
#include <exception>
#include <new>
#include <string_view>
#include <typeinfo>

#include "cli.h"
#include "config_file.h"
#include "interrupt.h"
#include "tensor/printable.h"
#include "verbs.h"

namespace {

/// Says in one line why the program ends, and gives its exit code.
int failed(int code, const std::string& why) {
  std::fprintf(stderr, "ropewalk: %s\n", rw::printable(why).c_str());
  return code;
}

std::terminate_handler earlier_terminate = nullptr;
std::atomic<bool> memory_ran_out{false};

/// For memory that runs out where no handler can catch it: before main() (constants of CLI11), in a destructor (JSON
/// values need memory to be freed), while a message is put together. The program ends as after a kill, but with the
/// cause.
[[noreturn]] void terminated() {
  const std::type_info* type = abi::__cxa_current_exception_type();
  // A function that may not throw, such as those of std::filesystem, ends without naming what it did not throw.
  if (type != nullptr ? *type == typeid(std::bad_alloc) : memory_ran_out.load()) {
    constexpr std::string_view kLine = "ropewalk: [memory] out of memory\n";
    if (::write(STDERR_FILENO, kLine.data(), kLine.size()) < 0) ::_exit(1);
    ::_exit(1);
  }
  earlier_terminate();
  std::abort();
}

/// Before all other initialisers.
__attribute__((constructor(101))) void prepare_terminate() {
  earlier_terminate = std::set_terminate(terminated);
  std::set_new_handler([] {
    memory_ran_out = true;
    throw std::bad_alloc();
  });
}

/// An option with nothing in it, such as --from "$UNSET", would mean the same as none: a new model in place of an
/// extension, a run that is not kept. Errors: an empty value, but for texts, which may be empty; a switch with a value that
/// is neither yes nor no.
void check_values(CLI::App& app) {
  const CLI::Validator filled(
      [](std::string& value) { return std::string(value.empty() ? "expected a value, got an empty one" : ""); }, "");
  const CLI::Validator yes_or_no(
      [](std::string& value) {
        const bool number = !value.empty() && value.size() < 4 && value.find_first_not_of("0123456789") == value.npos;
        for (const char* known : {"true", "false", "yes", "no", "on", "off"}) {
          if (value == known) return std::string();
        }
        return number ? std::string() : "expected true or false, got '" + value + "'";
      },
      "");
  for (CLI::Option* option : app.get_options()) {
    const bool text = option->check_lname("prompt") || option->check_lname("text") || option->check_lname("system");
    if (option->get_items_expected_max() == 0) option->check(yes_or_no);
    else if (!text) option->check(filled);
  }
  for (CLI::App* sub : app.get_subcommands([](CLI::App*) { return true; })) check_values(*sub);
}

/// Declares the options of all verbs and runs the one that is asked for.
int run(int argc, char** argv) {
  std::signal(SIGXFSZ, SIG_IGN);  // a write beyond the file size limit fails with a message instead
  CLI::App app{
      "ropewalk trains small language models, extends their context window by the RoPE methods of PI, PoSE, CLEX, "
      "E2-LLM\n"
      "and others, evaluates them and generates text. MODEL is a folder in Hugging Face layout. Results go to "
      "standard\n"
      "output, progress to standard error. Exit code: 0 done, 2 bad input, 1 any other error.\n\n"
      "Examples with typical values; 'ropewalk VERB --help' shows the options of a verb and their defaults:\n"
      "  ropewalk demo                                              the whole story in a few minutes, on synthetic "
      "text\n"
      "  ropewalk tokenizer train --data books/ --vocab 4096 --out tok\n"
      "  ropewalk train --data books/ --tokenizer tok --out base --window 256 --steps 2000\n"
      "  ropewalk train --data books/ --from base --out long --method pose --scaling yarn --target 2048 --steps 200\n"
      "  ropewalk eval ppl --model long --data held-out/ --window 256,1024,2048\n"
      "  ropewalk generate --model long --prompt 'It was a dark and' --tokens 100",
      "ropewalk"};
  app.set_version_flag("--version", "ropewalk " ROPEWALK_VERSION);
  use_plain_help(app);
  Globals globals;
  add_globals(app, globals);
  check_config_file(app);
  add_demo(app, globals);
  add_tokenizer(app, globals);
  add_train(app, globals);
  add_eval(app, globals);
  add_cloze(app, globals);
  add_generate(app, globals);
  add_chat(app, globals);
  add_convert(app, globals);
  add_plan(app, globals);
  add_compare(app, globals);
  add_report(app, globals);
  add_search(app, globals);
  add_theory(app, globals);
  add_bench(app, globals);
  add_profile(app, globals);
  add_shell_files(app);
  check_values(app);
  try {
    app.parse(argc, argv);
    flush_standard_output();
    return 0;
  } catch (const CLI::ParseError& e) {
    if (e.get_exit_code() != 0) return failed(2, argument_error(app, e));
    app.exit(e);  // --help, --version
    flush_standard_output();
    return 0;
  }
}

}  // namespace

int main(int argc, char** argv) {
  try {
    return run(argc, argv);
  } catch (const Interrupted& e) {
    return 128 + e.signal;
  } catch (const std::exception& e) {
    const Failure failure = failure_of(e);
    return failed(failure.code, failure.line);
  }
}
