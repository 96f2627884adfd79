// The recipe of a comparison in TOML, up to its arms and evaluations; nothing is trained.
#include "fuzz.h"
#include "train/comparison_recipe.h"

void fuzz_one(std::string_view input) { rw::read_comparison_recipe(fuzz::file("compare.toml", input), {}); }

std::vector<std::string> fuzz_seeds() {
  const std::string base =
      "title = \"t\"\n[base]\nhidden = 16\nlayers = 1\nheads = 2\nbatch = 2\nwindow = 16\nsteps = 9\nvocab = 300\n";
  return {base + "[arms.pi]\nmethod = \"pi\"\ntarget = 64\nsteps = 3\n[eval.ppl]\nwindow = [16, 64]\n",
          base +
              "[mix]\nshare = 0.1\n[arm]\nlr = 1e-4\n[arms.pose]\nmethod = 'pose'\nscaling = ['yarn', "
              "'linear']\ntarget = [32, 64, "
              "128]\nseeds = [1, 2, 3]\nsteps = 2\n",
          base +
              "[eval]\nmax-tokens = 50\n[eval.keys]\nkind = \"passkey\"\ntrials = 2\n[arms.zero]\nmethod = "
              "\"full\"\nsteps = 0\n",
          "[base]\nmodel = \"none\"\n[arms.a]\nmethod = \"e2\"\nmax_factor = 8\ntarget = 64\nsteps = "
          "5\ntokens-per-step = 4096\n"};
}
