// Values of a record's fields: to text, from text, and whether they lie in range.
#include "rope/field.h"

#include <algorithm>
#include <charconv>
#include <cmath>

#include "tensor/error.h"

namespace rw {
namespace {

template <class... Visitors>
struct Overloaded : Visitors... {
  using Visitors::operator()...;
};
template <class... Visitors>
Overloaded(Visitors...) -> Overloaded<Visitors...>;

/// The whole text as a T, or nothing.
template <class T>
std::optional<T> number_from(const std::string& text) {
  T value{};
  const char* end = text.data() + text.size();
  const auto [stop, error] = std::from_chars(text.data(), end, value);
  return error == std::errc() && stop == end && !text.empty() ? std::optional<T>(value) : std::nullopt;
}

std::string joined(const std::vector<std::string>& names) {
  std::string all;
  for (const std::string& name : names) all += (all.empty() ? "" : ", ") + name;
  return all;
}

}  // namespace

std::string number_text(double x) {
  char buffer[40] = {};
  for (int digits = 15; digits <= 17; ++digits) {  // 17 always suffice
    const auto [end, error] = std::to_chars(buffer, buffer + sizeof buffer, x, std::chars_format::general, digits);
    if (number_from<double>({buffer, end}) == x || digits == 17) return {buffer, end};
  }
  return buffer;
}

std::string Field::option_name() const {
  std::string name = key_;
  for (char& c : name) c = c == '_' ? '-' : c;
  return name;
}

std::string Field::text(const void* record) const {
  return std::visit(
      Overloaded{[](const double* x) { return number_text(*x); }, [](const int64_t* x) { return std::to_string(*x); },
                 [](const bool* x) { return std::string(*x ? "true" : "false"); },
                 [&](const ChoiceRef& x) { return choices_.at(static_cast<size_t>(x.get(x.at))); },
                 [](const std::optional<double>* x) { return *x ? number_text(**x) : std::string(); },
                 [](const std::vector<double>* x) {
                   std::string all;
                   for (const double v : *x) all += (all.empty() ? "" : ",") + number_text(v);
                   return all;
                 }},
      at_(const_cast<void*>(record)));  // only read here
}

void Field::parse(void* record, const std::string& text, std::string_view op, const std::string& path) const {
  const auto wrong = [&](const std::string& expected) {
    fail(op, path, key_, " must be ", expected, ", got \"", text.substr(0, 60), "\"");
  };
  std::visit(Overloaded{[&](double* x) {
                          const auto value = number_from<double>(text);
                          value ? void(*x = *value) : wrong("a number");
                        },
                        [&](int64_t* x) {
                          const auto value = number_from<int64_t>(text);
                          value ? void(*x = *value) : wrong("a whole number");
                        },
                        [&](bool* x) {
                          const bool yes = text == "true" || text == "1";
                          if (!yes && text != "false" && text != "0") wrong("true or false");
                          *x = yes;
                        },
                        [&](const ChoiceRef& x) {
                          for (size_t i = 0; i < choices_.size(); ++i) {
                            if (text == choices_[i]) return x.set(x.at, static_cast<int>(i));
                          }
                          fail(op, path, key_, " must be one of ", joined(choices_), "; got \"", text.substr(0, 60),
                               "\"");
                        },
                        [&](std::optional<double>* x) {
                          const auto value = number_from<double>(text);
                          if (!value && !text.empty()) wrong("a number");
                          *x = value;
                        },
                        [&](std::vector<double>* x) {
                          x->clear();
                          for (size_t begin = 0; begin < text.size();) {
                            const size_t end = std::min(text.find(',', begin), text.size());
                            const auto value = number_from<double>(text.substr(begin, end - begin));
                            value ? x->push_back(*value) : wrong("numbers with commas between them");
                            begin = end + 1;
                          }
                        }},
             at_(record));
  check(record, op, path);
}

void Field::check_number(double x, std::string_view op, const std::string& name) const {
  const bool in_range = std::isfinite(x) && (open_ ? x > low_ : x >= low_) && x <= high_;
  if (in_range) return;
  std::string range;
  if (std::isfinite(low_)) range = (open_ ? "above " : "at least ") + number_text(low_);
  if (std::isfinite(high_)) range += (range.empty() ? "at most " : " and at most ") + number_text(high_);
  fail(op, name, " must be ", range.empty() ? "finite" : range, ", got ", number_text(x));
}

void Field::check(const void* record, std::string_view op, const std::string& path) const {
  const std::string name = path + key_;
  std::visit(Overloaded{[&](const double* x) { check_number(*x, op, name); },
                        [&](const int64_t* x) { check_number(static_cast<double>(*x), op, name); }, [](const bool*) {},
                        [&](const ChoiceRef& x) {
                          const int value = x.get(x.at);
                          rw::check(value >= 0 && value < static_cast<int>(choices_.size()), op, name,
                                    " must be one of ", joined(choices_), "; got number ", value);
                        },
                        [&](const std::optional<double>* x) {
                          if (*x) check_number(**x, op, name);
                        },
                        [&](const std::vector<double>* x) {
                          for (const double v : *x) check_number(v, op, name);
                        }},
             at_(const_cast<void*>(record)));  // only read here
}

}  // namespace rw
