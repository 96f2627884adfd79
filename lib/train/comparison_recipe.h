// The recipe of a comparison: a TOML file that names a base model, the arms that
// extend it, and how all of them are evaluated.
//
//   title = "PoSE at 8x"
//   [base]                         the options of `ropewalk train`, and what becomes its text:
//   data = ["data/books/train"]    none: the built-in corpus
//   vocab = 8192                   a BPE that is trained on the data; or tokenizer = "folder"; or model = "folder",
//   steps = 8900                   which is then the base and is not trained: a model, or another comparison's folder
//   [mix]
//   share = 0.07                   of key-retrieval sequences, in the base and in every arm
//   [eval]
//   data = ["data/books/test"]     text for the protocols that need some and name none of their own
//   [eval.ppl]                     a section per evaluation: the options of `ropewalk eval KIND`. The section's name is
//   window = [512, 4096]           the kind, unless `kind` says otherwise
//   [arm]
//   lr = 1e-4                      what all arms share
//   [arms.pose]                    a section per arm: the options of `ropewalk train`, and
//   method = "pose"                  seeds = [1, 2, 3]      trained once with each; the table gives mean and spread
//   target = [2048, 4096]            steps = 0              nothing is trained, only the frequencies are changed
//   steps = 1000                     tokens-per-step = N    sets the batch from the arm's window
//
//   include = "shared.toml"        at the top: another recipe's sections, which this one's go over
//
// A list where `train` takes one value makes an arm of every value; lists multiply.
#pragma once
#include <map>
#include <memory>
#include <string>
#include <vector>

#include "eval/protocol.h"
#include "train/plan.h"

namespace rw {

/// What decides the result of a stage, by name. A stage that was done with other settings is never taken for this one.
using Settings = std::map<std::string, std::string>;

struct ComparisonArm {
  std::string name;    // its folder: "pose-2048-seed1"
  std::string family;  // without the seed: one row of the table
  Recipe train;        // out and from are the comparison's to set
  bool zero_shot = false;
  Settings settings;
};

struct ComparisonEval {
  std::string name;  // eval-NAME.json
  std::unique_ptr<EvalProtocol> protocol;
  Settings settings;
};

struct ComparisonRecipe {
  std::string title, subtitle;
  int32_t vocab = 0;      // of the tokenizer to train; 0: none is trained
  std::string tokenizer;  // given instead
  std::string model;      // a base that is given instead of trained
  Recipe base;
  Settings base_settings;
  std::vector<ComparisonArm> arms;
  std::vector<ComparisonEval> evals;
};

/// What the command line says above the recipe.
struct ComparisonOverrides {
  std::string root;                          // folder that relative paths of data, tokenizer and model start from
  std::vector<std::string> data, eval_data;  // replace the recipe's
  std::string model;                         // as [base] model
  int64_t max_seeds = 0;                     // only the first N seeds of each arm; 0: all
  int64_t max_arms = 200;                    // more are refused
};

/// Errors: not readable, unknown sections, keys or values, names that are no folder's, too many arms; every message is
/// one line and names file and section.
ComparisonRecipe read_comparison_recipe(const std::string& path, const ComparisonOverrides& overrides);

}  // namespace rw
