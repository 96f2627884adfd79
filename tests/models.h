// What the tests of whole models share: a model of the golden set's shape, and targets.
#pragma once
#include "nn/config.h"
#include "support.h"
#include "tensor/random.h"

namespace test {

/// The shape of the golden LLaMA.
inline rw::ModelConfig golden_config() {
  rw::ModelConfig c;
  c.vocab_size = 512, c.hidden_size = 64, c.intermediate_size = 172, c.num_hidden_layers = 2;
  c.num_attention_heads = 4, c.num_key_value_heads = 2, c.head_dim = 16;
  c.tie_word_embeddings = false;
  c.rope.max_position_embeddings = 64;
  return c;
}

/// targets[t] = ids[t+1] of ids [B,T]; the last one is not scored.
inline rw::Tensor next_tokens(const rw::Tensor& ids) {
  rw::Tensor targets = rw::Tensor::full(ids.shape(), rw::kIgnoreIndex, rw::DType::i32);
  const int64_t length = ids.size(1);
  for (int64_t b = 0; b < ids.size(0); ++b) {
    for (int64_t t = 0; t + 1 < length; ++t)
      targets.data<int32_t>()[b * length + t] = ids.data<int32_t>()[b * length + t + 1];
  }
  return targets;
}

/// A text with something to learn, ids [batch, length] below `vocabulary`: each id follows from the one before, but for
/// one in four, which is drawn.
inline rw::Tensor learnable(int64_t batch, int64_t length, uint64_t step, int64_t vocabulary) {
  rw::Random random(11, rw::Purpose::test, step);
  std::vector<int32_t> ids;
  for (int64_t b = 0; b < batch; ++b) {
    auto id = static_cast<int32_t>(random.below(vocabulary));
    for (int64_t t = 0; t < length; ++t) {
      ids.push_back(id);
      id = static_cast<int32_t>(random.below(4) == 0 ? random.below(vocabulary) : (id * 7 + 3) % vocabulary);
    }
  }
  return rw::Tensor::from(ids, {batch, length});
}

}  // namespace test
