// The settings of an evaluation, described as data. The command line makes options of them, and a recipe reads them
// from a TOML section. Both take the same names, ranges and defaults from here.
//
//   std::vector<Setting> settings = protocol->settings();
//   assign(settings, "window", {"512", "2048"});
#pragma once
#include <cstdint>
#include <string>
#include <variant>
#include <vector>

namespace rw {

/// One setting: its name, what it means, where its value goes and which values are allowed.
struct Setting {
  using Target = std::variant<bool*, int64_t*, uint64_t*, double*, std::string*, std::vector<int64_t>*,
                              std::vector<double>*, std::vector<std::string>*>;

  std::string name;             // "max-tokens"
  std::string other_name = {};  // a second name that means the same
  std::string help = {};
  Target target = static_cast<bool*>(nullptr);
  double low = -1e18, high = 1e18;         // of each number
  std::vector<std::string> choices = {};   // of each text; empty: any
  std::vector<std::string> excludes = {};  // names of settings that cannot be given together with this one
  bool required = false;
  bool positional = false;     // the command line takes it without a name
  bool shows_default = false;  // the help names the value that it has now
  bool common = false;         // the help lists it first

  bool is_flag() const { return std::holds_alternative<bool*>(target); }
  bool is_list() const;
};

/// Bounds of a setting that counts something.
inline constexpr double kMostCount = 1099511627776.0;  // 2^40

/// "at least 1", "from 0 to 1": the range in words; empty where there is none.
std::string range_in_words(double low, double high);

/// Puts the values where the setting says. Lists may also come as one text with commas. Errors: a value that is not of
/// the setting's type, out of its range, or not one of its choices; the message names the setting by `shown`.
void assign(const Setting& setting, const std::vector<std::string>& values, const std::string& shown);

/// The setting of that name, or nullptr.
const Setting* find_setting(const std::vector<Setting>& settings, const std::string& name);

/// The value that a setting has now, as text.
std::string current_value(const Setting& setting);

}  // namespace rw
