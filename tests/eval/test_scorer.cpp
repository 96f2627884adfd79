#include <doctest/doctest.h>

#include <algorithm>
#include <cmath>
#include <cstdlib>
#include <filesystem>
#include <fstream>
#include <nlohmann/json.hpp>
#include <sstream>

#include "data/corpus.h"
#include "eval/longbench.h"
#include "eval/passkey.h"
#include "eval/perplexity.h"
#include "eval/ruler.h"
#include "eval/scorer.h"
#include "eval/tasks.h"
#include "nn/io/hf.h"
#include "nn/io/llama2c.h"
#include "support.h"
#include "tensor/file.h"

using namespace rw;

namespace {

ModelConfig tiny(const std::string& rope_type = "default", double factor = 1) {
  ModelConfig c;
  c.vocab_size = 50;
  c.hidden_size = 32;
  c.intermediate_size = 48;
  c.num_hidden_layers = 2;
  c.num_attention_heads = 4;
  c.num_key_value_heads = 2;
  c.initializer_range = 0.3;  // so that predictions are far from uniform
  c.rope.max_position_embeddings = 16;
  c.rope.kind = rope_kind(rope_type);
  if (c.rope.kind.find("factor")) c.rope.kind.set("factor", number_text(factor));
  return c;
}

std::vector<int32_t> random_ids(size_t n, uint64_t seed) {
  Random random(seed, Purpose::test);
  std::vector<int32_t> ids;
  for (size_t i = 0; i < n; ++i) ids.push_back(static_cast<int32_t>(random.below(50)));
  return ids;
}

/// Losses of ids[1 ..] by the model's own function, one sequence alone.
std::vector<double> plain_nll(const CausalLm& model, const std::vector<int32_t>& ids, int64_t length) {
  const int64_t n = static_cast<int64_t>(ids.size()) - 1;
  const Tensor input = Tensor::from(std::vector<int32_t>(ids.begin(), ids.end() - 1), {1, n});
  const Tensor target = Tensor::from(std::vector<int32_t>(ids.begin() + 1, ids.end()), {1, n});
  return model.token_nll(input, target, model.angles(model.plain_positions(0, n), {.length = length})).to_vector();
}

}  // namespace

TEST_CASE("Batched, padded windows score as each window does alone") {
  const CausalLm model(tiny(), DType::f64, kCpu, 1);
  ModelScorer scorer(model, {.batch_tokens = 40});  // three windows to a forward
  std::vector<ScoreWindow> windows;
  for (size_t n : {12, 9, 2, 12, 5, 1}) windows.push_back({random_ids(n, n), n > 4 ? 3 : 1});
  const auto scores = scorer.score(windows, 12, true);
  REQUIRE(scores.size() == windows.size());
  for (size_t w = 0; w < windows.size(); ++w) {
    REQUIRE(scores[w].size() == windows[w].ids.size() - static_cast<size_t>(windows[w].first));
    if (scores[w].empty()) continue;
    const std::vector<double> want = plain_nll(model, windows[w].ids, 12);
    for (size_t i = 0; i < scores[w].size(); ++i) {
      CHECK(scores[w][i].nll == doctest::Approx(want[i + static_cast<size_t>(windows[w].first) - 1]).epsilon(1e-12));
      // The best token has a positive margin exactly when it is the scored one.
      const int32_t token = windows[w].ids[i + static_cast<size_t>(windows[w].first)];
      CHECK((scores[w][i].best == token) == (scores[w][i].margin > 0));
    }
  }
}

TEST_CASE("The stated length sets the scale of length-dependent kinds") {
  const CausalLm model(tiny("dynamic", 2), DType::f64, kCpu, 1);
  ModelScorer scorer(model);
  CHECK(scorer.depends_on_length());
  const std::vector<ScoreWindow> window = {{random_ids(20, 3), 1}};
  for (int64_t length : {20, 64}) {
    const auto scores = scorer.score(window, length);
    const std::vector<double> want = plain_nll(model, window[0].ids, length);
    for (size_t i = 0; i < want.size(); ++i) CHECK(scores[0][i].nll == doctest::Approx(want[i]).epsilon(1e-12));
  }
  CHECK(scorer.score(window, 20)[0].back().nll != doctest::Approx(scorer.score(window, 64)[0].back().nll));
}

