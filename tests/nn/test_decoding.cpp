// Decoding several texts together, and with 8-bit weights.
#include <algorithm>
#include <cmath>
#include <cstdlib>

#include "autograd/ops/loss.h"
#include "autograd/tape.h"
#include "data/tokenizer.h"
#include "decoding.h"
#include "families.h"
#include "models.h"
#include "nn/decoder.h"
#include "nn/generate.h"
#include "nn/io/hf.h"
#include "support.h"
#include "tensor/file.h"
#include "tensor/threads.h"

using namespace rw;

namespace {

using test::filled, test::Ids, test::some_ids;

std::vector<double> doubles(const float* p, int64_t n) { return {p, p + n}; }

/// Prompts of unlike lengths.
std::vector<Ids> some_prompts(int64_t count, int64_t vocab) {
  std::vector<Ids> prompts;
  for (int64_t i = 0; i < count; ++i) prompts.push_back(some_ids(3 + 5 * i % 17, vocab, static_cast<uint64_t>(i)));
  return prompts;
}

/// Decodes `steps` tokens after each prompt, together and alone: calls f(logits together, logits alone, V). Text i sits
/// out step i.
template <class F>
void together_and_alone(const CausalLm& model, const std::vector<Ids>& prompts, int64_t steps, const F& f) {
  const int64_t vocab = model.config().vocab_size, texts = std::ssize(prompts);
  std::vector<KvCache> caches, single;
  for (const Ids& ids : prompts) {
    caches.push_back(filled(model, ids, 40));
    single.push_back(filled(model, ids, 40));
  }
  const auto batch = BatchDecoder::make(model, caches);
  std::vector<std::unique_ptr<Decoder>> alone;
  for (KvCache& cache : single) alone.push_back(Decoder::make(model, cache));
  for (int64_t step = 0; step < steps; ++step) {
    std::vector<BatchDecoder::Next> next;
    const Ids ids = some_ids(texts, vocab, 100 + static_cast<uint64_t>(step));
    for (int64_t i = texts - 1; i >= 0; --i) {
      if (i != step || texts == 1) next.push_back({.text = i, .id = ids[static_cast<size_t>(i)]});
    }
    const std::vector<float> all = batch->step(next);
    REQUIRE(std::ssize(all) == std::ssize(next) * vocab);
    for (size_t n = 0; n < next.size(); ++n) {
      const std::vector<float>& want = alone[static_cast<size_t>(next[n].text)]->step(next[n].id);
      f(all.data() + static_cast<int64_t>(n) * vocab, want.data(), vocab);
    }
  }
  for (size_t i = 0; i < caches.size(); ++i) CHECK(caches[i].length == single[i].length);
}

void check_bits(const CausalLm& model, int64_t texts) {
  CAPTURE(texts);
  bool same = true;
  together_and_alone(model, some_prompts(texts, model.config().vocab_size), 3,
                     [&](auto* got, auto* want, int64_t n) { same = same && std::equal(got, got + n, want); });
  CHECK(same);
}

}  // namespace

TEST_CASE("texts that are decoded together get the bits that each has alone, whatever their number") {
  for (const bool copied : {false, true}) {
    CausalLm model(test::golden_config(), DType::f32, kCpu, 3);
    if (copied) model.use_bf16_copy(true);
    for (const int64_t texts : {1, 2, 3, 4, 5, 7, 16}) check_bits(model, texts);
  }
  CausalLm model(test::golden_config(), DType::f32, kCpu, 3);
  model.round_to_int8();
  for (const int64_t texts : {1, 3, 4, 6, 16}) check_bits(model, texts);
}

TEST_CASE("so they do in every family, with any number of threads") {
  const int before = thread_count();
  for (const std::string& folder : test::family_folders()) {
    CAPTURE(test::name_of_folder(folder));
    const auto model = load_hf(folder);
    for (const int threads : {1, 3}) {
      set_thread_count(threads);
      check_bits(*model, 5);
    }
  }
  set_thread_count(before);
}

