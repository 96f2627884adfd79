// A program that embeds Ropewalk: loads a checkpoint, extends its window by YaRN, trains ten steps with its own loop,
// and generates. Usage: example MODEL_FOLDER
#include <autograd/tape.h>
#include <nn/adamw.h>
#include <nn/generate.h>
#include <nn/io/hf.h>
#include <rope/kinds.h>

#include <cstdio>

int main(int argc, char** argv) try {
  if (argc != 2) return std::fprintf(stderr, "usage: example MODEL_FOLDER\n"), 2;

  // The window becomes four times what it was.
  const auto extend = [](rw::ModelConfig& config) {
    config.rope.kind = rw::YarnRope{.factor = 4};
    config.rope.original_max_position_embeddings = config.rope.max_position_embeddings;
    config.rope.max_position_embeddings *= 4;
  };
  const auto model = rw::load_hf(argv[1], {.adjust = extend});
  const int64_t window = model->config().rope.max_position_embeddings, vocab = model->config().vocab_size;

  // Its own loop: ids [1,T], targets the next ids.
  rw::Random random(1, rw::Purpose::data);
  std::vector<int32_t> ids, targets;  // each id follows from the one before, now and then from chance
  for (int64_t t = 0; t <= window; ++t)
    ids.push_back(static_cast<int32_t>(t % 7 ? (ids.back() * 5 + 1) % vocab : random.below(vocab)));
  targets.assign(ids.begin() + 1, ids.end());
  ids.pop_back();
  const rw::Tensor x = rw::Tensor::from(ids, {1, window}), y = rw::Tensor::from(targets, {1, window});
  model->enable_grad();
  rw::AdamW optimizer(model->arena(), {});
  for (int step = 0; step < 10; ++step) {
    const rw::Var loss = model->loss(x, y, model->angles(model->plain_positions(0, window), {}));
    rw::backward(loss);
    optimizer.step(1e-3, 1.0 / static_cast<double>(window), 1.0);
    std::printf("step %d  loss %.4f\n", step, loss.item() / static_cast<double>(window));
  }
  rw::generate(*model, {1}, {.tokens = 10, .sampling = {.temperature = 0}, .stop = {}},
               [](int32_t id) { return std::printf("%d ", id) > 0; });
  std::printf("\n");
  return 0;
} catch (const rw::Error& e) {
  return std::fprintf(stderr, "example: %s\n", e.what()), 1;
}
