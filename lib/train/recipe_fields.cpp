// What is derived from the table of a run's settings (recipe_table.cpp): checks, TOML, values from text, identity.
#include "train/recipe_fields.h"

#include <algorithm>
#include <charconv>
#include <cmath>
#include <cstdio>

#include "tensor/error.h"
#include "tensor/printable.h"
#include "train/toml.h"

namespace rw {
namespace {

constexpr const char* kOp = "train";
constexpr double kHuge = 1e300;  // a bound that is not shown

std::string number(double x) {
  char text[40];
  const auto end = std::to_chars(text, text + sizeof text, x).ptr;
  return {text, end};
}

RecipeField::Ref ref(const RecipeField& field, const Recipe& recipe) {
  return field.at(const_cast<Recipe&>(recipe));  // only read
}

template <class... F>
struct Overloaded : F... {
  using F::operator()...;
};
template <class... F>
Overloaded(F...) -> Overloaded<F...>;

std::string value_text(const RecipeField::Ref& value, bool quoted) {
  const auto string = [quoted](const std::string& s) { return quoted ? toml_quote(s) : s; };
  return std::visit(
      Overloaded{[&](std::string* s) { return string(*s); },
                 [&](std::vector<std::string>* list) {
                   std::string out;
                   for (const std::string& s : *list) out += (out.empty() ? "" : ", ") + string(s);
                   return quoted ? "[" + out + "]" : out;
                 },
                 [](int64_t* n) { return std::to_string(*n); }, [](uint64_t* n) { return std::to_string(*n); },
                 [](double* x) { return number(*x); }, [](bool* b) { return std::string(*b ? "true" : "false"); }},
      value);
}

void check_range(const RecipeField& f, const Recipe& recipe) {
  const RecipeField::Ref value = ref(f, recipe);
  double x = 0;
  if (const auto* n = std::get_if<int64_t*>(&value)) x = static_cast<double>(**n);
  else if (const auto* d = std::get_if<double*>(&value)) x = **d;
  else if (const auto* s = std::get_if<std::string*>(&value)) {
    if (f.choices.empty() || std::find(f.choices.begin(), f.choices.end(), **s) != f.choices.end()) return;
    std::string known;
    for (const std::string& c : f.choices) known += (known.empty() ? "" : ", ") + c;
    fail(kOp, "--", f.name, " must be one of ", known, ", got '", **s, "'");
  } else {
    return;
  }
  const bool good = std::isfinite(x) && (f.above ? x > f.low : x >= f.low) && x <= f.high;
  if (good) return;
  const std::string low = (f.above ? "above " : "at least ") + number(f.low);
  fail(kOp, "--", f.name, " must be ", f.high >= kHuge ? low : low + " and at most " + number(f.high), ", got ",
       value_text(value, false));
}

bool is_given(const RecipeField& f, const Recipe& recipe) {
  static const Recipe defaults;
  return recipe.given.count(f.name) > 0 || f.text(recipe) != f.text(defaults);
}

}  // namespace

std::string RecipeField::key() const {
  std::string out = name;
  std::replace(out.begin(), out.end(), '-', '_');
  return out;
}
std::string RecipeField::toml(const Recipe& recipe) const { return value_text(ref(*this, recipe), true); }
std::string RecipeField::text(const Recipe& recipe) const { return value_text(ref(*this, recipe), false); }

const RecipeField* find_recipe_field(const std::string& name) {
  std::string wanted = name;
  std::replace(wanted.begin(), wanted.end(), '_', '-');
  for (const RecipeField& f : recipe_fields()) {
    if (f.name == wanted || (!wanted.empty() && f.old_name == wanted)) return &f;
  }
  return nullptr;
}

void check_settings(const Recipe& recipe) {
  for (const RecipeField& f : recipe_fields()) check_range(f, recipe);
  for (const RecipeField& f : recipe_fields()) {
    if (!f.idle || !is_given(f, recipe)) continue;
    const std::string why = f.idle(recipe);
    check(why.empty(), kOp, "--", f.name, " has no effect here: ", why);
  }
}

std::string recipe_to_toml(const Recipe& recipe) {
  std::string out =
      recipe.method_value
          ? "# A run whose method a program gave as a value. This file names the method and does not state its "
            "fields.\n"
          : "# A run of `ropewalk train`. This runs it again: ropewalk train --config THIS_FILE --out FOLDER\n";
  out += "[train]\n";
  for (const RecipeField& f : recipe_fields()) {
    const std::string text = f.text(recipe);
    if (text.empty() || (f.idle && !f.idle(recipe).empty())) continue;
    out += f.key() + " = " + f.toml(recipe) + "\n";
  }
  for (const auto& [key, text] : recipe.method_options) out += key + " = " + toml_quote(text) + "\n";
  return out;
}

const MethodOption* find_method_option(const std::string& name) {
  for (const MethodOption& o : method_options()) {
    std::string key = name;
    std::replace(key.begin(), key.end(), '-', '_');
    if (o.key == key) return &o;
  }
  return nullptr;
}

void set_field(Recipe& recipe, const RecipeField& field, const std::string& text) {
  const auto parse = [&](auto& number) {
    const auto result = std::from_chars(text.data(), text.data() + text.size(), number);
    check(result.ec == std::errc() && result.ptr == text.data() + text.size(), kOp, "--", field.name,
          " must be a number, got '", text.substr(0, 40), "'");
  };
  std::visit(
      Overloaded{[&](std::string* s) { *s = text; }, [&](std::vector<std::string>* list) { list->push_back(text); },
                 [&](int64_t* n) { parse(*n); }, [&](uint64_t* n) { parse(*n); }, [&](double* x) { parse(*x); },
                 [&](bool* b) {
                   check(text == "true" || text == "false", kOp, "--", field.name, " must be true or false, got '",
                         text.substr(0, 40), "'");
                   *b = text == "true";
                 }},
      field.at(recipe));
  recipe.given.insert(field.name);
}

Recipe recipe_from_toml(const std::string& text, const std::string& name) {
  Recipe recipe;
  for (const TomlSection& section : parse_toml(text, name, kOp)) {
    check(section.name == "train" || section.items.empty(), kOp, "'", name, "' line ", section.line,
          ": a run's settings stand in [train], found section [", section.name, "]");
    for (const TomlItem& item : section.items) {
      const RecipeField* field = find_recipe_field(item.key);
      const MethodOption* option = find_method_option(item.key);
      check(field || option, kOp, "'", name, "' line ", item.line, ": unknown key '", item.key, "'");
      const bool list = field && std::holds_alternative<std::vector<std::string>*>(field->at(recipe));
      check(list || item.values.size() == 1, kOp, "'", name, "' line ", item.line, ": '", item.key,
            "' takes one value, got ", item.values.size());
      for (const std::string& value : item.values) {
        check(!value.empty(), kOp, "'", name, "' line ", item.line, ": '", item.key,
              "': expected a value, got an empty one");
        if (field) set_field(recipe, *field, value);
        else recipe.method_options[option->key] = value;
      }
    }
  }
  for (const RecipeField& f : recipe_fields()) check_range(f, recipe);
  return recipe;
}

std::map<std::string, std::string> deciding_settings(const Recipe& recipe) {
  std::map<std::string, std::string> out;
  for (const RecipeField& f : recipe_fields()) {
    if (f.role != FieldRole::decides || (f.idle && !f.idle(recipe).empty())) continue;
    // Runs before these settings were there are the same.
    if (f.name == "family" && recipe.family == "llama") continue;
    if (f.name == "moments" && recipe.moments == "f32") continue;
    out[f.key()] = f.text(recipe);
  }
  return out;
}

}  // namespace rw