TEST_CASE("greedy decoding takes the likeliest token, the first of equals, with any number of threads") {
  ModelConfig c;  // large enough for four threads
  c.vocab_size = 15001, c.hidden_size = 72, c.intermediate_size = 200, c.num_hidden_layers = 2;
  c.num_attention_heads = 6, c.num_key_value_heads = 3, c.head_dim = 24;
  using Next = std::vector<BatchDecoder::Next>;
  const int before = thread_count();
  for (const int threads : {1, 2, 4}) {
    set_thread_count(threads);
    CausalLm model(c, DType::f32, kCpu, 1);
    const auto three_texts = [&] {
      std::vector<KvCache> caches;
      for (int text = 0; text < 3; ++text) caches.push_back(filled(model, some_ids(5 + text, c.vocab_size, 1), 20));
      return caches;
    };
    const auto likeliest = [&](const float* logits) {
      return static_cast<int32_t>(std::max_element(logits, logits + c.vocab_size) - logits);
    };
    std::vector<KvCache> alone = three_texts(), alone_too = three_texts(), caches = three_texts(),
                         others = three_texts();
    const auto greedy = Decoder::make(model, alone[0]), plain = Decoder::make(model, alone_too[0]);
    const auto batch = BatchDecoder::make(model, caches), plain_batch = BatchDecoder::make(model, others);
    const Ids next = some_ids(6, c.vocab_size, 2);
    for (const int32_t id : next) CHECK(greedy->greedy(id) == likeliest(plain->step(id).data()));
    const Next two = {{2, next[0]}, {0, next[1]}}, one = {{1, next[2]}};
    const std::vector<float> logits = plain_batch->step(two);
    CHECK(batch->greedy(two) == std::vector{likeliest(logits.data()), likeliest(logits.data() + c.vocab_size)});
    CHECK(batch->greedy(one) == std::vector{likeliest(plain_batch->step(one).data())});  // fewer texts than before

    for (size_t i = 0; i < model.arena().size(); ++i) model.arena()[i].value().fill(0);
    CHECK(greedy->greedy(next[0]) == 0);  // all logits are 0
    CHECK(batch->greedy(two) == std::vector<int32_t>{0, 0});
    for (size_t i = 0; i < model.arena().size(); ++i) model.arena()[i].value().fill(NAN);
    CHECK_THROWS_WITH_AS(greedy->greedy(next[0]), doctest::Contains("the largest logit is"), Error);
    CHECK_THROWS_WITH_AS(batch->greedy(two), doctest::Contains("the largest logit is"), Error);
  }
  set_thread_count(before);
}

TEST_CASE("without a decoder for the CPU, texts are decoded together by products of several rows") {
  CausalLm f64(test::golden_config(), DType::f64, kCpu, 4), f32(test::golden_config(), DType::f32, kCpu, 4),
      low(test::golden_config(), DType::bf16, kCpu, 4);
  const std::vector<Ids> prompts = some_prompts(5, f32.config().vocab_size);
  const auto steps_of = [&](const CausalLm& model) {
    std::vector<KvCache> caches;
    for (const Ids& ids : prompts) caches.push_back(filled(model, ids, 40));
    const auto batch = BatchDecoder::make(model, caches);
    batch->step(std::vector<BatchDecoder::Next>{{.text = 3, .id = 7}, {.text = 1, .id = 9}});
    const std::vector<float>& logits =
        batch->step(std::vector<BatchDecoder::Next>{{.text = 0, .id = 1}, {.text = 1, .id = 2}, {.text = 4, .id = 3}});
    CHECK(caches[1].length == std::ssize(prompts[1]) + 2);
    return doubles(logits.data(), std::ssize(logits));
  };
  CHECK(!BatchDecoder::exact(f64, f64.make_cache(1, 1)));
  CHECK(!BatchDecoder::exact(low, low.make_cache(1, 1)));
  REQUIRE(BatchDecoder::exact(f32, f32.make_cache(1, 1)));
  const std::vector<double> want = steps_of(f32);
  CHECK(test::relative_error(steps_of(f64), want) < 2e-6);
  CHECK(test::relative_error(steps_of(low), want) < 2e-2);
}

