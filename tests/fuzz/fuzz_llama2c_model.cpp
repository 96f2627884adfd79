// llama2.c's model .bin, then one forward over what it holds.
#include <cmath>
#include <cstring>

#include "autograd/tape.h"
#include "fuzz.h"
#include "nn/io/llama2c.h"

void fuzz_one(std::string_view input) {
  const auto model = rw::load_llama2c(fuzz::file("x.bin", input));
  const rw::NoGrad no_grad;
  const rw::Tensor ids = rw::Tensor::from(std::vector<int32_t>{0}, {1, 1});
  model->logits(model->forward(ids, model->angles(model->plain_positions(0, 1), {})));
}

std::vector<std::string> fuzz_seeds() {
  std::vector<std::string> seeds;
  const auto add = [&](std::vector<int32_t> header) {
    const int64_t dim = header[0], ffn = header[1], layers = header[2], heads = header[3], kv = header[4],
                  vocab = std::abs(header[5]), window = header[6], head = dim / heads;
    const int64_t floats = vocab * dim * (header[5] > 0 ? 1 : 2) +
                           layers * (2 * dim + 2 * dim * dim + 2 * kv * head * dim + 3 * dim * ffn) + dim +
                           window * head;
    std::string bytes(reinterpret_cast<const char*>(header.data()), 28);
    for (int64_t i = 0; i < floats; ++i) {
      const float value = std::sin(static_cast<float>(i));
      bytes.append(reinterpret_cast<const char*>(&value), 4);
    }
    seeds.push_back(bytes);
  };
  add({4, 6, 1, 2, 1, 5, 3});
  add({8, 4, 2, 2, 2, -7, 4});
  add({2, 1, 1, 1, 1, 1, 1});
  return seeds;
}
