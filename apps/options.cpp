// Options of the command line made of settings that the library describes.
#include "options.h"

#include "tensor/error.h"

using namespace rw;

namespace {

void add_setting(CLI::App& app, const Setting& setting) {
  const std::string shown = (setting.positional ? "" : "--") + setting.name;
  std::string names = shown;
  if (!setting.other_name.empty()) names += ",--" + setting.other_name;
  std::string help = setting.help;
  if (setting.shows_default) help += cat(" [", current_value(setting), "]");
  CLI::Option* option = nullptr;
  if (setting.is_flag()) {
    bool* const on = std::get<bool*>(setting.target);
    option = app.add_flag(names, *on, help);
  } else {
    option = app.add_option(
        names,
        [setting, shown](const CLI::results_t& values) {
          assign(setting, values, shown);
          return true;
        },
        help);
    option->type_name("");
    if (setting.is_list())
      option->expected(1, CLI::detail::expected_max_vector_size)
          ->multi_option_policy(CLI::MultiOptionPolicy::TakeAll)
          ->allow_extra_args();
    else option->expected(1);
  }
  if (setting.required) option->required();
  if (setting.common) option->group("Common options");
}

}  // namespace

void add_settings(CLI::App& app, const std::vector<Setting>& settings) {
  for (const Setting& setting : settings) add_setting(app, setting);
  for (const Setting& setting : settings) {
    CLI::Option* option = app.get_option_no_throw("--" + setting.name);
    for (const std::string& other : setting.excludes) {
      if (option != nullptr) option->excludes(app.get_option("--" + other));
    }
  }
}
