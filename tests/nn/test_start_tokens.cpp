// LongRoPE's first tokens without interpolation in a model: their angles, prefill and decode, and the refusals.
#include <doctest/doctest.h>

#include <cmath>

#include "autograd/tape.h"
#include "nn/causal_lm.h"
#include "rope/freeze.h"
#include "rope/kinds.h"
#include "support.h"
#include "train/extend.h"

using namespace rw;

namespace {

ModelConfig small(std::optional<double> start) {
  ModelConfig c;
  c.vocab_size = 50, c.hidden_size = 32, c.intermediate_size = 48, c.num_hidden_layers = 2;
  c.num_attention_heads = 4, c.num_key_value_heads = 2;
  c.rope.max_position_embeddings = 32;
  c.rope.original_max_position_embeddings = 16;
  c.rope.kind = LongRope{.factor = 2,
                         .short_factor = {1, 1, 1, 1},
                         .long_factor = {1, 1.5, 2, 2},
                         .attention_factor = 1.25,
                         .start_tokens = start};
  return c;
}

Tensor ids(int64_t first, int64_t count) {
  std::vector<int32_t> out;
  for (int64_t i = first; i < first + count; ++i) out.push_back(static_cast<int32_t>((i * i * 7 + 3 * i) % 50));
  return Tensor::from(out, {1, count});
}

/// Every token after the prompt, from a cache, against one pass over all before it.
void check_decoding(const CausalLm& model, int64_t prompt) {
  CAPTURE(prompt);
  KvCache cache = model.make_cache(1, 24);
  static_cast<void>(model.extend(ids(0, prompt), cache));
  for (int64_t t = prompt; t < 24; ++t) {
    const std::vector<double> step = model.extend(ids(t, 1), cache).to_vector();
    KvCache whole = model.make_cache(1, 24);
    const std::vector<double> want = model.extend(ids(0, t + 1), whole).to_vector();
    for (size_t i = 0; i < step.size(); ++i)
      CHECK(step[i] == doctest::Approx(want[want.size() - step.size() + i]).epsilon(1e-10));
  }
}

}  // namespace

TEST_CASE("The first tokens beyond the original window turn by plain RoPE's angles, the others by the divided ones") {
  const CausalLm model(small(5), DType::f64, kCpu, 3), without(small(std::nullopt), DType::f64, kCpu, 3);
  const RopeAngles got = model.angles(model.plain_positions(0, 20), {}),
                   divided = without.angles(model.plain_positions(0, 20), {});
  CHECK(got.scale == 1.25);
  const std::vector<double> theta = base_inv_freq(model.config().rope);
  for (int64_t t = 0; t < 20; ++t) {
    for (int64_t i = 0; i < 4; ++i) {
      const double plain = static_cast<double>(t) * theta[static_cast<size_t>(i)];
      const int64_t at = t * 4 + i;
      CHECK(got.cos.data<double>()[at] == (t < 5 ? std::cos(plain) : divided.cos.data<double>()[at]));
      CHECK(got.sin.data<double>()[at] == (t < 5 ? std::sin(plain) : divided.sin.data<double>()[at]));
    }
  }
  const RopeAngles within = model.angles(model.plain_positions(0, 16), {});
  CHECK(within.cos.to_vector() == without.angles(model.plain_positions(0, 16), {}).cos.to_vector());
}

TEST_CASE(
    "With first tokens kept, decoding from a cache gives the logits of one prefill, within and beyond the window") {
  const NoGrad no_grad;
  ModelConfig equal = small(5);  // the first tokens alone tell the two lengths apart
  LongRope record = *equal.rope.kind.get<LongRope>();
  record.short_factor = record.long_factor;
  equal.rope.kind = record;
  const CausalLm model(small(5), DType::f64, kCpu, 3), same_lists(equal, DType::f64, kCpu, 3);
  for (const int64_t prompt : {2, 10, 18}) check_decoding(model, prompt);
  check_decoding(same_lists, 10);
  const CausalLm without(small(std::nullopt), DType::f64, kCpu, 3);
  KvCache one = model.make_cache(1, 24), other = without.make_cache(1, 24);
  CHECK(model.extend(ids(0, 24), one).to_vector() != without.extend(ids(0, 24), other).to_vector());
}

TEST_CASE("First tokens without interpolation are written only where they are, and refused where they cannot be") {
  const RopeConfig with = small(5).rope, without = small(std::nullopt).rope;
  CHECK(rope_scaling_to_json(with).find("\"start_tokens\":5.0") != std::string::npos);
  CHECK(rope_scaling_to_json(without).find("start_tokens") == std::string::npos);
  RopeConfig head = with;
  head.head_dim = 8;
  CHECK(rope_recipe_from_json(head, rope_scaling_to_json(head)).kind == head.kind);
  const auto error = [&](double start) {
    RopeConfig c = head;
    LongRope record = *head.kind.get<LongRope>();
    record.start_tokens = start;
    c.kind = record;
    return test::error_of([&] { static_cast<void>(make_rope_scaling(c)); });
  };
  CHECK(error(2.5).find("a whole number up to the original window of 16, got 2.5") != std::string::npos);
  CHECK(error(17).find("got 17") != std::string::npos);
  CHECK(error(-1) != "");
  const auto scaling = make_rope_scaling(head);
  CHECK(test::error_of([&] { freeze_rope(*scaling, 32); }).find("start_tokens") != std::string::npos);
  CHECK_NOTHROW(freeze_rope(*scaling, 16));  // within the window nothing is divided
  CHECK(test::error_of([&] { scaling->table({.length = 32, .training = true}); }).find("train without it") !=
        std::string::npos);
  ModelConfig base = small(std::nullopt);
  base.rope = {.head_dim = 8, .max_position_embeddings = 16};
  const Method method{.rope_json = rope_scaling_to_json(head)};
  CHECK(test::error_of([&] { extend(base, method, 32); }).find("for inference only") != std::string::npos);
}