TEST_CASE("the same with the families' windows, norms and biases, and with log-n attention") {
  for (const std::string& folder : test::family_folders()) {
    CAPTURE(test::name_of_folder(folder));
    for (const bool logn : {false, true}) {
      const auto model = load_hf(folder, {.adjust = [&](ModelConfig& c) {
                                   if (logn) c.rope.logn = LogN::position;
                                 }});
      const int64_t vocab = model->config().vocab_size;
      const std::vector<Ids> prompts = some_prompts(4, vocab);
      std::vector<KvCache> caches, exact;
      std::vector<KvCache*> pointers;
      for (const Ids& ids : prompts) {
        caches.push_back(filled(*model, ids, 40));
        exact.push_back(filled(*model, ids, 40));
      }
      for (KvCache& cache : caches) pointers.push_back(&cache);
      const auto batch = BatchDecoder::make(*model, exact);
      const NoGrad no_grad;
      for (int32_t step = 0; step < 3; ++step) {
        std::vector<BatchDecoder::Next> next;
        for (int32_t i = 0; i < 4; ++i) next.push_back({.text = i, .id = 5 * step + i});
        const Ids ids = {5 * step, 5 * step + 1, 5 * step + 2, 5 * step + 3};
        const Tensor hidden = model->extend_each(Tensor::from(ids, {1, 4}), pointers);
        const std::vector<float>& want = batch->step(next);
        CHECK(test::relative_error(model->logits(hidden).value().to_vector(), doubles(want.data(), 4 * vocab)) < 2e-5);
      }
    }
  }
}

TEST_CASE("greedy texts are the same together and one after another, with more of them than places") {
  CausalLm model(test::golden_config(), DType::f32, kCpu, 5);
  std::vector<GreedyRequest> requests;
  for (int64_t i = 0; i < 21; ++i)
    requests.push_back({.prompt = some_ids(1 + 3 * i % 11, model.config().vocab_size, static_cast<uint64_t>(i)),
                        .tokens = i % 7 == 3 ? 0 : 2 + i % 9,
                        .stop = {}});
  std::vector<Ids> want;
  for (GreedyRequest& r : requests) {
    const auto alone = [&] {
      Ids ids;
      const GenerateOptions options{.tokens = r.tokens, .sampling = {.temperature = 0}, .stop = r.stop};
      generate(model, r.prompt, options, [&](int32_t id) {
        ids.push_back(id);
        return true;
      });
      return ids;
    };
    const Ids whole = alone();
    if (want.size() % 2 == 1 && whole.size() > 3) r.stop = {whole[whole.size() / 2]};
    want.push_back(alone());
  }
  for (const int64_t together : {0, 1, 2, 5, 16}) {
    CAPTURE(together);
    int64_t last = 0;
    CHECK(generate_greedy(model, requests, together, [&](int64_t n) { CHECK(n == ++last); }) == want);
    CHECK(last == std::ssize(requests));
  }
  CHECK(generate_greedy(model, {}).empty());
  ModelConfig dynamic = test::golden_config();  // no decoder: one after another
  dynamic.rope = rope_config_from_json(
      R"({"head_dim":16,"max_position_embeddings":8,"rope_scaling":{"rope_type":"dynamic","factor":2.0}})");
  const CausalLm other(dynamic, DType::f32, kCpu, 5);
  CHECK(generate_greedy(other, requests, 16).size() == requests.size());
  CHECK_THROWS_WITH_AS(generate_greedy(model, requests, 17), doctest::Contains("together must be in [0, 16]"), Error);
  requests[4].prompt = {};
  CHECK_THROWS_WITH_AS(generate_greedy(model, requests), doctest::Contains("the prompt is empty"), Error);
}

