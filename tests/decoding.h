// What the tests of decoding share, on a CPU and on a GPU: ids, and caches that hold a text.
#pragma once
#include <cstdint>
#include <vector>

#include "autograd/tape.h"
#include "nn/causal_lm.h"
#include "tensor/random.h"

namespace test {

using Ids = std::vector<int32_t>;

inline Ids some_ids(int64_t count, int64_t vocab, uint64_t seed) {
  rw::Random random(seed, rw::Purpose::test);
  Ids ids(static_cast<size_t>(count));
  for (int32_t& id : ids) id = static_cast<int32_t>(random.below(vocab));
  return ids;
}

/// A cache of `capacity` tokens, on the model's device, that holds `ids`.
inline rw::KvCache filled(const rw::CausalLm& model, const Ids& ids, int64_t capacity) {
  const rw::NoGrad no_grad;
  rw::KvCache cache = model.make_cache(1, capacity);
  model.extend(rw::Tensor::from(ids, {1, static_cast<int64_t>(ids.size())}).to(model.device()), cache);
  return cache;
}

}  // namespace test
