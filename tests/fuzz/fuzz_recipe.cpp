// A training recipe in TOML (--config), up to the model and the positions that it describes; nothing is trained.
#include <cstdio>
#include <cstdlib>

#include "data/tokenizer.h"
#include "fuzz.h"
#include "nn/config.h"
#include "train/plan.h"
#include "train/recipe_fields.h"

namespace {

/// A model folder's config.json, for recipes that extend a model.
const std::string& base_folder() {
  static const std::string folder = [] {
    rw::ModelConfig c;
    c.vocab_size = 258, c.hidden_size = 8, c.intermediate_size = 8, c.num_hidden_layers = 1, c.num_attention_heads = 2;
    c.rope.max_position_embeddings = 32;
    c.finish();
    const std::string path = fuzz::file("config.json", rw::model_config_to_json(c, "float32"));
    return path.substr(0, path.rfind('/'));
  }();
  return folder;
}

}  // namespace

void fuzz_one(std::string_view input) {
  rw::Recipe recipe = rw::recipe_from_toml(std::string(input), "recipe.toml");
  rw::check_settings(recipe);
  if (rw::recipe_to_toml(rw::recipe_from_toml(rw::recipe_to_toml(recipe), "again")) != rw::recipe_to_toml(recipe)) {
    std::fprintf(stderr, "fuzz: the recipe does not read back\n");
    std::abort();
  }
  if (!recipe.from.empty()) recipe.from = base_folder();
  static const auto tokenizer = rw::make_byte_tokenizer();
  const rw::RunPlan plan = rw::make_plan(recipe, *tokenizer);
  rw::make_position_sampler(plan.positions);
  rw::to_toml(plan.description);
}

std::vector<std::string> fuzz_seeds() {
  return {
      "# a recipe\n[train]\nhidden = 16\nlayers = 1\nheads = 2\nbatch = 2\nwindow = 16\nsteps = 9\nlr = "
      "1e-3\ndata = [\"a.txt\", \"b.jsonl\"]\n",
      "[train]\nfrom = \"base\"\nmethod = \"pose\"\nscaling = \"yarn\"\ntarget = 128\nwindow = 32\nchunks = "
      "2\nmask-seams = true\n",
      "[train]\nfrom=base\nmethod=clex\nmax-factor=4\ncontinuous-t=true\nsteps=3\n",
      "[train]\nfrom = 'base'\nmethod = 'full'\nscaling = '{\"rope_type\":\"linear\",\"factor\":4}'\ntarget = 64\nseed "
      "= 7\nschedule = \"cosine\"\n",
      "[train]\nfrom = \"base\"\nmethod = \"e2\"\nmax-factor = 8\nper-step = false\nwarmup = 10\n"};
}