TEST_CASE("Reading in chunks equals one pass where frequencies are fixed") {
  const CausalLm model(tiny("linear", 4), DType::f64, kCpu, 1);
  ModelScorer scorer(model);
  for (size_t n : {2, 8, 9, 23}) {
    const std::vector<int32_t> ids = random_ids(n, 5);
    const std::vector<double> chunked = scorer.score_in_chunks(ids, 8), want = plain_nll(model, ids, 23);
    REQUIRE(chunked.size() == want.size());
    for (size_t i = 0; i < want.size(); ++i) CHECK(chunked[i] == doctest::Approx(want[i]).epsilon(1e-10));
  }
}

TEST_CASE("Greedy continuation takes the most likely token, one after another") {
  const CausalLm model(tiny(), DType::f64, kCpu, 1);
  ModelScorer scorer(model);
  std::vector<int32_t> ids = random_ids(6, 9);
  const std::vector<int32_t> made = scorer.greedy(ids, 4);
  REQUIRE(made.size() == 4);
  ids.insert(ids.end(), made.begin(), made.end());
  const std::vector<ScoreWindow> window = {{ids, 6}};
  const auto scores = scorer.score(window, 10, true);
  for (const TokenScore& s : scores[0]) CHECK(s.margin > 0);
  const std::vector<int32_t> stop = {made[1]};
  CHECK(scorer.greedy({ids.data(), 6}, 4, stop).size() == 1);
}

TEST_CASE("What evaluations generate is the same whether texts are decoded together or one after another") {
  const auto tokenizer = make_byte_tokenizer();
  ModelConfig config = tiny();
  config.vocab_size = tokenizer->vocab_size();
  config.rope.max_position_embeddings = 512;
  const CausalLm model(config, DType::f32, kCpu, 7);
  const RetrievalPrompts prompts(choose_retrieval_template("default"), *tokenizer, std::nullopt, nullptr);
  std::vector<LongBenchItem> items;
  for (int i = 0; i < 70; ++i)  // more than an evaluation holds at once
    items.push_back({std::string(static_cast<size_t>(i), 'c'), "q" + std::to_string(i), {"answer"}});
  const auto results = [&](int64_t together) {
    ModelScorer scorer(model, {.together = together});
    const PasskeyOptions passkey{.lengths = {256}, .trials = 5, .greedy = true};
    return std::vector<std::string>{
        to_json(to_eval_result(evaluate_passkey(scorer, prompts, *tokenizer, passkey), passkey, "passkey")),
        to_json(evaluate_tasks(scorer, *tokenizer, {.lengths = {400}, .trials = 5, .greedy = true})),
        to_json(evaluate_ruler(scorer, *tokenizer, {}, {.tasks = {"niah_single_1"}, .lengths = {1024}, .trials = 5})),
        to_json(evaluate_longbench(scorer, *tokenizer, items, {.window = 64, .max_new = 6}))};
  };
  const std::vector<std::string> together = results(0), alone = results(1), three = results(3);
  for (size_t i = 0; i < alone.size(); ++i) {
    CHECK(alone[i].size() > 200);
    CHECK(together[i] == alone[i]);
    CHECK(three[i] == alone[i]);
  }
}

TEST_CASE("Windows that cannot be scored say why") {
  const CausalLm model(tiny(), DType::f64, kCpu, 1);
  ModelScorer scorer(model);
  const auto message = [&](const ScoreWindow& w) { return test::error_of([&] { scorer.score({{w}}, 8); }); };
  CHECK(message({{}, 1}) == "[eval] a window to score is empty");
  CHECK(message({{1, 2}, 0}) == "[eval] scored tokens must begin in [1, 2], got 0");
  CHECK(message({{1, 50}, 1}) ==
        "[eval] token id 50 at 1 is outside the vocabulary of 50: do model and tokenizer belong together?");
}

TEST_CASE("stories260K gives llama2.c's loss of every token through the evaluator") {
  const std::string bin = test::shared_data("models/stories260K.bin"), folder = test::shared_data("llama2c");
  if (bin.empty() || folder.empty()) return;
  std::istringstream in(read_file(folder + "/stories260K_nll_p2_scale1.0.tsv"));
  std::string head;
  std::getline(in, head);
  std::vector<int32_t> ids = {1};  // BOS, which the file leaves out
  std::vector<double> want;
  int64_t position = 0;
  for (int32_t token = 0; ids.size() < 1024;) {
    double nll = 0;
    REQUIRE(static_cast<bool>(in >> position >> token >> nll));
    ids.push_back(token);
    want.push_back(nll);
  }
  const auto model = load_llama2c(bin);
  ModelScorer scorer(*model);
  // Two windows of unlike length in one batch: padding must not matter.
  const std::vector<ScoreWindow> windows = {{ids, 1}, {{ids.begin(), ids.begin() + 200}, 150}};
  const auto scores = scorer.score(windows, 1024);
  double largest = 0, sum = 0;
  for (size_t i = 0; i < want.size(); ++i) {
    largest = std::max(largest, std::abs(scores[0][i].nll - want[i]));
    sum += want[i];
  }
  CHECK(largest < 2e-4);
  for (size_t i = 0; i < scores[1].size(); ++i) CHECK(std::abs(scores[1][i].nll - want[149 + i]) < 2e-4);
  const TokenCorpus corpus({"p2"}, {{ids.begin() + 1, ids.end()}}, 512);
  const auto result = evaluate_perplexity(scorer, corpus, {.windows = {1024}, .bos = 1});
  CHECK(result.totals[0].nll == doctest::Approx(sum / static_cast<double>(want.size())).epsilon(1e-5));
}

