// From options to a recipe: the model's config with its RoPE scaling, the position sampler, and the windows.
#pragma once
#include <map>
#include <string>

#include "data/tokenizer.h"
#include "nn/config.h"
#include "rope/positions.h"
#include "train/train_config.h"

namespace rw {

struct Recipe {
  ModelConfig model;  // with the RoPE recipe that is trained and stored
  PositionConfig positions;
  int64_t window = 0;                              // T: tokens of a sample
  int64_t target = 0;                              // window after extension
  int64_t original_window = 0;                     // L
  int64_t region = 0;                              // stretch of text that a sample may take its chunks from
  std::map<std::string, std::string> description;  // what decides the result, for checkpoints and reports
};

/// `base` stands for the config in the folder config.from. With steps = 0 it must be given: the recipe is then one to
/// evaluate only, which dynamic kinds may be, too. Errors: combinations of method, scaling and windows without meaning,
/// with the reason.
Recipe make_recipe(const TrainConfig& config, const Tokenizer& tokenizer, const ModelConfig* base = nullptr);

std::string to_toml(const std::map<std::string, std::string>& description);
/// Replaces config.rope by a rope_scaling object; the window of pre-training is kept.
void apply_rope_json(ModelConfig& config, const std::string& rope_json);

/// The first entry in which two descriptions differ, in words.
std::string difference(const std::map<std::string, std::string>& then, const std::map<std::string, std::string>& now);

}  // namespace rw
