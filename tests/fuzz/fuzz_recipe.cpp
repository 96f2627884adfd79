// A training recipe in TOML (--config), up to the model and the positions that it describes; nothing is trained.
#include "data/tokenizer.h"
#include "fuzz.h"
#include "nn/config.h"
#include "train.h"

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
  CLI::App app("fuzz", "ropewalk");
  Globals globals;
  add_globals(app, globals);
  const std::shared_ptr<rw::TrainConfig> config = add_train(app, globals);
  app.get_subcommand("train")->callback([] {});
  std::vector<std::string> words = {"out", "--out", "train", fuzz::file("recipe.toml", input),
                                    "--config"};  // last first
  try {
    app.parse(words);
  } catch (const CLI::ParseError&) {
    return;
  }
  if (!config->from.empty()) config->from = base_folder();
  static const auto tokenizer = rw::make_byte_tokenizer();
  const rw::Recipe recipe = rw::make_recipe(*config, *tokenizer);
  rw::make_position_sampler(recipe.positions);
  rw::to_toml(recipe.description);
}

std::vector<std::string> fuzz_seeds() {
  return {
      "# a recipe\nquiet = true\n[train]\nhidden = 16\nlayers = 1\nheads = 2\nbatch = 2\nwindow = 16\nsteps = 9\nlr = "
      "1e-3\ndata = [\"a.txt\", \"b.jsonl\"]\n",
      "[train]\nfrom = \"base\"\nmethod = \"pose\"\nscaling = \"yarn\"\ntarget = 128\nwindow = 32\nchunks = "
      "2\nmask-seams = true\n",
      "[train]\nfrom=base\nmethod=clex\nmax-factor=4\ncontinuous-t=true\nsteps=3\n",
      "[train]\nfrom = 'base'\nmethod = 'full'\nscaling = '{\"rope_type\":\"linear\",\"factor\":4}'\ntarget = 64\nseed "
      "= 7\nschedule = \"cosine\"\n",
      "[train]\nfrom = \"base\"\nmethod = \"e2\"\nmax-factor = 8\nper-step = false\nwarmup = 10\n"};
}
