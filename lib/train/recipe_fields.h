// The settings of a run as one table: names, ranges, help, and what each means for the run.
//
// Everything that must know all settings reads this table: the options of `ropewalk train`, recipe.toml in and out, the
// checks before the first step, and what identifies a run when it is resumed. A new setting is one line in it.
#pragma once
#include <cstdint>
#include <functional>
#include <limits>
#include <string>
#include <variant>
#include <vector>

#include "rope/method_options.h"
#include "train/recipe.h"

namespace rw {

/// What a setting is to a run.
enum class FieldRole {
  decides,  // another value is another run
  source,   // a path: what it holds identifies the run, not the path
  kept,     // how the run is kept, shown or computed; the result is the same
};

enum class FieldGroup { text, model, method, adapter, optimizer, computing, keeping, validation };

struct RecipeField {
  using Ref = std::variant<std::string*, std::vector<std::string>*, int64_t*, uint64_t*, double*, bool*>;

  std::string name;  // as an option, without dashes: "warmup-start"
  std::string help;
  FieldGroup group = FieldGroup::model;
  FieldRole role = FieldRole::decides;
  std::function<Ref(Recipe&)> at;
  double low = -std::numeric_limits<double>::infinity(), high = std::numeric_limits<double>::infinity();
  bool above = false;                     // `low` itself is out of range
  std::vector<std::string> choices = {};  // of a text; empty: any
  /// Why the setting has no effect in a run; "" if it has one. Empty: it always has.
  std::function<std::string(const Recipe&)> idle = {};
  std::string old_name = {};  // that published commands use; read, and never written

  std::string key() const;  // in files: "warmup_start"
  /// The value as TOML writes it: 0.1, true, "cosine", ["a.txt", "b.txt"].
  std::string toml(const Recipe& recipe) const;
  /// The value as text: cosine.
  std::string text(const Recipe& recipe) const;
};

const std::vector<RecipeField>& recipe_fields();
/// Null if there is none of that name; dashes and underscores are the same.
const RecipeField* find_recipe_field(const std::string& name);

/// The option of a method by its name, with dashes or underscores; null if no method has it.
const MethodOption* find_method_option(const std::string& name);

/// Every setting lies in its range, and has an effect: those that differ from their defaults, and those in
/// recipe.given. Errors: the first that does not, by the name of its option.
void check_settings(const Recipe& recipe);

/// The settings that have an effect, as a recipe that `ropewalk train --config` runs: a [train] section.
std::string recipe_to_toml(const Recipe& recipe);
/// Errors: not TOML, unknown keys, values of another type, or out of range.
Recipe recipe_from_toml(const std::string& text, const std::string& name);
/// One setting from text, "1e-3", "true" or "a.txt"; lists take one element per call.
void set_field(Recipe& recipe, const RecipeField& field, const std::string& text);

/// What the settings alone say of a run's identity: every one that decides, by key.
std::map<std::string, std::string> deciding_settings(const Recipe& recipe);

}  // namespace rw
