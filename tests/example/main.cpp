// A program that embeds Ropewalk: extends the window of a model by YaRN, trains it on PoSE's positions with callbacks,
// and generates. Usage: example MODEL_FOLDER TEXT_FILE [OUT_FOLDER]
#include <nn/generate.h>
#include <nn/io/hf.h>
#include <train/trainer.h>

#include <cstdio>

int main(int argc, char** argv) try {
  if (argc < 3) return std::fprintf(stderr, "usage: example MODEL_FOLDER TEXT_FILE [OUT_FOLDER]\n"), 2;

  rw::Recipe recipe;
  recipe.from = argv[1], recipe.data = {argv[2]}, recipe.out = argc > 3 ? argv[3] : "";
  recipe.steps = 10, recipe.batch = 2, recipe.schedule.lr = 1e-3;

  // The window becomes four times what it was, by a method given as a value.
  const int64_t window = rw::read_hf_config(argv[1]).rope.original_window();
  rw::set_method(recipe, {.sampler = rw::PosePositions{.chunks = 3}, .rope = rw::YarnRope{}}, 4 * window);

  rw::TrainCallbacks callbacks;
  callbacks.on_start = [](const rw::StartReport& r) {
    std::printf("%lld parameters, samples of %lld tokens for a window of %lld\n", static_cast<long long>(r.parameters),
                static_cast<long long>(r.window), static_cast<long long>(r.target));
  };
  callbacks.on_step = [](const rw::StepReport& r) {
    std::printf("step %lld  loss %.4f\n", static_cast<long long>(r.step), r.loss);
  };
  rw::Trainer trainer(recipe, {}, callbacks);
  trainer.run();

  rw::generate(trainer.model(), {1}, {.tokens = 10, .sampling = {.temperature = 0}, .stop = {}},
               [](int32_t id) { return std::printf("%d ", id) > 0; });
  std::printf("\n");
  return 0;
} catch (const rw::Error& e) {
  return std::fprintf(stderr, "example: %s\n", e.what()), 1;
}