TEST_CASE("a batch decoder says what is wrong before it changes a cache") {
  const CausalLm model(test::golden_config(), DType::f32, kCpu, 5);
  std::vector<KvCache> caches = {filled(model, {1, 2}, 3), filled(model, {1, 2, 3}, 3)};
  const auto batch = BatchDecoder::make(model, caches);
  const auto error = [&](std::vector<BatchDecoder::Next> next) { return test::error_of([&] { batch->step(next); }); };
  CHECK(error({{.text = 0, .id = 1}, {.text = 0, .id = 1}}).find("named twice") != std::string::npos);
  CHECK(error({{.text = 0, .id = 1}, {.text = 2, .id = 1}}).find("text 2 is outside [0, 2)") != std::string::npos);
  CHECK(error({{.text = 0, .id = 1}, {.text = 1, .id = 1}}).find("text 1 is full") != std::string::npos);
  CHECK(error({{.text = 0, .id = 512}}).find("token id 512 is outside") != std::string::npos);
  CHECK(caches[0].length == 2);
  CHECK(batch->step({}).empty());
  std::vector<KvCache> many(17, caches[0]), none;
  CHECK_THROWS_WITH_AS(BatchDecoder::make(model, many), doctest::Contains("expected 1 to 16"), Error);
  CHECK_THROWS_WITH_AS(BatchDecoder::make(model, none), doctest::Contains("expected 1 to 16"), Error);
}

TEST_CASE("with int8 weights the decoder gives what extend gives with the rounded weights, near the model's own") {
  for (const std::string& folder : test::family_folders()) {
    CAPTURE(test::name_of_folder(folder));
    const auto model = load_hf(folder), rounded = load_hf(folder);
    use_int8_weights(*rounded);
    const int64_t vocab = model->config().vocab_size;
    const Ids prompt = some_ids(9, vocab, 1);
    KvCache own = filled(*model, prompt, 20), extended = filled(*rounded, prompt, 20),
            decoded = filled(*rounded, prompt, 20);
    const auto exact = Decoder::make(*model, own), decoder = Decoder::make(*rounded, decoded);
    const NoGrad no_grad;
    for (const int32_t id : some_ids(6, vocab, 2)) {
      const std::vector<float>& got = decoder->step(id);
      const Tensor want = rounded->logits(rounded->extend(Tensor::from(Ids{id}, {1, 1}), extended)).value();
      const std::vector<float>& unrounded = exact->step(id);
      CHECK(test::relative_error(doubles(got.data(), vocab), want.to_vector()) < 2e-5);
      const double off = test::relative_error(doubles(got.data(), vocab), doubles(unrounded.data(), vocab));
      // Weights are off by up to 1 / 254 of the largest of their 64. Random models show more of it than trained ones.
      CHECK(off < 0.1);
      CHECK(off > 1e-5);
    }
  }
}

TEST_CASE("rounding keeps the codes of what it writes, for tied and untied heads") {
  for (const bool tied : {false, true}) {
    ModelConfig config = test::golden_config();
    config.tie_word_embeddings = tied;
    CausalLm model(config, DType::f32, kCpu, 6);
    use_int8_weights(model);
    const auto meets = [](const BlockMatrix* codes, const Tensor& values) {
      REQUIRE(codes != nullptr);
      const Tensor from = Tensor::zeros(values.shape());
      dequantize(*codes, from);
      CHECK(from.to_vector() == values.to_vector());
    };
    meets(model.head_codes(), model.head().value());
    for (const Block& block : model.blocks()) {
      meets(block.attention().qkv().int8_codes(), block.attention().qkv().weight().value());
      meets(block.mlp().down().int8_codes(), block.mlp().down().weight().value());
    }
    CHECK(!model.use_bf16_copy(true));
    CHECK_THROWS_WITH_AS(model.enable_grad(), doctest::Contains("rounded to int8"), Error);
  }
}

