// A tokenizer with more tokens than the model: fine, until a text needs one that the model lacks.
#include <fstream>

#include "data/corpus.h"
#include "nn/io/hf.h"
#include "support.h"
#include "train/run_setup.h"

using namespace rw;

namespace {

/// A model folder with the byte tokenizer and fewer ids than it has.
std::string small_model(const test::TempDir& dir, int32_t vocabulary, const std::string& bos = "") {
  ModelConfig c;
  c.vocab_size = vocabulary, c.hidden_size = 8, c.intermediate_size = 8;
  c.num_hidden_layers = 1, c.num_attention_heads = 2;
  c.rope.max_position_embeddings = 16;
  const std::string folder = dir.path("model");
  save_hf(folder, CausalLm(c, DType::f32, kCpu, 1));
  const auto tokenizer = make_byte_tokenizer();
  if (!bos.empty()) tokenizer->set_bos(bos);
  tokenizer->save(folder);
  return folder;
}

Recipe recipe_of(const test::TempDir& dir, const std::string& model, const std::string& text) {
  std::ofstream(dir.path("text.txt"), std::ios::binary) << text;
  Recipe r;
  r.from = model;
  r.data = {dir.path("text.txt")};
  r.steps = 1;
  r.no_bos = true;
  return r;
}

const std::string kPlain(200, 'a');

}  // namespace

TEST_CASE("a tokenizer larger than the model trains on text that stays within the model's ids") {
  const test::TempDir dir;
  const Recipe recipe = recipe_of(dir, small_model(dir, make_byte_tokenizer()->encode("a")[0] + 1), kPlain);
  const RunSetup setup = set_up_run(recipe, {}, {});
  CHECK(setup.corpus.total_tokens() == 200);
  CHECK(setup.model->config().vocab_size < setup.tokenizer->vocab_size());
}

TEST_CASE("a text that needs an id beyond the model is refused before the first step, and the id is named") {
  const test::TempDir dir;
  const auto bytes = make_byte_tokenizer();
  const int32_t a = bytes->encode("a")[0], z = bytes->encode("z")[0];
  const Recipe recipe = recipe_of(dir, small_model(dir, a + 1), kPlain + "z");
  const std::string why = test::error_of([&] { set_up_run(recipe, {}, {}); });
  CHECK(why.find(cat("token ", z)) != std::string::npos);
  CHECK(why.find(cat("the model has ", a + 1)) != std::string::npos);

  SUBCASE("and so is a token file with such an id, and only then") {
    Recipe tokens = recipe;
    tokens.data = {dir.path("text.tokens")};
    write_token_file(tokens.data[0], tokenize_corpus({{"book", kPlain + "z"}}, *bytes));
    const std::string named = test::error_of([&] { set_up_run(tokens, {}, {}); });
    CHECK(named.find(cat("'book' has token id ", z, " at position 200")) != std::string::npos);
    write_token_file(tokens.data[0], tokenize_corpus({{"book", kPlain}}, *bytes));
    CHECK(set_up_run(tokens, {}, {}).corpus.total_tokens() == 200);
  }
}

TEST_CASE("a BOS beyond the model is refused before the first step") {
  const test::TempDir dir;
  Recipe recipe = recipe_of(dir, small_model(dir, make_byte_tokenizer()->encode("a")[0] + 1, "z"), kPlain);
  recipe.no_bos = false;
  CHECK(test::error_of([&] { set_up_run(recipe, {}, {}); }).find("--no-bos") != std::string::npos);
}
