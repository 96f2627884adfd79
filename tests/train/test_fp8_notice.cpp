// What a run says of its 8-bit products.
#include <string>
#include <vector>

#include "support.h"
#include "train/trainer.h"

using namespace rw;

namespace {

std::vector<std::string> notices(const Recipe& recipe) {
  std::vector<std::string> lines;
  const Trainer trainer(recipe, {.device = kCpu},
                        {.on_notice = [&](const std::string& line) { lines.push_back(line); }});
  return lines;
}

Recipe small() {
  Recipe recipe;
  recipe.data = {"demo"};
  recipe.hidden = 64;
  recipe.layers = 2;
  recipe.heads = 2;
  recipe.window = 32;
  recipe.batch = 4;
  recipe.steps = 1;
  recipe.dtype = "bf16";
  recipe.matmul = "fp8";
  return recipe;
}

}  // namespace

TEST_CASE("a run in 8-bit products says how many layers take them, also when none does") {
  CHECK(notices(small()) ==
        std::vector<std::string>{"--matmul fp8: 0 of the blocks' 8 linear layers multiply in 8 bits at 128 tokens a "
                                 "forward; the others would gain less than they cost"});
}

TEST_CASE("fp8-all takes every layer whose sizes are multiples of 16, though it gains nothing there") {
  Recipe recipe = small();
  recipe.matmul = "fp8-all";
  CHECK(notices(recipe) ==
        std::vector<std::string>{
            "--matmul fp8-all: 8 of the blocks' 8 linear layers multiply in 8 bits at 128 tokens a forward"});
}

TEST_CASE("a run in 8-bit products is refused for f32") {
  Recipe recipe = small();
  recipe.dtype = "f32";
  CHECK(test::error_of([&] { notices(recipe); }) ==
        "[matmul] fp8 products need a model that computes in bf16, got f32");
}
