// The help of every verb: option names, what they mean, defaults in brackets; common options first.
#include <memory>

#include "cli.h"
#include "common.h"

namespace {

class PlainHelp : public CLI::Formatter {
 public:
  PlainHelp() {
    column_width(26);
    label("Positionals", "Arguments");
  }

  std::string make_option_opts(const CLI::Option* option) const override {
    return option->get_expected_max() >= CLI::detail::expected_max_vector_size ? " ..." : "";
  }

  std::string make_option_desc(const CLI::Option* option) const override {
    std::string text = option->get_description();
    if (!option->get_default_str().empty() && option->get_type_size() != 0)
      text += rw::cat(" [", option->get_default_str(), "]");
    if (option->get_required()) text += " (required)";
    for (const CLI::Option* other : option->get_excludes()) text += rw::cat(" (not with ", other->get_name(), ")");
    return text;
  }

  std::string make_help(const CLI::App* app, std::string name, CLI::AppFormatMode mode) const override {
    std::string text = CLI::Formatter::make_help(app, name, mode);
    for (size_t at; (at = text.find("\n\n\n")) != std::string::npos;) text.erase(at, 1);
    // Groups stand in the order in which options were declared, and --help is the first: the common ones go up.
    const std::string rest = "\nOptions:\n", common = std::string("\n") + kCommonOptions + ":\n";
    const size_t first = text.find(rest), second = text.find(common);
    if (first == std::string::npos || second == std::string::npos || second < first) return text;
    size_t end = text.find("\n\n", second + 1);
    end = end == std::string::npos ? text.size() : end + 1;
    const std::string moved = text.substr(second, end - second);
    text.erase(second, end - second);
    text.replace(first, rest.size(), "\nMore options:\n");
    return text.insert(first, moved);
  }
};

}  // namespace

void use_plain_help(CLI::App& app) { app.formatter(std::make_shared<PlainHelp>()); }
