// New models of several families, and what may be trained with from the first step.
#include <doctest/doctest.h>

#include "data/tokenizer.h"
#include "nn/causal_lm.h"
#include "rope/kinds.h"
#include "support.h"
#include "train/plan.h"

using namespace rw;

namespace {

Recipe tiny(const std::string& family) {
  Recipe r;
  r.family = family;
  r.hidden = 32, r.layers = 4, r.heads = 2, r.ffn = 64, r.window = 48, r.batch = 1;
  r.steps = 1;
  return r;
}

RunPlan plan(const Recipe& r) { return make_plan(r, *make_byte_tokenizer(), nullptr); }

}  // namespace

TEST_CASE("A new model has the block of the family that is named, and the sizes that are asked for") {
  const ModelConfig neox = plan(tiny("gpt_neox")).model;
  CHECK(neox.family == Family::gpt_neox);
  CHECK(neox.block.parallel);
  CHECK(neox.block.norm == NormKind::layer);
  CHECK(neox.rope.rotary_dim() == 4);  // a quarter of a head of 16
  const ModelConfig qwen = plan(tiny("qwen3")).model;
  CHECK(qwen.family == Family::qwen3);
  CHECK(qwen.block.qk_norm == QkNorm::heads);
  CHECK(qwen.head_dim == 16);
  for (const ModelConfig& c : {neox, qwen}) {
    CHECK(c.hidden_size == 32);
    CHECK(c.intermediate_size == 64);
    CHECK(c.num_hidden_layers == 4);
    CHECK(c.rope.max_position_embeddings == 48);
    CHECK(c.vocab_size == make_byte_tokenizer()->vocab_size());
    const ModelConfig back = model_config_from_json(model_config_to_json(c, "float32"));
    CHECK(back.family == c.family);
    CHECK(back.rope == c.rope);
    CHECK(CausalLm(c, DType::f32, kCpu, 1).arena().parameter_count() > 0);
  }
  Recipe grouped = tiny("gpt_neox");
  grouped.kv_heads = 1;
  CHECK(test::error_of([&] { plan(grouped); }).find("gpt_neox has no grouped queries") != std::string::npos);
}

TEST_CASE("Layers without RoPE come at the interval that is asked for") {
  Recipe r = tiny("smollm3");
  r.nope_interval = 2;
  const ModelConfig c = plan(r).model;
  for (int64_t i = 0; i < 4; ++i) CHECK(c.layer(i).rope == (i % 2 == 0));
  r.nope_interval = 0;
  CHECK_FALSE(plan(r).model.layer(3).rope);  // every fourth, as published
}

TEST_CASE("A new model may begin with p-RoPE, NoPE or scaled queries, and not with a kind that stretches") {
  Recipe r = tiny("llama");
  r.scaling = "proportional";
  CHECK(plan(r).model.rope.kind == ProportionalRope{});
  CHECK(plan(r).model.rope.extended_window() == 48);
  r.scaling = R"({"rope_type":"default","logn_scaling":"ssmax"})";
  CHECK(plan(r).model.rope.logn == LogN::ssmax);
  r.scaling = "nope";
  CHECK(plan(r).model.rope.kind == NopeRope{});
  for (const char* scaling : {"yarn", "linear", "dca", "clex", "dynamic", R"({"rope_type":"linear","factor":4})"}) {
    CAPTURE(scaling);
    r.scaling = scaling;
    CHECK(test::error_of([&] { plan(r); }).find("method plain trains without extension; with scaling '") !=
          std::string::npos);
  }
}
