// Fields of a method's record, described once as data.
//
// A record is a plain struct that holds the settings of one method: YarnRope, PosePositions. It lists its fields in one
// table. Everything that needs to know them reads that table: config.json in and out, the options of `ropewalk train`,
// the recipe of a run, range checks and error messages.
//
//   std::vector<Field> LinearRope::fields() {
//     return {field("factor", &LinearRope::factor).at_least(1).required().help("window after extension / before")};
//   }
#pragma once
#include <cstdint>
#include <functional>
#include <initializer_list>
#include <limits>
#include <optional>
#include <string>
#include <string_view>
#include <type_traits>
#include <variant>
#include <vector>

namespace rw {

/// A field whose values have names: an enum class that counts from 0. `get` and `set` convert to and from the number.
struct ChoiceRef {
  void* at;
  int (*get)(const void*);
  void (*set)(void*, int);
};

/// Where a field of one record lies.
using FieldRef = std::variant<double*, int64_t*, bool*, ChoiceRef, std::optional<double>*, std::vector<double>*>;

/// One field of a record: its name, its range, what it means, and how to reach it. The name is the key in config.json
/// and in a run's recipe. A field that is an option of `ropewalk train` is called --name there, with dashes.
class Field {
 public:
  Field(std::string key, bool is_flag, std::function<FieldRef(void*)> at, std::vector<std::string> choices = {})
      : key_(std::move(key)), at_(std::move(at)), choices_(std::move(choices)), is_flag_(is_flag) {}

  // The description. Each call returns the field, so that a table has one line per field.
  Field& help(std::string text) { return help_ = std::move(text), *this; }
  /// Inclusive bounds. A number that is not finite is always refused.
  Field& at_least(double low) { return low_ = low, *this; }
  Field& at_most(double high) { return high_ = high, *this; }
  /// An exclusive lower bound.
  Field& above(double low) { return low_ = low, open_ = true, *this; }
  /// JSON must state it.
  Field& required() { return required_ = true, *this; }
  /// `ropewalk train` has an option for it.
  Field& option() { return is_option_ = true, *this; }
  /// JSON leaves out the first choice: every program means it, and some warn of a key that they do not know.
  Field& first_choice_unwritten() { return writes_first_choice_ = false, *this; }

  const std::string& key() const { return key_; }
  const std::string& help() const { return help_; }
  bool is_required() const { return required_; }
  bool is_option() const { return is_option_; }
  bool writes_first_choice() const { return writes_first_choice_; }
  /// The option without its leading dashes: "pose-variant" for the key "pose_variant".
  std::string option_name() const;
  /// The names of a choice's values, in the order of the enum; empty for the other types.
  const std::vector<std::string>& choices() const { return choices_; }
  /// True for true-or-false fields, which are flags on the command line.
  bool is_flag() const { return is_flag_; }

  /// The value's place within `record`, which must be of the type that the field was made for.
  FieldRef at(void* record) const { return at_(record); }
  /// The value as text that parse() reads back exactly: "4", "true", "uniform"; "" for a number that is absent.
  std::string text(const void* record) const;
  /// Errors: text that is no such value, values out of range. `op` and `path` begin the message: "[op] path + key".
  void parse(void* record, const std::string& text, std::string_view op, const std::string& path = "") const;
  /// Errors: the value is out of range.
  void check(const void* record, std::string_view op, const std::string& path = "") const;

 private:
  void check_number(double x, std::string_view op, const std::string& name) const;

  std::string key_, help_;
  std::function<FieldRef(void*)> at_;
  std::vector<std::string> choices_;
  double low_ = -std::numeric_limits<double>::infinity(), high_ = std::numeric_limits<double>::infinity();
  bool open_ = false, required_ = false, is_option_ = false, is_flag_ = false, writes_first_choice_ = true;
};

/// A field of record type R: a number, a whole number, a flag, a number that may be absent, or a list of numbers.
template <class R, class T>
requires(!std::is_enum_v<T>) Field field(const char* key, T R::*member) {
  return Field(key, std::is_same_v<T, bool>,
               [member](void* record) -> FieldRef { return &(static_cast<R*>(record)->*member); });
}

/// A choice: an enum class that counts from 0, and the name of each value.
template <class R, class E>
requires std::is_enum_v<E> Field field(const char* key, E R::*member, std::initializer_list<const char*> names) {
  const auto at = [member](void* record) -> FieldRef {
    return ChoiceRef{&(static_cast<R*>(record)->*member),
                     [](const void* e) { return static_cast<int>(*static_cast<const E*>(e)); },
                     [](void* e, int value) { *static_cast<E*>(e) = static_cast<E>(value); }};
  };
  return Field(key, false, at, {names.begin(), names.end()});
}

/// The number as short text that reads back as the same number.
std::string number_text(double x);

}  // namespace rw