TEST_CASE("books30m gives its oracle's loss per document, plain and under linear interpolation") {
  const std::string folder = test::shared_data("models/books30m");
  const std::string archive = test::shared_data("books/test.tar.xz");
  if (folder.empty() || archive.empty()) return;
  const auto oracle = nlohmann::json::parse(read_file(folder + "/eval_oracle.json"));
  // A document is 131,000 tokens to read, about a minute on two cores, a second on a GPU; ROPEWALK_SLOW_TESTS=N reads N
  // of the sixteen (at least two), and all of them under PI as well.
  const char* slow = std::getenv("ROPEWALK_SLOW_TESTS");
  const int64_t documents = slow ? std::clamp(std::atoi(slow), 2, 16) : 1;
  const test::TempDir books;
  std::vector<std::string> paths;
  std::string wanted;
  for (size_t i = 0; i < static_cast<size_t>(documents); ++i) {
    const std::string name = std::to_string(oracle["eval_book_ids"][i].get<int>()) + ".txt";
    wanted += " test/" + name;
    paths.push_back(books.path("test/" + name));
  }
  if (std::system("tar --version >/dev/null 2>&1 && xz --version >/dev/null 2>&1") != 0) {
    MESSAGE("SKIPPED: needs tar and xz to unpack " << archive);
    return;
  }
  REQUIRE(std::system(("tar -xJf '" + archive + "' -C '" + books.path() + "'" + wanted).c_str()) == 0);
  const auto tokenizer = load_tokenizer(folder);
  const TokenCorpus corpus = tokenize_corpus(load_corpus(paths), *tokenizer);
  // The same files under a config.json that asks for PI.
  const test::TempDir interpolating;
  for (const auto& file : std::filesystem::directory_iterator(folder))
    std::filesystem::create_symlink(std::filesystem::absolute(file), interpolating.path(file.path().filename()));
  auto config = nlohmann::json::parse(read_file(folder + "/config.json"));
  config["rope_scaling"] = {{"rope_type", "linear"}, {"factor", 8.0}};
  std::filesystem::remove(interpolating.path("config.json"));
  std::ofstream(interpolating.path("config.json")) << config;
#if defined(__SANITIZE_ADDRESS__) || defined(__SANITIZE_THREAD__)
  constexpr int64_t kTokens = 1024;  // the same code; an hour for all of them
  MESSAGE("SKIPPED: comparing with the oracle, under a sanitizer");
#else
  constexpr int64_t kTokens = 16384;  // of each document, as the oracle's
#endif
  const Device device = cuda_device_count() > 0 ? Device{DeviceType::cuda, 0} : kCpu;
  for (const bool interpolated : {false, true}) {
    const auto model = load_hf(interpolated ? interpolating.path() : folder, {.device = device});
    CHECK(model->config().rope.rope_type() == (interpolated ? "linear" : "default"));
    ModelScorer scorer(*model);
    const auto result = evaluate_perplexity(
        scorer, corpus, {.windows = {512}, .max_tokens = kTokens, .documents = documents, .bos = tokenizer->bos_id()});
    const auto& want = oracle["arms"][interpolated ? "zs-pi8" : "none"]["nll_doc"]["512"];
    for (size_t d = 0; d < result.rows.size(); ++d) {
      CHECK(result.rows[d].tokens == kTokens);
      if (kTokens < 16384) continue;
      MESSAGE("document " << result.rows[d].document << ": " << result.rows[d].nll() << ", oracle " << want[d]);
      CHECK(std::abs(result.rows[d].nll() - want[d].get<double>()) < 3e-3);
    }
    if (!slow) break;
  }
}
