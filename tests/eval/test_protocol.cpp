// Defaults of the evaluation protocols, and what a result says about itself.
#include <doctest/doctest.h>

#include <filesystem>

#include "data/tokenizer.h"
#include "eval/perplexity.h"
#include "eval/protocol.h"
#include "eval/provenance.h"
#include "nn/io/hf.h"
#include "rope/kinds.h"
#include "support.h"
#include "tensor/file.h"

using namespace rw;

namespace {

/// A tiny model over bytes, trained at 16 tokens and extended to 64.
std::unique_ptr<CausalLm> extended_model() {
  ModelConfig c;
  c.vocab_size = 260, c.hidden_size = 8, c.intermediate_size = 16, c.num_hidden_layers = 1, c.num_attention_heads = 2;
  c.rope.kind = LinearRope{.factor = 4};
  c.rope.original_max_position_embeddings = 16;
  c.rope.max_position_embeddings = 64;
  c.finish();
  return std::make_unique<CausalLm>(c, DType::f32, kCpu, 1);
}

TokenCorpus lines(const Tokenizer& tokenizer) {
  std::string text;
  for (int i = 0; i < 40; ++i) text += "Line " + std::to_string(i * 37 % 101) + " of the story. ";
  return tokenize_corpus({{"story", text}, {"other", text.substr(100)}}, tokenizer);
}

EvalResult run(const std::string& kind, const std::vector<std::pair<std::string, std::string>>& settings = {}) {
  const auto model = extended_model();
  const auto tokenizer = make_byte_tokenizer();
  const auto protocol = make_eval_protocol(kind);
  const std::vector<Setting> known = protocol->settings();
  for (const auto& [name, value] : settings) assign(*find_setting(known, name), {value}, name);
  protocol->options.weights = "0123456789abcdef";
  EvalSubject subject(*model, *tokenizer, lines(*tokenizer), protocol->options);
  return protocol->run(subject);
}

}  // namespace

TEST_CASE("A model's own window is the extended one, however its folder states it") {
  RopeConfig plain;
  plain.max_position_embeddings = 512;
  CHECK(serving_window(plain) == 512);
  RopeConfig ours = plain;
  ours.kind = YarnRope{.factor = 8};
  ours.original_max_position_embeddings = 512;
  ours.max_position_embeddings = 4096;
  CHECK(serving_window(ours) == 4096);
  RopeConfig published = plain;  // linear scaling with the window of pre-training, as some public folders have it
  published.kind = LinearRope{.factor = 4};
  CHECK(serving_window(published) == 2048);
  RopeConfig clex = plain;
  clex.kind = ClexRope{.max_factor = 16};
  CHECK(serving_window(clex) == 8192);
}

TEST_CASE("Evaluation defaults come from the model's own window, not from the one of pre-training") {
  const EvalResult ppl = run("ppl");
  REQUIRE(ppl.totals.size() == 1);
  CHECK(ppl.totals[0].integer("window") == 64);
  CHECK(ppl.totals[0].integer("stride") == 32);  // half a window: each token is read twice
  const EvalResult bins = run("bins");
  CHECK(bins.protocol.integer("window") == 64);
  const EvalResult lastk = run("lastk", {{"last", "4"}});
  CHECK(lastk.totals.back().integer("context") == 64);
}

TEST_CASE("A result names model, weights, text, seed, device, version, date and interval") {
  const EvalResult result = run("ppl", {{"documents", "1"}});
  const Record& p = result.protocol;
  CHECK(p.integer("trained_window") == 16);
  CHECK(p.integer("model_window") == 64);
  CHECK(p.text("weights") == "0123456789abcdef");
  CHECK(p.text("text").find("tokens in 2 documents, fnv1a ") != std::string::npos);
  CHECK(p.text("device").starts_with("cpu, "));
  CHECK(p.text("version").starts_with("0."));
  CHECK(p.text("date").size() == 16);
  CHECK(p.find("interval") != nullptr);
  CHECK(result.totals[0].integer("documents") == 1);
  CHECK(result.totals[0].integer("tokens") > 0);
}

TEST_CASE("The plan of a perplexity says what will be read, and the reading is that long") {
  const auto model = extended_model();
  const auto tokenizer = make_byte_tokenizer();
  const TokenCorpus corpus = lines(*tokenizer);
  const PerplexityOptions o{.windows = {32, 64}, .stride = 8, .bos = tokenizer->bos_id()};
  const PerplexityCost cost = perplexity_cost(corpus, o);
  CHECK(cost.documents == 2);
  CHECK(cost.scored == 2.0 * static_cast<double>(corpus.total_tokens()));
  double read = 0;
  for (const int64_t window : o.windows) {
    for (int64_t d = 0; d < corpus.documents(); ++d) {
      for (const SlidingSpan& s : sliding_spans(corpus.length(d), window, 8, o.bos.has_value()))
        read += static_cast<double>(s.end - s.begin + 1);
    }
  }
  CHECK(cost.read == doctest::Approx(read).epsilon(0.05));
  const auto protocol = make_eval_protocol("ppl");
  const EvalSubject subject(*model, *tokenizer, corpus, protocol->options);
  CHECK(protocol->plan(subject).find("2 documents under windows of 64, stride 1/2 of a window") != std::string::npos);
}

TEST_CASE("The checksum of a folder's weights follows the weights and nothing else") {
  const test::TempDir dir;
  const auto model = extended_model();
  save_hf(dir.path("m"), *model);
  const auto first = weights_checksum(dir.path("m"));
  REQUIRE(first.has_value());
  CHECK(first->size() == 16);
  write_file_atomic(dir.path("m/notes.txt"), "anything");
  CHECK(weights_checksum(dir.path("m")) == first);
  std::string bytes = read_file(dir.path("m/model.safetensors"));
  bytes.back() = static_cast<char>(bytes.back() ^ 1);
  write_file_atomic(dir.path("m/model.safetensors"), bytes);
  CHECK(weights_checksum(dir.path("m")) != first);
  std::filesystem::create_directory(dir.path("empty"));
  CHECK_FALSE(weights_checksum(dir.path("empty")).has_value());
}