TEST_CASE("int8 weights are refused by name where no decoder reads them") {
  const auto why = [](const ModelConfig& config, DType dtype) {
    CausalLm model(config, dtype, kCpu, 1);
    return test::error_of([&] { use_int8_weights(model); });
  };
  ModelConfig config = test::golden_config();
  CHECK(why(config, DType::bf16).find("computes in bf16 on the CPU") != std::string::npos);
  CHECK(why(config, DType::f64).find("computes in f64 on the CPU") != std::string::npos);
  config.rope = rope_config_from_json(
      R"({"head_dim":16,"max_position_embeddings":64,"rope_scaling":{"rope_type":"dynamic","factor":2.0}})");
  CHECK(why(config, DType::f32).find("rope_type dynamic does not keep rotated keys") != std::string::npos);
  config = test::golden_config();
  config.adapter = AdapterDescription{};
  CHECK(why(config, DType::f32).find("adapters") != std::string::npos);
}

TEST_CASE("books30m with int8 weights has the same perplexity within 2e-3 nats and the same likeliest token in 98 %") {
  const std::string folder = test::shared_data("models/books30m"), archive = test::shared_data("books/test.tar.xz");
  if (folder.empty() || archive.empty()) return;
  const test::TempDir books;
  if (std::system(("tar -xJf '" + archive + "' -C '" + books.path() + "' test/2544.txt 2>/dev/null").c_str()) != 0) {
    MESSAGE("SKIPPED: needs tar and xz to unpack " << archive);
    return;
  }
  const auto tokenizer = load_tokenizer(folder);
  const Ids ids = tokenizer->encode(read_file(books.path("test/2544.txt")));
  const auto model = load_hf(folder), rounded = load_hf(folder);
  use_int8_weights(*rounded);
  const int64_t windows = 8, length = 512, vocab = model->config().vocab_size;
  REQUIRE(std::ssize(ids) > (windows + 2) * length);
  const NoGrad no_grad;
  double nll[2] = {};
  int64_t same = 0;
  for (int64_t w = 1; w <= windows; ++w) {
    const auto from = [&](int64_t first) {
      return Tensor::from(Ids(ids.begin() + first, ids.begin() + first + length), {1, length});
    };
    const Tensor input = from(w * length), targets = from(w * length + 1);
    std::vector<double> logits[2];
    for (const int i : {0, 1}) {
      const CausalLm& m = i ? *rounded : *model;
      const RopeAngles angles = m.angles(m.plain_positions(0, length), {});
      const Var hidden = m.forward(input, angles);
      const Tensor rows = m.logits(hidden).value().view({length, vocab});
      for (const double x : cross_entropy(rows, targets.view({length}), Reduction::none).value().to_vector())
        nll[i] += x / static_cast<double>(windows * length);
      logits[i] = rows.to_vector();
    }
    for (int64_t t = 0; t < length; ++t) {
      const auto best = [&](const std::vector<double>& l) {
        return std::max_element(l.begin() + t * vocab, l.begin() + (t + 1) * vocab) - l.begin();
      };
      same += best(logits[0]) == best(logits[1]);
    }
  }
  std::vector<GreedyRequest> requests;
  for (int64_t i = 0; i < 16; ++i)
    requests.push_back({.prompt = Ids(ids.begin() + 600 * i, ids.begin() + 600 * i + 64), .tokens = 48});
  const std::vector<Ids> texts = generate_greedy(*model, requests), others = generate_greedy(*rounded, requests);
  int64_t whole = 0, agreed = 0;
  for (size_t i = 0; i < texts.size(); ++i) {
    const auto until = std::mismatch(texts[i].begin(), texts[i].end(), others[i].begin()).first - texts[i].begin();
    whole += until == 48;
    agreed += until;
  }
  const double share = static_cast<double>(same) / static_cast<double>(windows * length);
  MESSAGE("perplexity " << std::exp(nll[0]) << ", int8 " << std::exp(nll[1]) << "; the same most likely token after "
                        << 100 * share << " % of " << windows * length << "; of 16 greedy texts of 48 tokens " << whole
                        << " are the same, and " << static_cast<double>(agreed) / 16 << " tokens on average");
  CHECK(std::abs(nll[1] - nll[0]) < 2e-3);
  CHECK(share > 0.98);
}
