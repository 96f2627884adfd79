// Settings as data: reading their values from text, with errors that say what was expected.
#include "eval/settings.h"

#include <charconv>
#include <cmath>
#include <type_traits>

#include "tensor/error.h"

namespace rw {
namespace {

constexpr const char* kOp = "option";

std::string number_text(double value) {
  if (value == std::floor(value) && std::abs(value) < 1e15) return std::to_string(static_cast<int64_t>(value));
  return cat(value);
}

template <class T>
T whole_number(const Setting& setting, const std::string& text, const std::string& shown) {
  T value{};
  const auto [end, error] = std::from_chars(text.data(), text.data() + text.size(), value);
  check(error != std::errc::result_out_of_range, kOp, shown, " must be ", range_in_words(setting.low, setting.high),
        ", got ", text.substr(0, 60));
  check(error == std::errc() && end == text.data() + text.size(), kOp, shown, " expects a whole number, got '",
        text.substr(0, 60), "'");
  const double size = static_cast<double>(value);
  check(size >= setting.low && size <= setting.high, kOp, shown, " must be ", range_in_words(setting.low, setting.high),
        ", got ", value);
  return value;
}

double real_number(const Setting& setting, const std::string& text, const std::string& shown) {
  double value = 0;
  const auto [end, error] = std::from_chars(text.data(), text.data() + text.size(), value);
  check(error == std::errc() && end == text.data() + text.size() && std::isfinite(value), kOp, shown,
        " expects a number, got '", text.substr(0, 60), "'");
  check(value >= setting.low && value <= setting.high, kOp, shown, " must be ",
        range_in_words(setting.low, setting.high), ", got ", text);
  return value;
}

std::string chosen(const Setting& setting, const std::string& text, const std::string& shown) {
  if (setting.choices.empty()) return text;
  std::string list;
  for (size_t i = 0; i < setting.choices.size(); ++i) {
    if (setting.choices[i] == text) return text;
    list += cat(i == 0 ? "" : i + 1 == setting.choices.size() ? " or " : ", ", setting.choices[i]);
  }
  fail(kOp, shown, " must be ", list, ", got '", text.substr(0, 60), "'");
}

bool yes_or_no(const std::string& text, const std::string& shown) {
  check(text == "true" || text == "false", kOp, shown, " must be true or false, got '", text.substr(0, 60), "'");
  return text == "true";
}

template <class T>
T read_value(const Setting& setting, const std::string& text, const std::string& shown) {
  if constexpr (std::is_same_v<T, bool>) return yes_or_no(text, shown);
  else if constexpr (std::is_same_v<T, double>) return real_number(setting, text, shown);
  else if constexpr (std::is_same_v<T, std::string>) return chosen(setting, text, shown);
  else return whole_number<T>(setting, text, shown);
}

std::vector<std::string> split(const std::vector<std::string>& values, bool at_commas) {
  if (!at_commas) return values;
  std::vector<std::string> out;
  for (const std::string& value : values) {
    size_t begin = 0;
    for (size_t comma; (comma = value.find(',', begin)) != std::string::npos; begin = comma + 1)
      out.push_back(value.substr(begin, comma - begin));
    out.push_back(value.substr(begin));
  }
  return out;
}

template <class T>
struct IsVector : std::false_type {};
template <class T>
struct IsVector<std::vector<T>> : std::true_type {};

}  // namespace

bool Setting::is_list() const {
  return std::visit([](auto* p) { return IsVector<std::remove_pointer_t<decltype(p)>>::value; }, target);
}

std::string range_in_words(double low, double high) {
  const bool above = low > -1e17, below = high < 1e17 && high != kMostCount;
  if (above && below) return cat("from ", number_text(low), " to ", number_text(high));
  if (above) return cat("at least ", number_text(low));
  return below ? cat("at most ", number_text(high)) : "";
}

void assign(const Setting& setting, const std::vector<std::string>& values, const std::string& shown) {
  std::visit(
      [&](auto* p) {
        using T = std::remove_pointer_t<decltype(p)>;
        if constexpr (IsVector<T>::value) {
          // A path may hold a comma, a number or a word of a list of choices cannot.
          const bool paths = std::is_same_v<T, std::vector<std::string>> && setting.choices.empty();
          T list;
          for (const std::string& value : split(values, !paths))
            list.push_back(read_value<typename T::value_type>(setting, value, shown));
          *p = std::move(list);
        } else {
          check(values.size() == 1, kOp, shown, " takes one value, got ", values.size());
          *p = read_value<T>(setting, values[0], shown);
        }
      },
      setting.target);
}

const Setting* find_setting(const std::vector<Setting>& settings, const std::string& name) {
  for (const Setting& s : settings) {
    if (s.name == name || (!s.other_name.empty() && s.other_name == name)) return &s;
  }
  return nullptr;
}

std::string current_value(const Setting& setting) {
  return std::visit(
      [](auto* p) {
        using T = std::remove_pointer_t<decltype(p)>;
        if constexpr (std::is_same_v<T, bool>) {
          return std::string(*p ? "true" : "false");
        } else if constexpr (IsVector<T>::value) {
          std::string list;
          for (const auto& value : *p) list += cat(list.empty() ? "" : ",", value);
          return list;
        } else {
          return cat(*p);
        }
      },
      setting.target);
}

}  // namespace rw
