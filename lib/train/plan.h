// What a recipe comes to for a model: its config with the RoPE recipe, the position sampler, and the windows.
#pragma once
#include <map>
#include <string>

#include "data/tokenizer.h"
#include "train/extend.h"
#include "train/recipe.h"

namespace rw {

struct RunPlan {
  ModelConfig model;  // with the RoPE recipe that is trained and stored
  PositionConfig positions;
  int64_t window = 0;           // T: tokens of a sample
  int64_t target = 0;           // window after extension
  int64_t original_window = 0;  // L
  int64_t region = 0;           // tokens of the region that a sample may take its chunks from; 0: the whole document
  /// The method with all its fields, and the windows, as text by key: for a run's identity and for reports.
  std::map<std::string, std::string> description;
};

/// `base` stands for the config in the folder recipe.from. With steps = 0 it must be given: the plan is
/// then one to evaluate only, which dynamic kinds may be, too. Errors: combinations of method, scaling
/// and windows without meaning, with the reason.
RunPlan make_plan(const Recipe& recipe, const Tokenizer& tokenizer, const ModelConfig* base = nullptr);

/// Sets the recipe's method, scaling, factor, window and target to a method given as a value. Any method will do: one
/// that names and options cannot state (why_no_text() in extend.h) is kept as a value beside them.
void set_method(Recipe& recipe, const Method& method, int64_t target);

/// One line per entry: key = "value".
std::string to_toml(const std::map<std::string, std::string>& description);

}  // namespace rw
