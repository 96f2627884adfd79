// `ropewalk completion bash|zsh` and `ropewalk man`: what a shell completes and the manual page, from the same options
// that the help shows. CMake installs both.
#include <cstdio>
#include <functional>

#include "cli.h"
#include "common.h"

namespace {

using Visit = std::function<void(const CLI::App& verb, const std::string& path)>;

/// Every verb with its path ("eval ppl"), parents first; the program itself has the empty path.
void each_verb(const CLI::App& app, const std::string& path, const Visit& visit) {
  visit(app, path);
  for (const CLI::App* sub : app.get_subcommands([](const CLI::App*) { return true; })) {
    each_verb(*sub, path + (path.empty() ? "" : " ") + sub->get_name(), visit);
  }
}

std::string words_after(const CLI::App& verb, const CLI::App& program) {
  std::string out;
  for (const CLI::App* sub : verb.get_subcommands([](const CLI::App*) { return true; })) out += sub->get_name() + " ";
  for (const CLI::App* app : {&verb, &program}) {
    for (const CLI::Option* option : app->get_options()) {
      for (const std::string& name : option->get_lnames()) out += "--" + name + " ";
    }
    if (&verb == &program) break;
  }
  if (!out.empty()) out.pop_back();
  return out;
}

/// A shell `case` of the words that may follow each path.
std::string cases(const CLI::App& program) {
  std::string out;
  each_verb(program, "", [&](const CLI::App& verb, const std::string& path) {
    out += rw::cat("    '", path, "') candidates='", words_after(verb, program), "' ;;\n");
  });
  return out;
}

std::string paths(const CLI::App& program) {
  std::string out;
  each_verb(program, "", [&](const CLI::App&, const std::string& path) {
    if (!path.empty()) out += rw::cat(out.empty() ? "" : "|", "'", path, "'");
  });
  return out;
}

std::string bash_completion(const CLI::App& program) {
  return rw::cat(R"(# bash completion for ropewalk
_ropewalk() {
  local word path='' next candidates='' i
  for ((i = 1; i < COMP_CWORD; i++)); do
    next="${path:+$path }${COMP_WORDS[i]}"
    case "$next" in
    )",
                 paths(program), R"() path=$next ;;
    esac
  done
  case "$path" in
)",
                 cases(program), R"(  esac
  word=${COMP_WORDS[COMP_CWORD]}
  COMPREPLY=($(compgen -W "$candidates" -- "$word"))
}
complete -o default -o bashdefault -F _ropewalk ropewalk
)");
}

std::string zsh_completion(const CLI::App& program) {
  return rw::cat(R"(#compdef ropewalk
# zsh completion for ropewalk
local verb='' next='' candidates='' i
for ((i = 2; i < CURRENT; i++)); do
  next="${verb:+$verb }${words[i]}"
  case "$next" in
    )",
                 paths(program), R"() verb=$next ;;
  esac
done
case "$verb" in
)",
                 cases(program), R"(esac
compadd -- ${=candidates}
[[ $PREFIX == -* ]] || _files
)");
}

/// Text of a manual page: backslashes and leading dots mean nothing.
std::string roff(const std::string& text) {
  std::string out;
  for (size_t i = 0; i < text.size(); ++i) {
    if (text[i] == '\\') out += "\\e";
    else if (text[i] == '-') out += "\\-";
    else if ((text[i] == '.' || text[i] == '\'') && (i == 0 || text[i - 1] == '\n'))
      out += std::string("\\&") + text[i];
    else out += text[i];
  }
  return out;
}

std::string option_entry(const CLI::Option& option) {
  std::string text = option.get_description();
  if (!option.get_default_str().empty() && option.get_type_size() != 0)
    text += rw::cat(" [", option.get_default_str(), "]");
  if (option.get_required()) text += " (required)";
  return rw::cat(".TP\n.B ", roff(option.get_name(option.get_positional(), true)), "\n", roff(text), "\n");
}

std::string manual(const CLI::App& program) {
  std::string out = rw::cat(".TH ROPEWALK 1 \"\" \"ropewalk " ROPEWALK_VERSION
                            "\" \"User Commands\"\n.SH NAME\nropewalk \\- train small language models and extend their "
                            "context window\n.SH SYNOPSIS\n.B ropewalk\nVERB [OPTIONS]\n.SH DESCRIPTION\n.nf\n",
                            roff(program.get_description()), "\n.fi\n");
  each_verb(program, "", [&](const CLI::App& verb, const std::string& path) {
    out += path.empty() ? std::string(".SH OPTIONS OF EVERY VERB\n")
                        : rw::cat(".SH ROPEWALK ", roff(path), "\n", roff(verb.get_description()), "\n");
    for (const CLI::Option* option : verb.get_options()) out += option_entry(*option);
    if (!verb.get_footer().empty()) out += rw::cat(".PP\n.nf\n", roff(verb.get_footer()), "\n.fi\n");
  });
  return out + ".SH EXIT STATUS\n0: done. 2: bad input. 1: anything else.\n";
}

void print(const std::string& text) { std::fwrite(text.data(), 1, text.size(), stdout); }

}  // namespace

void add_shell_files(CLI::App& app) {
  CLI::App* completion = app.add_subcommand("completion", "Print what completes the command line in a shell");
  completion->require_subcommand(1);
  completion->add_subcommand("bash", "for ~/.local/share/bash-completion/completions/ropewalk")->callback([&app] {
    print(bash_completion(app));
  });
  completion->add_subcommand("zsh", "for a file _ropewalk in a folder of $fpath")->callback([&app] {
    print(zsh_completion(app));
  });
  app.add_subcommand("man", "Print the manual page")->callback([&app] { print(manual(app)); });
}
