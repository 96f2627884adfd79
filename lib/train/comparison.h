// A comparison: trains a base model, extends it by every arm of a recipe, evaluates all of them alike, and writes one
// table and one report.
//
//   Comparison comparison(read_comparison_recipe("recipes/tiny.toml", {}), {.out = "out/tiny"}, callbacks);
//   comparison.run();
//
// Every finished stage leaves a file, so that the same comparison continues where it was stopped. A trained arm has
// OUT/<arm>/stage.toml. A finished evaluation has OUT/<arm>/eval-<name>.json. Several processes with the same OUT, one
// per GPU, share the arms.
#pragma once
#include <functional>
#include <map>
#include <memory>
#include <string>
#include <vector>

#include "data/corpus.h"
#include "nn/causal_lm.h"
#include "train/comparison_recipe.h"
#include "train/comparison_table.h"
#include "train/trainer.h"

namespace rw {

struct ComparisonOptions {
  std::string out;
  std::vector<std::string> only;  // arms, by name or pattern with *; empty: all
  std::string name;               // the report's title where the recipe has none
  bool drop_weights = false;      // remove an arm's weights once it is evaluated
  Device device = kCpu;
};

/// How far a stage is.
enum class StageState { waiting, under_way, trained, done };

/// What a comparison tells while it runs. Each may be left empty.
struct ComparisonCallbacks {
  /// A stage, counted from 1, and what was done for it, in words.
  std::function<void(size_t stage, size_t stages, const std::string& name, const std::string& what)> on_stage = {};
  /// Of a training that begins.
  std::function<TrainCallbacks(const std::string& name)> training = {};
  /// After each training.
  std::function<void(const std::string& name)> on_trained = {};
  /// Of work beside training: "merges", "tokenize", the name of an evaluation.
  std::function<void(const std::string& what, int64_t done, int64_t total)> on_work = {};
};

/// Thread safety: none.
class Comparison {
 public:
  /// Errors: `only` names no arm.
  Comparison(ComparisonRecipe recipe, ComparisonOptions options, ComparisonCallbacks callbacks);

  const ComparisonRecipe& recipe() const { return recipe_; }
  const std::string& out() const { return o_.out; }
  /// The arms that `only` asks for.
  std::vector<const ComparisonArm*> wanted() const;
  StageState state(const std::string& name) const;

  /// Does what is missing. Returns false if a training was stopped by its callbacks.
  bool run();
  /// Tables and report of what is done so far; also run() writes them. The table for a
  /// terminal. Errors: the base is not evaluated.
  std::string write_tables();

 private:
  std::string folder(const std::string& name) const { return o_.out + "/" + name; }
  std::string base_folder() const { return recipe_.model.empty() ? folder("base") : recipe_.model; }
  void say(const std::string& name, const std::string& what);
  const std::vector<Document>& documents();
  std::unique_ptr<Tokenizer> tokenizer() const;
  std::string text_file() const;
  void prepare_tokenizer();
  void prepare_text();
  bool prepare_base();
  bool train(const std::string& name, Recipe config, const Settings& settings);
  void prepare_zero_shot(const ComparisonArm& arm);
  const TokenCorpus& text_of(const ComparisonEval& e, const Tokenizer& tokenizer);
  void evaluate(const std::string& name, const std::string& model, const std::string& rope);
  void write_frequencies(const std::string& name, const CausalLm& model) const;
  void drop_weights(const std::string& name) const;
  std::vector<ArmRuns> measured() const;
  Progress work(const std::string& what) const;

  ComparisonRecipe recipe_;
  ComparisonOptions o_;
  ComparisonCallbacks callbacks_;
  std::vector<Document> documents_;
  std::map<std::string, TokenCorpus> texts_;
  size_t stage_ = 0, stages_ = 0;
  bool worked_ = false;  // since the tables were written
};

}  // namespace rw
